"""Who asks the program to end, once or twice, is understood."""

from __future__ import annotations

import signal
import subprocess
import sys
from collections.abc import Iterator

import pytest

from pipeline.core.leaving import asked_to_stop, end_as_by_ctrl_c

STOPS = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)

pytestmark = pytest.mark.promise("stops-in-order")


@pytest.fixture(autouse=True)
def handlers() -> Iterator[None]:
    before = {number: signal.signal(number, signal.SIG_DFL) for number in STOPS}
    yield
    for number, handler in before.items():
        signal.signal(number, handler)


class Clock:
    def __init__(self) -> None:
        self.now = 0.0

    def __call__(self) -> float:
        return self.now


@pytest.mark.parametrize("first", STOPS)
@pytest.mark.parametrize("second", STOPS)
def test_a_second_wish_breaks_off_and_an_echo_of_the_first_does_not(
    first: signal.Signals, second: signal.Signals
) -> None:
    clock, asked = Clock(), []
    with asked_to_stop(lambda: asked.append(clock.now), clock):
        for moment in (0.0, 0.1, 0.99):
            clock.now = moment
            signal.raise_signal(first if moment == 0 else second)
        assert asked == [0.0]
        clock.now = 1.0
        if second is signal.SIGHUP:
            signal.raise_signal(second)
        else:
            with pytest.raises(KeyboardInterrupt):
                signal.raise_signal(second)
        assert asked == [0.0]


def test_a_background_job_of_a_script_hears_ctrl_c() -> None:
    """Its shell had it ignored."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    asked: list[bool] = []
    with asked_to_stop(lambda: asked.append(True)):
        signal.raise_signal(signal.SIGINT)
    assert asked
    assert signal.getsignal(signal.SIGINT) is signal.SIG_IGN


def test_under_nohup_sighup_stays_ignored_and_all_is_put_back() -> None:
    signal.signal(signal.SIGHUP, signal.SIG_IGN)
    before = [signal.getsignal(number) for number in STOPS]
    with asked_to_stop(lambda: pytest.fail("nobody asked")):
        signal.raise_signal(signal.SIGHUP)
    assert [signal.getsignal(number) for number in STOPS] == before
    end_as_by_ctrl_c()
    assert signal.getsignal(signal.SIGHUP) is signal.SIG_IGN


@pytest.mark.parametrize("send", [signal.SIGTERM, signal.SIGHUP])
def test_sigterm_ends_any_command_as_ctrl_c_does(send: signal.Signals) -> None:
    """What it was about to write goes, and what it has started too: nobody else would take them away."""
    end_as_by_ctrl_c()
    with pytest.raises(KeyboardInterrupt):
        signal.raise_signal(send)


def test_signals_that_come_in_a_row_break_off_nothing_that_is_put_away() -> None:
    """A closed terminal sends several."""
    code = (
        "import signal, sys; from pipeline.core.leaving import end_as_by_ctrl_c; end_as_by_ctrl_c()\n"
        "try:\n    signal.raise_signal(signal.SIGHUP)\n"
        "except BaseException:\n    for _ in range(4): signal.raise_signal(signal.SIGHUP); signal.raise_signal(signal.SIGTERM)\n"
        "    sys.exit(77)"
    )
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 77


def test_the_command_line_sets_it_up_before_anything_else() -> None:
    code = (
        "import os, signal, sys, pipeline.cli as cli\n"
        "cli._run = lambda: os.kill(os.getpid(), signal.SIGTERM) or signal.pause()\n"
        "sys.argv = ['sca']\n"
        "try:\n    cli.main()\nexcept KeyboardInterrupt:\n    os._exit(77)"
    )
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 77


_WHILE_SOMETHING_IS_PUT_AWAY = """
import os, signal, time
from pipeline.core.leaving import end_as_by_ctrl_c

class Held:
    def __del__(self):
        os.kill(os.getpid(), signal.SIGTERM)
        time.sleep(0.01)

end_as_by_ctrl_c()
try:
    Held()
    time.sleep(20)
except KeyboardInterrupt:
    print("ended")
"""


def test_a_signal_while_something_is_put_away_is_not_lost() -> None:
    """Python lets no exception out there: it printed a traceback, and the command went on."""
    done = subprocess.run(
        [sys.executable, "-c", _WHILE_SOMETHING_IS_PUT_AWAY],
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )
    assert (done.returncode, done.stdout, done.stderr) == (0, "ended\n", "")


_TAKEN_DOWN = """
import os, signal
from pipeline.core.leaving import end_as_by_ctrl_c, leave

class Late:
    def __init__(self): self.kill, self.me = os.kill, os.getpid()
    def __del__(self): self.kill(self.me, {number})

late = Late()
end_as_by_ctrl_c()
leave(130)
"""


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGHUP])
def test_a_signal_that_comes_again_while_python_ends_does_not_change_the_exit_code(
    number: signal.Signals,
) -> None:
    script = _TAKEN_DOWN.format(number=int(number))
    assert subprocess.run([sys.executable, "-c", script], check=False, timeout=20).returncode == 130
