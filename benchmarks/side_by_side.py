"""What the benchmarks share: candidates timed in turn on the same work, and the machine that they ran on."""

from __future__ import annotations

import os
import platform
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from datetime import UTC, datetime

import numpy as np
import torch

from engines.devices import probe


@dataclass(frozen=True)
class Times:
    """Seconds per call of one candidate."""

    seconds: tuple[float, ...]

    @property
    def median(self) -> float:
        return float(np.median(self.seconds))

    @property
    def p95(self) -> float:
        return float(np.percentile(self.seconds, 95))


def time_in_turn(
    candidates: Mapping[str, Callable[[], object]], *, repeats: int, warm_up: int = 1, device: str = "cpu"
) -> dict[str, Times]:
    """Calls every candidate once per round, so that whatever else the machine does meets all of them alike."""
    taken: dict[str, list[float]] = {name: [] for name in candidates}
    with torch.inference_mode():
        for round_number in range(warm_up + repeats):
            for name, run in candidates.items():
                synchronize(device)
                started = time.perf_counter()
                run()
                synchronize(device)
                if round_number >= warm_up:
                    taken[name].append(time.perf_counter() - started)
    return {name: Times(tuple(seconds)) for name, seconds in taken.items()}


def synchronize(device: str) -> None:
    """Waits for the device to finish what was launched."""
    if device.startswith("cuda"):
        torch.cuda.synchronize()


def describe_machine(device: str = "cpu") -> str:
    """One line: what, how many threads, which torch, when."""
    found = probe(device)
    threads = f", {torch.get_num_threads()} threads" if found.kind == "cpu" else ""
    return (
        f"{found.name} ({found.capability}), {os.cpu_count()} processors{threads}, torch {torch.__version__}, "
        f"Python {platform.python_version()}, {datetime.now(UTC):%Y-%m-%d %H:%M} UTC"
    )


def print_row(name: str, times: Times, baseline: Times | None = None, note: str = "") -> None:
    """One line of a table: median, 95th percentile, ratio to the baseline."""
    ratio = f"{baseline.median / times.median:6.2f}x" if baseline is not None else "       "
    print(f"  {name:44} {times.median * 1e3:9.2f} ms  p95 {times.p95 * 1e3:9.2f} ms {ratio}  {note}".rstrip())
