"""What a long-running stage has freed goes back to the machine."""

from __future__ import annotations

import subprocess
import sys

import pytest

_CODE = """
import psutil
from pipeline.runtime.heap import trim_heap
resident = lambda: psutil.Process().memory_info().rss >> 20
blocks = [bytes(50_000) for _ in range(4000)]
last = blocks[-1]  # keeps the end of the heap in use
del blocks
before = resident()
trim_heap()
print(before - resident())
"""


@pytest.mark.skipif(sys.platform != "linux", reason="only glibc's allocator is told to trim")
def test_freed_memory_between_what_is_in_use_is_given_back() -> None:
    done = subprocess.run([sys.executable, "-c", _CODE], capture_output=True, text=True, check=True)
    assert int(done.stdout) > 150  # MiB of 190
