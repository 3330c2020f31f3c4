"""Ending the program while FFmpeg may still be waiting for a camera, or Ray for itself."""

from __future__ import annotations

import os
import sys
import threading
from typing import NoReturn

READER_THREAD = "live-"
"""Begins the names of threads that read cameras. They wait inside FFmpeg, where nothing can end them early."""

_PATIENCE_S = 0.3
_abandoned = threading.Event()


def abandon_threads() -> None:
    """Threads of a library wait for what will never come: at the end, the process goes without asking them."""
    _abandoned.set()


def leave(code: int) -> NoReturn:
    """End the process with `code`. Everything that matters has been closed before.

    Where a camera's thread is still inside FFmpeg, the interpreter is not taken down under it: the thread would find it
    gone and crash the process, which would hide the exit code.
    """
    readers = [thread for thread in threading.enumerate() if thread.name.startswith(READER_THREAD)]
    for reader in readers:
        reader.join(_PATIENCE_S)
    if _abandoned.is_set() or any(reader.is_alive() for reader in readers):
        sys.stdout.flush()
        sys.stderr.flush()
        os._exit(code)
    sys.exit(code)
