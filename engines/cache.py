"""Compiled engines on disk: one folder per key, written whole or not at all, never unpickled.

Layout: `<root>/<stage>.<backend>.<precision>.<key>/` holds `manifest.json` and the files of the back end;
`<root>/locks/` holds one lock per key, so that two processes that want the same engine build it once.
"""

from __future__ import annotations

import os
import shutil
import time
import uuid
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from filelock import FileLock

from engines.cache_root import ENVIRONMENT_VARIABLE, default_root
from engines.manifest import MANIFEST_NAME, Artefact, EngineKey, EngineRejected, Manifest, digest_file
from sca.errors import UserError


@dataclass(frozen=True)
class CachedEngine:
    """A folder of the cache with its side-car, or with the reason why it cannot be used."""

    folder: Path
    manifest: Manifest | None
    problem: str | None

    @property
    def size(self) -> int:
        """Bytes on disk."""
        return sum(file.stat().st_size for file in self.folder.iterdir() if file.is_file())


class EngineCache:
    """The engines of one root folder.

    Raises:
        UserError: the root cannot be made or written.
    """

    def __init__(self, root: Path | None = None) -> None:
        self.root = root or default_root()
        try:
            (self.root / "locks").mkdir(parents=True, exist_ok=True)
        except OSError as error:
            raise UserError(
                f"The engine cache {self.root} cannot be made ({error.strerror}). "
                f"Remedy: set {ENVIRONMENT_VARIABLE} to a folder that can be written."
            ) from error

    def lock(self, key: EngineKey) -> FileLock:
        """The lock under which the engine of this key is built."""
        return FileLock(self.root / "locks" / f"{key.digest}.lock")

    def folder(self, key: EngineKey) -> Path:
        """Where the engine of this key is, or would be."""
        return self.root / key.folder

    def find(self, key: EngineKey) -> Manifest | None:
        """The side-car of the engine with exactly this key, its files checked; None when there is none.

        Raises:
            EngineRejected: there is one, but it is damaged.
        """
        folder = self.folder(key)
        if not folder.exists():
            return None
        manifest = Manifest.read(folder)
        if manifest.key != key:
            raise EngineRejected(f"engine was made for another purpose: {key.differences(manifest.key)}")
        check_files(folder, manifest)
        return manifest

    def relatives(self, key: EngineKey) -> list[EngineKey]:
        """Keys of stored engines for the same stage, back end and precision that are not this one."""
        return [
            entry.manifest.key
            for entry in self.entries(check=False)
            if entry.manifest and entry.manifest.key.same_purpose(key) and entry.manifest.key != key
        ]

    def entries(self, *, check: bool = True) -> Iterator[CachedEngine]:
        """All engines, by name. With `check`, the files of each are compared with its side-car."""
        for folder in sorted(self.root.iterdir()):
            if not folder.is_dir() or folder.name == "locks" or folder.name.startswith("."):
                continue
            try:
                manifest = Manifest.read(folder)
                if check:
                    check_files(folder, manifest)
            except EngineRejected as reason:
                yield CachedEngine(folder, None, str(reason))
            else:
                yield CachedEngine(folder, manifest, None)

    def working_folder(self) -> Path:
        """A new private folder on the same file system, for an engine that is being built."""
        folder = self.root / f".building-{os.getpid()}-{uuid.uuid4().hex[:8]}"
        folder.mkdir()
        return folder

    def publish(self, built: Path, manifest: Manifest) -> Path:
        """Moves a finished working folder to its place in one step, over whatever was there."""
        write_atomically(built / MANIFEST_NAME, manifest.to_json())
        final = self.folder(manifest.key)
        if final.exists():
            self.discard(final)
        built.rename(final)
        return final

    def update(self, manifest: Manifest) -> None:
        """Writes a side-car anew, in one step."""
        write_atomically(self.folder(manifest.key) / MANIFEST_NAME, manifest.to_json())

    def discard(self, folder: Path) -> None:
        """Removes an engine: it disappears in one step, then its files are deleted."""
        grave = self.root / f".removed-{uuid.uuid4().hex[:8]}"
        folder.rename(grave)
        shutil.rmtree(grave, ignore_errors=True)

    def sweep(self, *, older_than_seconds: float = 3600.0, now: float | None = None) -> int:
        """Deletes working folders that a killed build left behind; returns how many."""
        now = time.time() if now is None else now
        swept = 0
        for folder in self.root.glob(".*-*"):
            if folder.is_dir() and now - folder.stat().st_mtime >= older_than_seconds:
                shutil.rmtree(folder, ignore_errors=True)
                swept += 1
        return swept


def describe_files(folder: Path) -> tuple[Artefact, ...]:
    """Name, size and digest of every file that a back end wrote."""
    return tuple(
        Artefact(file.name, file.stat().st_size, digest_file(file))
        for file in sorted(folder.iterdir())
        if file.name != MANIFEST_NAME
    )


def check_files(folder: Path, manifest: Manifest) -> None:
    """Compares the files of an engine with its side-car.

    Raises:
        EngineRejected: a file is missing, cut short or altered.
    """
    for artefact in manifest.artefacts:
        path = folder / artefact.name
        if Path(artefact.name).name != artefact.name:
            raise EngineRejected(f"side-car names a file outside its folder: {artefact.name}")
        if not path.is_file():
            raise EngineRejected(f"{artefact.name} is missing")
        if path.stat().st_size != artefact.size:
            raise EngineRejected(
                f"{artefact.name} has {path.stat().st_size} bytes instead of {artefact.size}"
            )
        if digest_file(path) != artefact.sha256:
            raise EngineRejected(f"{artefact.name} is damaged: its checksum differs")


def write_atomically(path: Path, text: str) -> None:
    """Writes a file so that readers see the old content or the new, never a part."""
    temporary = path.with_name(f".{path.name}.{uuid.uuid4().hex[:8]}")
    temporary.write_text(text, encoding="utf-8")
    os.replace(temporary, path)
