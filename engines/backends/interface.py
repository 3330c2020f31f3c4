"""What every back end offers: whether it can be used, how it builds a stage, how it loads what it built."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Protocol

from torch import Tensor

from engines.devices import Device, Precision
from sca.stages.spec import Stage

Engine = Callable[..., tuple[Tensor, ...]]
"""A stage made ready to run: tensors in by position, a tuple of float32 tensors out, on the device of the inputs."""

Report = Callable[[str], None]
"""Takes one line of progress."""


class EngineBuildError(Exception):
    """A back end could not build or load a stage; the message says why in one line."""


class Backend(Protocol):
    """A compiler of stages."""

    name: str

    def unavailable(self, device: Device) -> str | None:
        """Why engines of this back end cannot *run* on the device, None when they can. Cheap: imports nothing heavy."""
        ...

    def cannot_build(self, device: Device) -> str | None:
        """Why this machine cannot *build* engines of this back end, None when it can."""
        ...

    def version(self, device: Device) -> str:
        """Flavour and full version of the compiler and of the recipe used here; a part of the cache key."""
        ...

    def target(self, device: Device) -> str:
        """For what an engine built here is made: a part of the cache key and of what the user is told."""
        ...

    def build(
        self, stage: Stage, precision: Precision, device: Device, folder: Path, report: Report
    ) -> tuple[str, ...]:
        """Writes an engine's files into an empty folder; returns notes for the side-car.

        Raises:
            EngineBuildError: the compiler refuses the stage.
        """
        ...

    def load(self, stage: Stage, precision: Precision, device: Device, folder: Path) -> Engine:
        """Makes an engine from the files that `build` wrote.

        Raises:
            EngineBuildError: the files are no engine for this machine.
        """
        ...
