"""kill -9 of a whole Ray run at random moments: nothing acknowledged is lost, nothing is stored twice."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.duration import by_day
from tests.killed_runs import killed_runs

pytestmark = pytest.mark.promise("kill")


@pytest.mark.slow
@pytest.mark.timeout(3600)
def test_killed_runs_lose_nothing_and_repeat_nothing(tmp_path: Path, tiny_checkpoint: Path) -> None:
    """Each kill costs a start of Ray: one by day, twenty in the long run and in `benchmarks/kills.py`."""
    killed_runs(tmp_path, tiny_checkpoint, kills=by_day(1, otherwise=20))
