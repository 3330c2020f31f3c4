"""The work of a team member that is to be killed, apart from the tests so that a member imports only what it needs."""

from __future__ import annotations

import os
import time
from pathlib import Path

from sca.training.workers import Team


def wait_for_ever(team: Team, meeting: str) -> None:
    """Tells its process id and then waits."""
    Path(f"{meeting}-{os.getpid()}").touch()
    time.sleep(3600)
