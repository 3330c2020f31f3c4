"""Folders of tests that write many small files durably: in memory where there is such a disk, for each fsync of another costs milliseconds.

What a process that is killed leaves behind is the same on either. A conftest takes the fixtures by importing them.
"""

from __future__ import annotations

import itertools
import os
import shutil
import tempfile
import time
from collections.abc import Iterator
from contextlib import suppress
from multiprocessing.util import get_temp_dir
from pathlib import Path

import pytest

_MEMORY = Path("/dev/shm")
_PREFIX = "sca-tests-"
_ENOUGH_BYTES = 4 << 30
_FORGOTTEN_S = 86_400


class MemoryFolders:
    """What `pytest.TempPathFactory` is asked for."""

    def __init__(self, root: Path) -> None:
        self.root = root
        self._numbers = itertools.count()

    def mktemp(self, basename: str, numbered: bool = True) -> Path:
        path = self.root / (f"{basename}{next(self._numbers)}" if numbered else basename)
        path.mkdir()
        return path


def _roomy() -> bool:
    with suppress(OSError):
        return os.access(_MEMORY, os.W_OK) and shutil.disk_usage(_MEMORY).free >= _ENOUGH_BYTES
    return False


@pytest.fixture(scope="session")
def tmp_path_factory() -> Iterator[MemoryFolders]:
    if _roomy():  # of test runs that were killed
        for left in _MEMORY.glob(f"{_PREFIX}*"):
            with suppress(OSError):
                if time.time() - left.stat().st_mtime > _FORGOTTEN_S:
                    shutil.rmtree(left, ignore_errors=True)
    get_temp_dir()  # of multiprocessing, which makes it once in a process and removes it after all tests
    root = tempfile.mkdtemp(prefix=_PREFIX, dir=_MEMORY if _roomy() else None)
    yield MemoryFolders(Path(root).resolve())
    shutil.rmtree(root, ignore_errors=True)


@pytest.fixture
def tmp_path(tmp_path_factory: MemoryFolders, request: pytest.FixtureRequest) -> Iterator[Path]:
    path = tmp_path_factory.mktemp("".join(c if c.isalnum() else "_" for c in request.node.name)[:30])
    yield path
    shutil.rmtree(path, ignore_errors=True)


@pytest.fixture(autouse=True)
def temporary_files_in_memory(tmp_path_factory: MemoryFolders, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path_factory.root))
