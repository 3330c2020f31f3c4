"""The clock of the machine is set while a run watches a camera: rows stay in order, and no outage is told that was none."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from tests.duration import LONG
from tests.rtsp_camera import LIBFAKETIME, RtspCamera, needs_rtsp_server, wait_for
from tests.runtime.test_live_run import LIVE, ROOT, check_rows, gaps, rows
from tests.tiny_checkpoint import LENIENT

NS = 1_000_000_000
HOUR_S = 3600
# No pause of a busy machine lasts so long; a clock that was believed tells an hour.
_MOST_S = 60


@needs_rtsp_server
@pytest.mark.promise("steady-gaps")
@pytest.mark.skipif(not LONG, reason="watches a camera for a minute: make test-all")
@pytest.mark.parametrize("steps_s", [(HOUR_S, 0), (-HOUR_S, HOUR_S)])
def test_setting_the_clock_makes_no_outage(
    steps_s: tuple[int, ...], tmp_path: Path, tiny_checkpoint: Path
) -> None:
    clock = tmp_path / "clock"
    clock.write_text("+0")
    stepped = {
        "LD_PRELOAD": str(LIBFAKETIME),
        "FAKETIME_TIMESTAMP_FILE": str(clock),
        "FAKETIME_NO_CACHE": "1",
        "FAKETIME_DONT_FAKE_MONOTONIC": "1",
        "DONT_FAKE_MONOTONIC": "1",
    }
    store = tmp_path / "cam.zarr"
    with RtspCamera(tmp_path) as camera:
        settings = [
            part for setting in (*LENIENT, *LIVE, "runtime.engine=eager") for part in ("--set", setting)
        ]
        process = subprocess.Popen(
            [
                sys.executable, "-m", "pipeline.cli", "run", camera.url, "--name", "cam", "--store", str(store), "--preset", "live",
                "--model", str(tiny_checkpoint), "--runtime", "inline", "--quiet", *settings,
            ],
            env={**os.environ, **stepped}, cwd=ROOT, stderr=subprocess.PIPE, text=True,
            preexec_fn=lambda: signal.signal(signal.SIGINT, signal.default_int_handler),
        )  # fmt: skip
        try:
            for step_s in (0, *steps_s):
                clock.write_text(f"{step_s:+d}")
                seen = len(stored(store))
                wait_for(
                    lambda seen=seen: len(stored(store)) >= seen + 8 or process.poll() is not None,
                    "rows",
                    240,
                    0.5,
                )
                assert process.poll() is None
        finally:
            process.send_signal(signal.SIGINT)
            _, err = process.communicate(timeout=120)
    assert process.returncode == 130, err
    check_rows(store)
    outages = [(end - start) / NS for reason, start, end in gaps(store) if reason == "outage"]
    assert sum(outages) < _MOST_S, outages


def stored(store: Path) -> list[tuple[int, int, int]]:
    return rows(store) if store.exists() else []
