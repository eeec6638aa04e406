"""Data files: what is copied by the kernel or shared, shards, digests and progress while writing."""

from __future__ import annotations

import errno
import hashlib
import os
import struct
from collections.abc import Mapping
from pathlib import Path

import numpy as np
import onnx
import onnx_ir as ir
import pytest
from saving import outputs, posix, raiser, with_weight

from onnxgrow.errors import EnvironmentFault, UsageError
from onnxgrow.io import Seal, load, model_digest, save, stage


@pytest.mark.parametrize("code", [errno.EXDEV, errno.EINVAL, errno.EOPNOTSUPP])
def test_where_the_kernel_cannot_copy_the_bytes_are_written(
    tmp_path: Path, mlp: onnx.ModelProto, monkeypatch: pytest.MonkeyPatch, code: int
) -> None:
    source = save(with_weight(mlp), tmp_path / "s.onnx", external_data=True)
    plain = save(load(source).model, tmp_path / "plain.onnx", external_data=True)
    if hasattr(os, "copy_file_range"):
        monkeypatch.setattr(os, "copy_file_range", raiser(code))
    other = save(load(source).model, tmp_path / "other.onnx", external_data=True)
    assert model_digest(load(other)) == model_digest(load(plain)) == model_digest(load(source))


@posix
def test_a_source_that_was_replaced_meanwhile_is_copied_from_what_was_loaded(
    tmp_path: Path, mlp: onnx.ModelProto
) -> None:
    """Copying by name would take bytes of another file."""
    source = save(with_weight(mlp), tmp_path / "s.onnx", external_data=True)
    model = load(source).model
    expected = model_digest(model)
    [data] = tmp_path.glob("*.data")
    other = tmp_path / "other"
    other.write_bytes(bytes(data.stat().st_size))
    other.replace(data)
    assert model_digest(load(save(model, tmp_path / "m.onnx", external_data=True))) == expected
    assert model_digest(load(source)) != expected


@posix
def test_unchanged_data_is_shared_where_the_file_system_can(
    tmp_path: Path, mlp: onnx.ModelProto, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The ioctl is played by a copy here: few file systems of test machines know it."""
    source = save(with_weight(mlp), tmp_path / "s.onnx", external_data=True)
    asked: list[int] = []

    def clone(target: int, request: int, argument: bytes) -> int:
        assert request == 0x4020940D
        origin, offset, count, position = struct.unpack("qQQQ", argument)
        assert offset % 4096 == count % 4096 == position % 4096 == 0
        asked.append(count)
        return os.pwrite(target, os.pread(origin, count, offset), position)

    monkeypatch.setattr("onnxgrow.io.sink.fcntl.ioctl", clone)
    with stage(load(source).model, tmp_path / "m.onnx", external_data=True) as staged:
        assert staged.linked == 0
    with stage(load(source).model, tmp_path / "m.onnx", external_data=True, link_unchanged=True) as staged:
        assert staged.linked == sum(asked) == 600 * 500 * 4 // 4096 * 4096
        path = staged.commit()
    assert model_digest(load(path)) == model_digest(load(source))


@posix
def test_where_nothing_can_be_shared_it_is_copied(
    tmp_path: Path, mlp: onnx.ModelProto, monkeypatch: pytest.MonkeyPatch
) -> None:
    source = save(with_weight(mlp), tmp_path / "s.onnx", external_data=True)
    monkeypatch.setattr("onnxgrow.io.sink.fcntl.ioctl", raiser(errno.EOPNOTSUPP))
    path = save(load(source).model, tmp_path / "m.onnx", external_data=True, link_unchanged=True)
    assert model_digest(load(path)) == model_digest(load(source))
    monkeypatch.setattr("onnxgrow.io.sink.fcntl.ioctl", raiser(errno.EIO))
    with pytest.raises(EnvironmentFault):
        save(load(source).model, tmp_path / "n.onnx", external_data=True, link_unchanged=True)


def test_data_is_divided_into_files_of_the_size_asked_for(tmp_path: Path, mlp: onnx.ModelProto) -> None:
    model = with_weight(mlp)
    for i in range(5):
        values = np.full((100, 100), i, np.float32)
        model.graph.register_initializer(ir.Value(name=f"part{i}", const_value=ir.tensor(values)))
    path = save(model, tmp_path / "m.onnx", max_shard_size=100_000)
    sizes = sorted(p.stat().st_size for p in tmp_path.glob("m-*.data"))
    assert len(sizes) == 4
    assert all(s <= 100_000 for s in sizes[:-1])
    assert sizes[-1] == 600 * 500 * 4, "a tensor larger than a shard has a file of its own"
    assert model_digest(load(path)) == model_digest(model)
    assert np.isfinite(outputs(path)[0]).all()
    save(model, path, overwrite=True, external_data=False)
    assert [p.name for p in tmp_path.iterdir()] == ["m.onnx"]


def test_equal_shards_are_one_file(tmp_path: Path, mlp: onnx.ModelProto) -> None:
    model = load(mlp).model
    for i in range(3):
        values = np.zeros((100, 100), np.float32)
        model.graph.register_initializer(ir.Value(name=f"part{i}", const_value=ir.tensor(values)))
    path = save(model, tmp_path / "m.onnx", max_shard_size=40_000)
    assert len(list(tmp_path.glob("m-*.data"))) == 1
    assert model_digest(load(path)) == model_digest(model)


@pytest.mark.parametrize(("size", "external"), [(0, None), (-1, True), (100, False)])
def test_shard_sizes_that_cannot_be_are_refused(
    tmp_path: Path, mlp: onnx.ModelProto, size: int, external: bool | None
) -> None:
    with pytest.raises(UsageError, match="shard size"):
        save(load(mlp).model, tmp_path / "m.onnx", max_shard_size=size, external_data=external)
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("external", [False, True])
def test_metadata_may_wait_for_the_digests_of_what_is_written(
    tmp_path: Path, mlp: onnx.ModelProto, external: bool
) -> None:
    model = with_weight(mlp)
    given: dict[str, str] = {}

    def finish(digests: Mapping[str, str]) -> Mapping[str, str]:
        given.update(digests)
        return {"first": "1", "digest": digests["large"]}

    seal = Seal({"large"}, {"first": "1", "digest": "0" * 64}, finish)
    with stage(model, tmp_path / "m.onnx", external_data=external, seal=seal) as staged:
        written = load(staged.commit()).model
    assert dict(written.metadata_props) == {"first": "1", "digest": given["large"]}
    tensor = written.graph.initializers["large"].const_value
    assert tensor is not None
    assert given["large"] == hashlib.sha256(tensor.tobytes()).hexdigest()


def test_progress_is_told_in_bytes(tmp_path: Path, mlp: onnx.ModelProto) -> None:
    for external in (False, True):
        told: list[tuple[int, int]] = []
        save(
            with_weight(mlp),
            tmp_path / f"{external}.onnx",
            external_data=external,
            progress=lambda done, total, told=told: told.append((done, total)),  # type: ignore[misc] # bound now
        )
        assert [d for d, _ in told] == sorted(d for d, _ in told)
        assert told[-1][0] == told[-1][1] >= 600 * 500 * 4
