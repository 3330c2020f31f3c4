"""Training in several processes on one machine: each takes a share of the batch, gradients are averaged.

One thread per process beats one process with several threads on a CPU, above all on a busy one: processes wait for
each other once per step instead of once per operation.
"""

from __future__ import annotations

import ctypes
import os
import signal
import sys
from collections.abc import Callable, Sequence
from datetime import timedelta
from pathlib import Path
from typing import Any

import torch
import torch.distributed as dist
import torch.multiprocessing as mp
from torch import Tensor

_PR_SET_PDEATHSIG = 1
_M_TRIM_THRESHOLD, _M_TOP_PAD, _M_MMAP_THRESHOLD = -1, -2, -3


def keep_freed_memory() -> None:
    """Tell glibc not to hand freed memory back to the kernel.

    A training step allocates and frees the same large tensors over and over; without this it spends most of its time
    on page faults (measured: 15 s a step against 2.5 s). Does nothing on other C libraries.
    """
    if not sys.platform.startswith("linux"):
        return
    try:
        mallopt = ctypes.CDLL("libc.so.6").mallopt
    except (OSError, AttributeError):
        return
    mallopt(_M_MMAP_THRESHOLD, 2**30)
    mallopt(_M_TRIM_THRESHOLD, 2**31 - 1)
    mallopt(_M_TOP_PAD, 2**27)


def end_with_parent() -> None:
    """Ask the kernel for SIGTERM when the process that started this one dies, however it dies (Linux)."""
    if sys.platform.startswith("linux"):
        ctypes.CDLL(None, use_errno=True).prctl(_PR_SET_PDEATHSIG, signal.SIGTERM)


class Team:
    """The processes that train together; `rank` 0 logs and saves. A team of one needs no communication."""

    def __init__(self, rank: int = 0, size: int = 1) -> None:
        self.rank, self.size = rank, size

    def average_gradients(self, parameters: Sequence[Tensor]) -> None:
        """Replace every gradient by its mean over the team; a gradient that no process has stays None."""
        if self.size == 1:
            return
        present = torch.tensor([float(p.grad is not None) for p in parameters])
        dist.all_reduce(present, dist.ReduceOp.MAX)
        used = [p for p, has in zip(parameters, present.tolist(), strict=True) if has]
        for parameter in used:
            if parameter.grad is None:
                parameter.grad = torch.zeros_like(parameter)
        gradients = [p.grad for p in used if p.grad is not None]
        flat = torch.cat([g.flatten() for g in gradients])
        dist.all_reduce(flat)
        flat /= self.size
        start = 0
        for gradient in gradients:
            gradient.copy_(flat[start : start + gradient.numel()].view_as(gradient))
            start += gradient.numel()

    def any(self, flag: bool) -> bool:
        """Whether any process raised its flag; all of them get the same answer."""
        if self.size == 1:
            return flag
        raised = torch.tensor([float(flag)])
        dist.all_reduce(raised, dist.ReduceOp.MAX)
        return bool(raised.item())


def run_team(work: Callable[..., None], size: int, meeting: Path, *arguments: Any) -> None:
    """Call `work(team, *arguments)` in `size` processes with one thread each; in this process if it is 1.

    `meeting`: a file name in a writable folder by which the processes find each other.
    """
    keep_freed_memory()
    if size == 1:
        work(Team(), *arguments)
        return
    meeting.unlink(missing_ok=True)
    try:
        mp.start_processes(_member, (work, size, str(meeting), arguments), nprocs=size, start_method="spawn")
    finally:
        meeting.unlink(missing_ok=True)


def _member(
    rank: int, work: Callable[..., None], size: int, meeting: str, arguments: tuple[Any, ...]
) -> None:
    end_with_parent()
    keep_freed_memory()
    torch.set_num_threads(1)
    os.environ.setdefault("GLOO_SOCKET_IFNAME", "lo")
    dist.init_process_group(
        "gloo", init_method=f"file://{meeting}", rank=rank, world_size=size, timeout=timedelta(minutes=30)
    )
    try:
        work(Team(rank, size), *arguments)
    finally:
        dist.destroy_process_group()
