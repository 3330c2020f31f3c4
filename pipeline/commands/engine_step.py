"""The step of `sca run` that compiles the model for this machine, where that was not done before."""

from __future__ import annotations

import time
from collections.abc import Callable
from contextlib import ExitStack

from rich.console import Console
from rich.status import Status

from pipeline.engine_preparation import with_engines
from pipeline.run_plan import RunPlan


def engines_for(plan: RunPlan, console: Console, clock: Callable[[], float] = time.monotonic) -> RunPlan:
    """The plan with its engines ready. The first time, progress is shown from the first second on."""
    begun = clock()
    status: Status | None = None
    with ExitStack() as during:

        def report(line: str) -> None:
            nonlocal status
            if status is None:
                console.print(
                    "Compiling the model for this machine: once, in a minute or two. "
                    "Every compiled part is checked against the model itself.",
                    soft_wrap=True,
                )
                status = during.enter_context(console.status("starting"))
            seconds = f"{clock() - begun:4.0f} s  {line}"
            status.update(seconds)
            if not console.is_terminal:
                console.print(seconds, soft_wrap=True, highlight=False)

        ready = with_engines(plan, report)
    if status is not None:
        console.print(f"Compiled in {clock() - begun:.0f} s; the next start finds it ready.", soft_wrap=True)
    return ready
