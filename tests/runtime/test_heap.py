"""What a long-running stage has freed goes back to the machine."""

from __future__ import annotations

import subprocess
import sys

import pytest

_CODE = """
import numpy as np, psutil
from pipeline.runtime.model_loading import LARGE_BLOCK, level_heap
level_heap()
resident = lambda: psutil.Process().memory_info().rss >> 20
before = resident()
first = np.ones(LARGE_BLOCK + (8 << 20), np.uint8)
del first  # by itself the allocator would keep blocks of this size from now on
large, small = [], []
for _ in range(20):
    large.append(np.ones(LARGE_BLOCK, np.uint8))
    small.append(np.ones(50_000, np.uint8))  # keeps the heap in use behind each of them
del large
print(resident() - before)
"""


@pytest.mark.skipif(sys.platform != "linux", reason="only glibc's allocator is told")
def test_freed_tensors_between_what_is_in_use_are_given_back() -> None:
    done = subprocess.run([sys.executable, "-c", _CODE], capture_output=True, text=True, check=True)
    assert int(done.stdout) < 40  # MiB of 320
