"""Whether Ray itself is alive: its head (GCS) and the raylet of this machine, asked by their sockets.

Nobody else notices. Without its raylet no call is ever answered, and without the GCS Ray ends this process after a minute.
"""

from __future__ import annotations

import errno
import logging
import os
import socket
import sys
import threading
import time
from collections.abc import Callable, Mapping

from pipeline.runtime.driver.remote import death_text

log = logging.getLogger(__name__)

_EVERY_S = 1.5
_TIMEOUT_S = 4.0
# Nobody listening is said at once; two times, as a full queue of connections looks alike on Unix sockets.
_REFUSALS = 2
# No answer may be a machine that is busy or a network that was gone for a moment. It is judged by time, for a full queue of
# connections is told at once.
_SILENT_S = 20.0
# After this program was stopped itself, one of these would be enough otherwise.
_SILENCES = 4
_LAST_RESORT_S = 12.0


class Unanswered(Exception):
    """Nobody answers. `refused`: nobody listens there, rather than too slowly."""

    def __init__(self, refused: bool) -> None:
        super().__init__()
        self.refused = refused


def knock(address: str) -> None:
    """Connect to HOST:PORT or to the path of a Unix socket, and hang up. Raises `Unanswered`."""
    unix = address.startswith("/")
    host, _, port = address.rpartition(":")
    try:
        with socket.socket(socket.AF_UNIX) if unix else _connected(host.strip("[]"), int(port)) as caller:
            if unix:
                caller.settimeout(_TIMEOUT_S)
                caller.connect(address)
    except OSError as error:
        raise Unanswered(error.errno in (errno.ECONNREFUSED, errno.ENOENT)) from None


def _connected(host: str, port: int) -> socket.socket:
    return socket.create_connection((host, port), timeout=_TIMEOUT_S)


class RayWatch:
    """Knocks at Ray's doors, in a thread of its own. `doors`: what is behind each, and its address.

    `death` is None, or says in words what has died. Where this program is not told in time, since it waits inside Ray,
    `last_resort` ends it.
    """

    def __init__(
        self,
        doors: Mapping[str, str],
        *,
        knock: Callable[[str], None] = knock,
        last_resort: Callable[[str], None] | None = None,
        every_s: float = _EVERY_S,
        silent_s: float = _SILENT_S,
    ) -> None:
        self._doors = doors
        self._knock = knock
        self._last_resort = last_resort or end_now
        self._every_s, self._silent_s = every_s, silent_s
        self._over = threading.Event()
        self.death: str | None = None
        self._thread = threading.Thread(target=self._run, name="ray-watch", daemon=True)
        self._thread.start()

    def died_within(self, patience_s: float) -> str | None:
        """What has died, where that becomes known in time."""
        until_s = time.monotonic() + patience_s
        while self.death is None and time.monotonic() < until_s and self._thread.is_alive():
            self._over.wait(self._every_s)
        return self.death

    def end(self) -> None:
        """Ray is about to be shut down, or its death has been told."""
        self._over.set()

    def _run(self) -> None:
        refusals, silences = dict.fromkeys(self._doors, 0), dict.fromkeys(self._doors, 0)
        answered_s = dict.fromkeys(self._doors, time.monotonic())
        while not self._over.wait(self._every_s):
            for what, address in self._doors.items():
                try:
                    self._knock(address)
                except Unanswered as error:
                    refusals[what] += error.refused
                    silences[what] += 1
                else:
                    refusals[what] = silences[what] = 0
                    answered_s[what] = time.monotonic()
                silent = silences[what] >= _SILENCES and time.monotonic() - answered_s[what] >= self._silent_s
                if silent or refusals[what] >= _REFUSALS:
                    self._died(what)
                    return

    def _died(self, what: str) -> None:
        self.death = what
        began = time.monotonic()
        if not self._over.wait(_LAST_RESORT_S):
            log.debug("still waiting after %.0f s", time.monotonic() - began)
            self._last_resort(death_text(what))


def end_now(text: str) -> None:
    """End this process with one line of error, whatever its threads wait for."""
    sys.stderr.write(f"sca: {text}\n")
    sys.stderr.flush()
    os._exit(1)
