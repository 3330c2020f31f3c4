"""Ending the program: who asks for it, and while FFmpeg may still be waiting for a camera, or Ray for itself."""

from __future__ import annotations

import os
import signal
import sys
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from types import FrameType
from typing import NoReturn

_STOPS = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)
# `timeout` and supervisors send their signal to a process and again to its group, a terminal that goes sends several.
_ONE_WISH_S = 1.0

READER_THREAD = "live-"
"""Begins the names of threads that read cameras. They wait inside FFmpeg, where nothing can end them early."""

_PATIENCE_S = 0.3
_MOMENT_S = 0.02
_abandoned = threading.Event()
_ours = threading.Event()


@contextmanager
def ours_alone() -> Iterator[None]:
    """This process ends with what is done here: nobody else has anything in it, or will import something into it."""
    _ours.set()
    try:
        yield
    finally:
        _ours.clear()


def process_is_ours() -> bool:
    """Whether `ours_alone` holds."""
    return _ours.is_set()


def end_as_by_ctrl_c() -> None:
    """From now on SIGTERM and SIGHUP end this program as Ctrl-C does: children end, half-written files go.

    What comes again within a second is the same wish: it would break off what the first has begun to put away. Under
    `nohup`, SIGHUP is ignored, and stays so.
    """
    last_s, heard = -_ONE_WISH_S, signal.SIGINT
    otherwise = sys.unraisablehook

    def end(number: int, frame: FrameType | None) -> None:
        nonlocal last_s, heard
        now_s, heard = time.monotonic(), signal.Signals(number)
        echo, last_s = now_s - last_s < _ONE_WISH_S, now_s
        if not echo:
            raise KeyboardInterrupt

    def come_again(lost: sys.UnraisableHookArgs) -> None:
        """It came while Python put something away, which lets nothing out: a moment later it is heard."""
        nonlocal last_s
        if not issubclass(lost.exc_type, KeyboardInterrupt):
            otherwise(lost)
            return
        last_s = -_ONE_WISH_S
        again = threading.Timer(_MOMENT_S, os.kill, (os.getpid(), heard))
        again.daemon = True
        again.start()

    if threading.current_thread() is threading.main_thread():
        for number in _STOPS:
            if signal.getsignal(number) is signal.SIG_DFL:
                signal.signal(number, end)
        sys.unraisablehook = come_again


@contextmanager
def asked_to_stop(ask: Callable[[], None], clock: Callable[[], float] = time.monotonic) -> Iterator[None]:
    """The first Ctrl-C, SIGTERM or SIGHUP calls `ask`; one that comes a second later or more breaks off (KeyboardInterrupt).

    What comes within that second is the same wish, and a SIGHUP always. Under `nohup` SIGHUP stays ignored.
    """
    first_s: float | None = None

    def hear(number: int, _: FrameType | None) -> None:
        nonlocal first_s
        if first_s is None:
            first_s = clock()
            ask()
        elif number != signal.SIGHUP and clock() - first_s >= _ONE_WISH_S:
            raise KeyboardInterrupt

    before = {number: signal.getsignal(number) for number in _STOPS}
    # A script's background jobs are born with SIGINT ignored, and yet whoever sends one means it.
    heard = [number for number, was in before.items() if number != signal.SIGHUP or was is not signal.SIG_IGN]
    for number in heard:
        signal.signal(number, hear)
    try:
        yield
    finally:
        for number in heard:
            signal.signal(number, before[number])


def abandon_threads() -> None:
    """Threads of a library wait for what will never come: at the end, the process goes without asking them."""
    _abandoned.set()


def leave(code: int) -> NoReturn:
    """End the process with `code`. Everything that matters has been closed before.

    Where a camera's thread is still inside FFmpeg, the interpreter is not taken down under it: the thread would find it
    gone and crash the process, which would hide the exit code. So would a signal that comes again: while Python is taken
    down its own handlers are gone. Ctrl-C still ends what then hangs.
    """
    if threading.current_thread() is threading.main_thread():
        for number in (signal.SIGTERM, signal.SIGHUP):
            signal.signal(number, signal.SIG_IGN)
    readers = [thread for thread in threading.enumerate() if thread.name.startswith(READER_THREAD)]
    for reader in readers:
        reader.join(_PATIENCE_S)
    if _abandoned.is_set() or any(reader.is_alive() for reader in readers):
        sys.stdout.flush()
        sys.stderr.flush()
        os._exit(code)
    sys.exit(code)
