"""The C library's allocator, told to keep a long run's memory level."""

from __future__ import annotations

import ctypes
import sys

_M_MMAP_THRESHOLD = -3  # malloc.h
LARGE_BLOCK = 16 << 20


def level_heap() -> None:
    """Give every freed block of `LARGE_BLOCK` bytes or more back to the kernel at once (glibc; nothing elsewhere).

    By itself glibc raises that bound to 32 MiB while a program runs, and then keeps large tensors, whose sizes change
    from keyframe to keyframe, in its heap: between them it becomes full of holes and grows for weeks. Much below this
    bound the kernel's zeroing of new pages costs time. Process-wide, from now on.
    """
    if sys.platform.startswith("linux"):
        set_option = getattr(ctypes.CDLL(None), "mallopt", None)
        if set_option is not None:
            set_option(_M_MMAP_THRESHOLD, LARGE_BLOCK)
