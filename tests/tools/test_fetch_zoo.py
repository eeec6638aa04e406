"""Fetching models: digests decide, archives come once, nothing half-done stays, failures are counted."""

from __future__ import annotations

import hashlib
import importlib.util
import io
import json
import os
import re
import sys
import tarfile
import zipfile
from collections.abc import Callable
from pathlib import Path

import pytest

from tools import fetch_zoo
from tools.fetch_zoo import Entry, FetchError, fetch, fetch_each, load_manifest

MODEL = b"the bytes of a model"
OTHER = b"the bytes of another model"


def sha(data: bytes) -> str:
    return hashlib.sha256(data).hexdigest()


def wheel(members: dict[str, bytes]) -> bytes:
    out = io.BytesIO()
    with zipfile.ZipFile(out, "w") as z:
        for name, data in members.items():
            z.writestr(name, data)
    return out.getvalue()


def tarball(members: dict[str, bytes]) -> bytes:
    out = io.BytesIO()
    with tarfile.open(fileobj=out, mode="w:gz") as t:
        for name, data in members.items():
            info = tarfile.TarInfo(name)
            info.size = len(data)
            t.addfile(info, io.BytesIO(data))
    return out.getvalue()


ZOO_WHEEL = wheel({"zoo/a.onnx": MODEL, "zoo/b.onnx": OTHER})


def entry(name: str = "a", **changes: object) -> Entry:
    facts: dict[str, object] = {
        "client": "pip",
        "package": "zoo",
        "version": "1.0",
        "archive": "zoo-1.0-py3-none-any.whl",
        "archive_sha256": sha(ZOO_WHEEL),
        "path_in_package": f"zoo/{name}.onnx",
        "sha256": sha({"b": OTHER}.get(name, MODEL)),
        "bytes": len(MODEL),
        "license": "MIT",
    }
    return Entry(name=name, **{**facts, **changes})  # type: ignore[arg-type]  # facts overridden by name


class Shelf:
    """A downloader that hands out the same bytes and counts how often it was asked."""

    def __init__(self, data: bytes = ZOO_WHEEL) -> None:
        self.data = data
        self.calls = 0

    def __call__(self, wanted: Entry, folder: Path) -> Path:
        self.calls += 1
        path = folder / wanted.archive
        path.write_bytes(self.data)
        return path


def manifest_of(tmp_path: Path, *entries: Entry) -> Path:
    path = tmp_path / "manifest.json"
    path.write_text(json.dumps([vars(e) for e in entries]))
    return path


def test_the_models_of_one_archive_cost_one_download(tmp_path: Path) -> None:
    shelf = Shelf()
    manifest = manifest_of(tmp_path, entry("a"), entry("b"))
    paths = fetch(None, tmp_path / "cache", manifest=manifest, get=shelf)
    assert {name: path.read_bytes() for name, path in paths.items()} == {"a": MODEL, "b": OTHER}
    assert shelf.calls == 1


@pytest.mark.parametrize("pack", [wheel, tarball])
def test_wheels_and_tar_archives_are_read(tmp_path: Path, pack: Callable[[dict[str, bytes]], bytes]) -> None:
    data = pack({"zoo/a.onnx": MODEL})
    (outcome,) = fetch_each([entry(archive_sha256=sha(data))], tmp_path, Shelf(data))
    assert outcome.path is not None
    assert outcome.path.read_bytes() == MODEL


def test_a_cached_model_is_not_fetched_again(tmp_path: Path) -> None:
    (tmp_path / "a.onnx").write_bytes(MODEL)
    shelf = Shelf()
    (outcome,) = fetch_each([entry()], tmp_path, shelf)
    assert (outcome.status, shelf.calls) == ("cached", 0)


def test_a_damaged_cached_model_is_replaced(tmp_path: Path) -> None:
    (tmp_path / "a.onnx").write_bytes(MODEL[:-1])
    (outcome,) = fetch_each([entry()], tmp_path, Shelf())
    assert outcome.status == "fetched"
    assert (tmp_path / "a.onnx").read_bytes() == MODEL


@pytest.mark.parametrize(
    ("wanted", "data", "reason"),
    [
        (entry(archive_sha256=sha(b"")), ZOO_WHEEL, "SHA-256 of zoo-1.0"),
        (entry(sha256=sha(b"")), ZOO_WHEEL, "SHA-256 of zoo/a.onnx"),
        (entry(archive_sha256="", sha256=sha(b"")), ZOO_WHEEL, "SHA-256 of zoo/a.onnx"),
        (entry(path_in_package="zoo/c.onnx"), ZOO_WHEEL, "has no zoo/c.onnx"),
        (entry(archive_sha256=sha(b"rubbish")), b"rubbish", "no readable archive"),
        (entry(archive_sha256=sha(tarball({})[:20])), tarball({})[:20], "no readable archive"),
    ],
    ids=["archive digest", "model digest", "model digest alone", "member", "rubbish", "cut off"],
)
def test_what_is_not_as_promised_is_refused_and_leaves_nothing(
    tmp_path: Path, wanted: Entry, data: bytes, reason: str
) -> None:
    (outcome,) = fetch_each([wanted], tmp_path, Shelf(data))
    assert outcome.status == "missing"
    assert outcome.path is None
    assert reason in outcome.reason
    assert list(tmp_path.iterdir()) == []


def test_one_failure_does_not_stop_the_others_but_fetch_raises(tmp_path: Path) -> None:
    manifest = manifest_of(tmp_path, entry("a", sha256=sha(b"")), entry("b"))
    with pytest.raises(FetchError, match=r"missing: a \(SHA-256") as caught:
        fetch(None, tmp_path / "cache", manifest=manifest, get=Shelf())
    assert "b" not in str(caught.value).split("(")[0]
    assert (tmp_path / "cache" / "b.onnx").read_bytes() == OTHER


def test_an_unknown_name_is_refused_before_anything_is_fetched(tmp_path: Path) -> None:
    shelf = Shelf()
    with pytest.raises(FetchError, match="not in the manifest: z"):
        fetch(["a", "z"], tmp_path / "cache", manifest=manifest_of(tmp_path, entry()), get=shelf)
    assert shelf.calls == 0


@pytest.mark.parametrize("text", ["{", "[{}]", '[{"name": "a", "colour": "red"}]'])
def test_a_malformed_manifest_is_refused(tmp_path: Path, text: str) -> None:
    path = tmp_path / "manifest.json"
    path.write_text(text)
    with pytest.raises(FetchError, match=r"manifest\.json"):
        load_manifest(path)


def test_a_name_may_occur_once_in_a_manifest(tmp_path: Path) -> None:
    with pytest.raises(FetchError, match="twice"):
        load_manifest(manifest_of(tmp_path, entry(), entry()))


def test_a_failing_client_is_tried_again_and_its_error_reported(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(fetch_zoo, "PAUSE_SECONDS", 0.0)
    script = "import sys; open('calls', 'a').write('x'); sys.exit('ERROR: nothing there')"
    monkeypatch.setattr(fetch_zoo, "_pip_command", lambda _e, _f: [sys.executable, "-c", script])
    with pytest.raises(FetchError, match="pip: ERROR: nothing there"):
        fetch_zoo.download(entry(), tmp_path)
    assert (tmp_path / "calls").read_text() == "x" * fetch_zoo.ATTEMPTS


def test_an_unknown_client_is_refused(tmp_path: Path) -> None:
    with pytest.raises(FetchError, match="unknown client 'cargo'"):
        fetch_zoo.download(entry(client="cargo"), tmp_path)


@pytest.mark.skipif(importlib.util.find_spec("pip") is None, reason="this environment has no pip")
@pytest.mark.parametrize("promised", [True, False], ids=["right digest", "wrong digest"])
def test_pip_itself_checks_the_archive(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, promised: bool) -> None:
    info = "zoo-1.0.dist-info"
    data = wheel(
        {
            "zoo/a.onnx": MODEL,
            f"{info}/METADATA": b"Metadata-Version: 2.1\nName: zoo\nVersion: 1.0\n",
            f"{info}/WHEEL": b"Wheel-Version: 1.0\nRoot-Is-Purelib: true\nTag: py3-none-any\n",
            f"{info}/RECORD": b"",
        }
    )
    links = tmp_path / "links"
    links.mkdir()
    (links / "zoo-1.0-py3-none-any.whl").write_bytes(data)
    monkeypatch.setenv("PIP_NO_INDEX", "1")
    monkeypatch.setenv("PIP_FIND_LINKS", str(links))
    monkeypatch.setenv("PIP_CONFIG_FILE", os.devnull)
    monkeypatch.setattr(fetch_zoo, "ATTEMPTS", 1)
    wanted = entry(archive_sha256=sha(data) if promised else sha(b""))
    (outcome,) = fetch_each([wanted], tmp_path / "cache")
    if promised:
        assert outcome.status == "fetched"
    else:
        assert outcome.status == "missing"
        assert outcome.reason.startswith("pip: ")


def test_the_commands_pin_version_digest_and_platform(tmp_path: Path) -> None:
    platform_wheel = entry(archive="zoo-1.0-py3-none-manylinux_2_28_x86_64.whl")
    command = fetch_zoo._pip_command(platform_wheel, tmp_path)
    assert command[-2:] == ["--platform", "manylinux_2_28_x86_64"]
    assert "--require-hashes" in command
    listing = (tmp_path / "requirements.txt").read_text()
    assert listing == f"zoo==1.0 --hash=sha256:{sha(ZOO_WHEEL)}\n"
    assert "--no-binary" in fetch_zoo._pip_command(entry(archive="zoo-1.0.tar.gz"), tmp_path)


@pytest.mark.parametrize(("glob", "code"), [("a", 0), ("c", 1), ("z*", 1)])
def test_the_exit_code_says_whether_everything_is_there(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, glob: str, code: int
) -> None:
    monkeypatch.setattr(fetch_zoo, "load_manifest", lambda: [entry("a"), entry("c")])
    assert fetch_zoo.main(["--only", glob, "--cache", str(tmp_path / "cache")], Shelf()) == code


def test_the_cache_can_be_chosen_by_the_environment(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("ONNXGROW_ZOO", str(tmp_path))
    assert fetch_zoo.default_cache() == tmp_path
    monkeypatch.delenv("ONNXGROW_ZOO")
    assert fetch_zoo.default_cache().name == "zoo-cache"


def test_the_manifest_of_the_project_is_pinned_throughout() -> None:
    entries = load_manifest()
    assert len(entries) >= 30
    for e in entries:
        assert re.fullmatch(r"\w+", e.name)
        assert e.client in ("pip", "npm")
        assert re.fullmatch(r"[0-9]+(\.[0-9]+)+", e.version), e.name
        assert re.fullmatch(r"[0-9a-f]{64}", e.sha256), e.name
        assert bool(e.archive) == bool(re.fullmatch(r"[0-9a-f]{64}", e.archive_sha256)), e.name
        assert e.path_in_package.endswith(".onnx")
        assert e.bytes > 0
        assert e.license
    assert "http" not in fetch_zoo.MANIFEST.read_text()
