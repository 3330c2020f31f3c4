"""Ray for the tests: started once for all that leave it alive."""

from __future__ import annotations

import sys
from contextlib import ExitStack


class SharedRay:
    """One Ray for all runs of this process that do not kill Ray itself; started when the first needs it."""

    def __init__(self) -> None:
        self._stack = ExitStack()

    def start(self) -> None:
        if "ray" in sys.modules and sys.modules["ray"].is_initialized():
            return
        from pipeline.runtime.on_ray.cluster import ray_session
        from pipeline.settings.config import RuntimeOptions

        self._stack.enter_context(ray_session(RuntimeOptions()))

    def stop(self) -> None:
        self._stack.close()
