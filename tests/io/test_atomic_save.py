"""Saving: whole or not at all, the same bytes each time, and nothing left behind."""

from __future__ import annotations

import errno
import hashlib
import os
import signal
import stat
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import suppress
from pathlib import Path

import numpy as np
import onnx
import onnx_ir as ir
import pytest
from saving import content, outputs, posix, raiser, with_weight

from onnxgrow.errors import BadInputError, EnvironmentFault, UnsupportedError, UsageError
from onnxgrow.io import Staged, load, model_digest, save, save_bytes, stage
from onnxgrow.io.tensors import Buffer, blocks


@pytest.mark.parametrize("external", [False, True])
def test_a_saved_model_loads_as_the_same_model(tmp_path: Path, mlp: onnx.ModelProto, external: bool) -> None:
    model = with_weight(mlp)
    path = save(model, tmp_path / "m.onnx", external_data=external)
    onnx.checker.check_model(str(path))
    assert model_digest(load(path)) == model_digest(model)
    assert len(list(tmp_path.iterdir())) == 1 + external
    assert np.isfinite(outputs(path)[0]).all()


@pytest.mark.parametrize("external", [False, True])
def test_the_same_model_gives_the_same_bytes(tmp_path: Path, mlp: onnx.ModelProto, external: bool) -> None:
    model = with_weight(mlp)
    folders = [tmp_path / name for name in "ab"]
    for folder in folders:
        folder.mkdir()
        save(load(save(model, folder / "x.onnx")).model, folder / "m.onnx", external_data=external)
    assert content(folders[0]) == content(folders[1])


def test_saving_what_was_saved_gives_the_same_bytes(tmp_path: Path, mlp: onnx.ModelProto) -> None:
    path = save(with_weight(mlp), tmp_path / "m.onnx", external_data=True)
    before = content(tmp_path)
    save(load(path).model, path, external_data=True, overwrite=True)
    assert content(tmp_path) == before


def test_bytes_equal_those_of_the_file(tmp_path: Path, mlp: onnx.ModelProto) -> None:
    model = with_weight(mlp)
    assert save(model, tmp_path / "m.onnx").read_bytes() == save_bytes(model)


def test_large_tensors_are_aligned_and_small_ones_stay_inside(tmp_path: Path, mlp: onnx.ModelProto) -> None:
    model = with_weight(mlp)
    model.graph.initializers["w1"].const_value = ir.tensor(np.ones((4, 100), np.float32))
    path = save(model, tmp_path / "m.onnx", external_data=True)
    proto = onnx.load(path, load_external_data=False)
    entries = {t.name: {e.key: e.value for e in t.external_data} for t in proto.graph.initializer}
    assert entries["b1"] == {}
    assert int(entries["w1"]["offset"]) % 64 == 0
    assert int(entries["large"]["offset"]) % 65536 == 0
    data = (tmp_path / entries["large"]["location"]).read_bytes()
    places = sorted((int(e["offset"]), int(e["length"])) for e in entries.values() if e)
    lines = [f"{at} {n} {hashlib.sha256(data[at : at + n]).hexdigest()}\n" for at, n in places]
    digest = hashlib.sha256("".join(lines).encode()).hexdigest()
    assert entries["large"]["location"] == f"m-{digest[:16]}.data"


def test_a_staged_model_runs_before_it_is_in_place(tmp_path: Path, mlp: onnx.ModelProto) -> None:
    with stage(with_weight(mlp), tmp_path / "m.onnx", external_data=True) as staged:
        assert len(staged.data_paths) == 1
        expected = outputs(staged.path)
        assert not (tmp_path / "m.onnx").exists()
        path = staged.commit()
    for a, b in zip(outputs(path), expected, strict=True):
        np.testing.assert_array_equal(a, b)


def test_what_is_not_committed_leaves_nothing(tmp_path: Path, mlp: onnx.ModelProto) -> None:
    with stage(with_weight(mlp), tmp_path / "m.onnx", external_data=True):
        pass
    stage(with_weight(mlp), tmp_path / "m.onnx").discard()
    assert list(tmp_path.iterdir()) == []


def test_a_staged_model_commits_once(tmp_path: Path, mlp: onnx.ModelProto) -> None:
    staged = stage(load(mlp).model, tmp_path / "m.onnx")
    staged.commit()
    with pytest.raises(UsageError, match="already committed"):
        staged.commit()


def test_an_existing_file_is_not_replaced_unasked(tmp_path: Path, mlp: onnx.ModelProto) -> None:
    target = tmp_path / "m.onnx"
    target.write_bytes(b"mine")
    with pytest.raises(UsageError, match="exists"):
        stage(load(mlp).model, target)
    assert content(tmp_path) == {"m.onnx": hashlib.sha256(b"mine").hexdigest()}


@pytest.mark.parametrize("links", [True, False])
def test_a_file_that_appears_meanwhile_is_not_replaced(
    tmp_path: Path, mlp: onnx.ModelProto, monkeypatch: pytest.MonkeyPatch, links: bool
) -> None:
    if not links:
        monkeypatch.setattr(os, "link", raiser(errno.EPERM))
    staged = stage(with_weight(mlp), tmp_path / "m.onnx", external_data=True)
    (tmp_path / "m.onnx").write_bytes(b"mine")
    with pytest.raises(UsageError, match="exists"):
        staged.commit()
    assert content(tmp_path) == {"m.onnx": hashlib.sha256(b"mine").hexdigest()}


def test_without_hard_links_a_new_file_is_still_written(
    tmp_path: Path, mlp: onnx.ModelProto, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(os, "link", raiser(errno.EPERM))
    assert model_digest(load(save(load(mlp).model, tmp_path / "m.onnx"))) == model_digest(load(mlp))


@posix
def test_a_symbolic_link_is_followed_only_on_request(tmp_path: Path, mlp: onnx.ModelProto) -> None:
    (tmp_path / "deep").mkdir()
    real, link = tmp_path / "deep" / "real.onnx", tmp_path / "m.onnx"
    real.write_bytes(b"old")
    link.symlink_to(real)
    with pytest.raises(UsageError, match="symbolic link"):
        save(load(mlp).model, link, overwrite=True)
    assert real.read_bytes() == b"old"
    assert save(load(mlp).model, link, overwrite=True, follow_symlink=True) == real
    assert link.is_symlink()
    assert model_digest(load(link)) == model_digest(load(mlp))


@pytest.mark.parametrize("name", ["missing/m.onnx", "folder"])
def test_destinations_that_cannot_be_are_refused(tmp_path: Path, mlp: onnx.ModelProto, name: str) -> None:
    (tmp_path / "folder").mkdir()
    with pytest.raises(UsageError):
        save(load(mlp).model, tmp_path / name, overwrite=True)


@posix
def test_modes_follow_the_umask_or_the_replaced_file(tmp_path: Path, mlp: onnx.ModelProto) -> None:
    old = os.umask(0o027)
    try:
        path = save(with_weight(mlp), tmp_path / "m.onnx", external_data=True)
        modes = {stat.S_IMODE(p.stat().st_mode) for p in tmp_path.iterdir()}
        assert modes == {0o640}
        path.chmod(0o604)
        save(with_weight(mlp, 1), path, external_data=True, overwrite=True)
        assert {stat.S_IMODE(p.stat().st_mode) for p in tmp_path.iterdir()} == {0o604}
    finally:
        os.umask(old)


def test_the_data_file_of_the_replaced_model_goes(tmp_path: Path, mlp: onnx.ModelProto) -> None:
    path = save(with_weight(mlp), tmp_path / "m.onnx", external_data=True)
    first = {p.name for p in tmp_path.iterdir()}
    save(with_weight(mlp, 1), path, external_data=True, overwrite=True)
    second = {p.name for p in tmp_path.iterdir()}
    assert len(second) == 2
    assert first & second == {"m.onnx"}
    save(with_weight(mlp), path, overwrite=True)
    assert {p.name for p in tmp_path.iterdir()} == {"m.onnx"}


def test_data_files_of_others_stay(tmp_path: Path, mlp: onnx.ModelProto) -> None:
    path = save(with_weight(mlp), tmp_path / "m.onnx", external_data=True)
    (tmp_path / "backup.onnx.bak").write_bytes(path.read_bytes())
    stranger = tmp_path / f"m-{'0' * 16}.data"
    stranger.write_bytes(b"not ours")
    save(with_weight(mlp, 1), path, overwrite=True)
    assert len(list(tmp_path.glob("m-*.data"))) == 2
    assert stranger.exists()


def test_a_model_may_be_saved_over_its_own_source(tmp_path: Path, mlp: onnx.ModelProto) -> None:
    path = save(with_weight(mlp), tmp_path / "m.onnx", external_data=True)
    model = load(path).model
    model.doc_string = "second"
    model.graph.initializers["w1"].const_value = ir.tensor(np.zeros((4, 5), np.float32))
    digest = model_digest(model)
    assert model_digest(load(save(model, path, external_data=True, overwrite=True))) == digest


FALLIBLE = ("open", "mkdir", "write", "copy_file_range", "fchmod", "fsync", "replace", "rename")


class Faulty:
    """``os`` as the package sees it, of which one call fails."""

    def __init__(self, patch: pytest.MonkeyPatch, failing: int, code: int) -> None:
        self.calls: list[str] = []
        self.failing, self.code = failing, code
        for name in FALLIBLE:
            if hasattr(os, name):
                patch.setattr(os, name, self._wrapped(name, getattr(os, name)))

    def _wrapped(self, name: str, real: Callable[..., object]) -> Callable[..., object]:
        def call(*args: object, **kwargs: object) -> object:
            self.calls.append(name)
            if len(self.calls) - 1 == self.failing:
                raise OSError(self.code, os.strerror(self.code))
            return real(*args, **kwargs)

        return call


@posix
@pytest.mark.parametrize("shard_size", [None, 1 << 20], ids=["one file", "shards"])
@pytest.mark.parametrize("code", [errno.ENOSPC, errno.EIO], ids=["full", "broken"])
def test_a_fault_at_any_call_leaves_the_old_output_or_the_new_one(
    tmp_path: Path, mlp: onnx.ModelProto, monkeypatch: pytest.MonkeyPatch, code: int, shard_size: int | None
) -> None:
    """Every open, write, sync and rename fails once. What fails after the commit point is no failure any more."""
    path = save(with_weight(mlp), tmp_path / "m.onnx", external_data=True)
    source = tmp_path / "source"
    source.mkdir()
    model = load(save(with_weight(mlp, 1), source / "m.onnx", external_data=True)).model
    model.graph.register_initializer(ir.Value(name="computed", const_value=ir.tensor(np.ones((300, 300), np.float32))))
    before, old = content(tmp_path), {p.name: p.read_bytes() for p in tmp_path.iterdir() if p.is_file()}
    with monkeypatch.context() as patch:
        total = Faulty(patch, -1, code)
        save(model, path, external_data=True, overwrite=True, max_shard_size=shard_size)
    assert {"write", "copy_file_range", "fsync", "replace", "mkdir", "open"} <= set(total.calls)
    after = content(tmp_path)
    assert after != before
    outcomes = set()
    for failing, name in enumerate(total.calls):
        for entry in tmp_path.iterdir():
            if entry.is_file():
                entry.unlink()
        for name_, data in old.items():
            (tmp_path / name_).write_bytes(data)
        with monkeypatch.context() as patch:
            Faulty(patch, failing, code)
            try:
                save(model, path, external_data=True, overwrite=True, max_shard_size=shard_size)
            except EnvironmentFault:
                assert content(tmp_path) == before, f"call {failing}, {name}"
                outcomes.add("refused")
            else:
                assert model_digest(load(path)) == model_digest(model)
                outcomes.add("written")
        assert [p.name for p in tmp_path.iterdir() if p.is_dir()] == ["source"], f"call {failing}, {name}"
    assert "refused" in outcomes


@pytest.mark.skipif(not hasattr(os, "fdatasync"), reason="this system has none")
@pytest.mark.parametrize("external", [False, True])
def test_a_fault_of_the_disk_while_writing_goes_on_is_told(
    tmp_path: Path, mlp: onnx.ModelProto, monkeypatch: pytest.MonkeyPatch, external: bool
) -> None:
    """The disk works along while a large file is written; the kernel tells a fault to that sync and to no later one."""
    path = save(with_weight(mlp), tmp_path / "m.onnx", external_data=external)
    before = content(tmp_path)
    monkeypatch.setattr("onnxgrow.io.sink._DIRTY", 1 << 18)
    calls: list[int] = []

    def sync(descriptor: int, fault: OSError | None = None) -> None:
        calls.append(descriptor)
        if fault is not None:
            raise fault

    monkeypatch.setattr(os, "fdatasync", lambda descriptor: sync(descriptor, OSError(errno.EIO, "broken")))
    with pytest.raises(EnvironmentFault):
        save(with_weight(mlp, 1), path, external_data=external, overwrite=True)
    assert calls
    assert content(tmp_path) == before
    assert len(list(tmp_path.iterdir())) == 1 + external
    monkeypatch.setattr(os, "fdatasync", sync)
    save(with_weight(mlp, 1), path, external_data=external, overwrite=True)
    assert model_digest(load(path)) == model_digest(with_weight(mlp, 1))


@posix
def test_a_full_disk_leaves_the_old_output(tmp_path: Path, mlp: onnx.ModelProto) -> None:
    import resource

    path = save(with_weight(mlp), tmp_path / "m.onnx")
    before = content(tmp_path)
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    previous = signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
    try:
        resource.setrlimit(resource.RLIMIT_FSIZE, (300_000, hard))
        for external in (False, True):
            with pytest.raises(EnvironmentFault):
                save(with_weight(mlp, 1), path, external_data=external, overwrite=True)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
        signal.signal(signal.SIGXFSZ, previous)
    assert content(tmp_path) == before
    assert len(list(tmp_path.iterdir())) == 1


@pytest.mark.parametrize("external", [False, True])
def test_a_lazy_tensor_that_fails_leaves_nothing(tmp_path: Path, mlp: onnx.ModelProto, external: bool) -> None:
    model = with_weight(mlp)

    def fail() -> ir.TensorProtocol:
        raise KeyboardInterrupt

    model.graph.initializers["large"].const_value = ir.LazyTensor(fail, ir.DataType.FLOAT, ir.Shape([600, 500]))
    with pytest.raises(KeyboardInterrupt):
        save(model, tmp_path / "m.onnx", external_data=external)
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("external", [False, True])
def test_a_lazy_tensor_of_another_shape_is_refused(tmp_path: Path, mlp: onnx.ModelProto, external: bool) -> None:
    model = with_weight(mlp)
    wrong = ir.tensor(np.zeros((600, 499), np.float32))
    model.graph.initializers["large"].const_value = ir.LazyTensor(
        lambda: wrong, ir.DataType.FLOAT, ir.Shape([600, 500])
    )
    with pytest.raises(BadInputError, match="lazy tensor"):
        save(model, tmp_path / "m.onnx", external_data=external)
    assert list(tmp_path.iterdir()) == []


def test_lazy_tensors_are_evaluated_one_at_a_time(tmp_path: Path, mlp: onnx.ModelProto) -> None:
    model = with_weight(mlp)
    alive: list[int] = [0, 0]

    class Counted(np.ndarray):  # type: ignore[type-arg] # only counts
        def __del__(self) -> None:
            alive[0] -= 1

    def make() -> ir.TensorProtocol:
        alive[0] += 1
        alive[1] = max(alive)
        return ir.Tensor(np.zeros((600, 500), np.float32).view(Counted), dtype=ir.DataType.FLOAT)

    for i in range(4):
        tensor = ir.LazyTensor(make, ir.DataType.FLOAT, ir.Shape([600, 500]))
        value = ir.Value(name=f"lazy{i}", const_value=tensor)
        model.graph.register_initializer(value)
    path = save(model, tmp_path / "m.onnx", external_data=True)
    assert alive[1] <= 2  # the last one and the next
    assert len(load(path).model.graph.initializers) == 9


def test_blocks_are_no_larger_than_asked_and_complete(tmp_path: Path, mlp: onnx.ModelProto) -> None:
    path = save(with_weight(mlp), tmp_path / "m.onnx", external_data=True)
    for source in (load(path), load(onnx.load(path))):
        tensor = source.model.graph.initializers["large"].const_value
        assert tensor is not None
        parts = list(blocks(tensor, 1000))
        assert max(len(part) for part in parts) == 1000
        assert b"".join(parts) == tensor.tobytes()


def test_a_tensor_may_give_its_blocks_itself(tmp_path: Path, mlp: onnx.ModelProto) -> None:
    model = with_weight(mlp)
    row = np.arange(500, dtype=np.float32)

    class Rows(ir.LazyTensor):
        def raw_blocks(self, size: int) -> Iterator[Buffer]:
            for _ in range(600):
                yield row.tobytes()

    def never() -> ir.TensorProtocol:
        raise AssertionError("evaluated as a whole")

    model.graph.initializers["large"].const_value = Rows(never, ir.DataType.FLOAT, ir.Shape([600, 500]))
    path = save(model, tmp_path / "m.onnx", external_data=True)
    tensor = load(path).model.graph.initializers["large"].const_value
    assert tensor is not None
    np.testing.assert_array_equal(tensor.numpy(), np.tile(row, (600, 1)))


def _claims_three_gigabytes() -> ir.LazyTensor:
    def never() -> ir.TensorProtocol:
        raise AssertionError("evaluated before the size was judged")

    return ir.LazyTensor(never, ir.DataType.FLOAT, ir.Shape([750_000, 1000]))


def test_more_than_two_gigabytes_are_refused_inline_before_any_weight_is_read(
    tmp_path: Path, mlp: onnx.ModelProto
) -> None:
    model = with_weight(mlp)
    model.graph.initializers["large"].const_value = _claims_three_gigabytes()
    with pytest.raises(UnsupportedError, match=r"3\.00 GB"):
        save_bytes(model)
    with pytest.raises(UnsupportedError, match=r"3\.00 GB"):
        save(model, tmp_path / "m.onnx", external_data=False)
    assert list(tmp_path.iterdir()) == []


_WRITER = """
import sys
from onnxgrow.io import load, stage

source, target, count, label = sys.argv[1:]
model = load(source).model
model.doc_string = label
for _ in range(int(count)):
    staged = stage(model, target, external_data=True, overwrite=True)
    if label == "hang":
        print("staged", flush=True)
        sys.stdin.read()
    staged.commit()
"""


def _writer(source: Path, target: Path, count: int, label: str) -> subprocess.Popen[bytes]:
    command = [sys.executable, "-c", _WRITER, str(source), str(target), str(count), label]
    environment = {**os.environ, "PYTHONPATH": str(Path(__file__).parents[2])}
    return subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, env=environment)


@posix
def test_leavings_of_a_killed_writer_are_swept_those_of_a_live_one_not(tmp_path: Path, mlp: onnx.ModelProto) -> None:
    source = tmp_path / "source"
    source.mkdir()
    save(with_weight(mlp), source / "s.onnx")
    folder = tmp_path / "out"
    folder.mkdir()
    writer = _writer(source / "s.onnx", folder / "m.onnx", 1, "hang")
    try:
        assert writer.stdout is not None
        assert writer.stdout.readline() == b"staged\n"
        [left] = folder.iterdir()
        save(load(mlp).model, folder / "other.onnx")
        assert left.exists()
    finally:
        writer.kill()
        writer.wait()
    assert left.exists()
    save(load(mlp).model, folder / "other2.onnx")
    assert {p.name for p in folder.iterdir()} == {"other.onnx", "other2.onnx"}
    writer.stdout.close()
    assert writer.stdin is not None
    writer.stdin.close()


def test_own_unfinished_work_is_not_swept(tmp_path: Path, mlp: onnx.ModelProto) -> None:
    first: Staged = stage(load(mlp).model, tmp_path / "a.onnx")
    os.utime(first.path.parent, (time.time() - 10**6,) * 2)
    save(load(mlp).model, tmp_path / "b.onnx")
    assert first.commit().exists()


@posix
def test_concurrent_writers_leave_one_whole_model(tmp_path: Path, mlp: onnx.ModelProto) -> None:
    sources = []
    for seed in (1, 2):
        folder = tmp_path / f"s{seed}"
        folder.mkdir()
        sources.append(save(with_weight(mlp, seed, 300), folder / "s.onnx"))
    out = tmp_path / "out"
    out.mkdir()
    target = out / "m.onnx"
    writers = [_writer(source, target, 8, f"w{i}") for i, source in enumerate(sources)]
    seen = 0
    try:
        while any(writer.poll() is None for writer in writers):
            # Not there yet, or the reader was overtaken between the two files: noticed, never a mixture.
            with suppress(BadInputError):
                load(target)
                seen += 1
    finally:
        for writer in writers:
            writer.communicate()
    assert [writer.returncode for writer in writers] == [0, 0]
    assert seen
    final = load(target).model
    expected = load(sources[int((final.doc_string or "w0")[1])]).model
    expected.doc_string = final.doc_string
    assert model_digest(final) == model_digest(expected)
    assert len(list(out.iterdir())) == 2
