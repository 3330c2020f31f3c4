"""Ray for the tests: started once for all that leave it alive, and with workers that need not import everything anew."""

from __future__ import annotations

import os
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path

FOLDER = Path(__file__).with_name("warm_start")


class SharedRay:
    """One Ray for all runs of this process that do not kill Ray itself; started when the first needs it."""

    def __init__(self) -> None:
        self._ray = ExitStack()
        self._warm = ExitStack()
        self._address: str | None = None

    def start(self) -> None:
        if "ray" in sys.modules and sys.modules["ray"].is_initialized():
            return
        from pipeline.runtime.on_ray.cluster import ray_session
        from pipeline.settings.config import RuntimeOptions

        with self.warm_workers():
            self._ray.enter_context(ray_session(RuntimeOptions()))

    def stop(self) -> None:
        self._ray.close()

    def end(self) -> None:
        self.stop()
        self._warm.close()

    @contextmanager
    def warm_workers(self) -> Iterator[None]:
        """Workers of a Ray that is started inside are forked by a process that has imported the libraries."""
        address = self._server()
        path = os.pathsep.join(filter(None, [str(FOLDER), os.environ.get("PYTHONPATH")]))
        before = dict(os.environ)
        os.environ.update(SCA_WARM_START=address, PYTHONPATH=path)
        try:
            yield
        finally:
            for name in ("SCA_WARM_START", "PYTHONPATH"):
                os.environ.pop(name)
                if name in before:
                    os.environ[name] = before[name]

    def _server(self) -> str:
        if self._address is None:
            # A socket's path is short.
            folder = self._warm.enter_context(tempfile.TemporaryDirectory(prefix="sca"))
            self._address = f"{folder}/workers"
            command = [sys.executable, str(FOLDER / "server.py"), self._address]
            server = self._warm.enter_context(
                subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
            )
            self._warm.callback(server.kill)
            assert server.stdout is not None
            assert server.stdout.readline() == "ready\n"
        return self._address
