"""New cameras that are down when a run begins keep no other from being watched, and join when they answer."""

from __future__ import annotations

import logging
import pickle
import socket
import threading
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import pytest

from pipeline.core.errors import SourceAway, UserError
from pipeline.runtime.driver import loop
from pipeline.runtime.driver.latecomers import Latecomers
from pipeline.runtime.driver.loop import Driver
from pipeline.runtime.plan import AwayStream, StreamPlan, plan_run
from pipeline.runtime.progress import StopRequest
from pipeline.settings.config import load_config
from tests.rtsp_camera import free_port, wait_for
from tests.runtime.simulated_cluster import Film, Script, SimulatedClock
from tests.runtime.simulated_run import Setting, Watch, new_stores
from tests.runtime.simulated_stages import SimulatedCluster
from tests.videos import write_video

pytestmark = pytest.mark.promise("seven-of-eight")

AWAY = SourceAway("rtsp://camera/live: cannot connect: nothing listens there; check", again=True)
REFUSED = SourceAway("rtsp://camera/live: cannot connect: the password is refused", again=False)


def test_seven_of_eight_are_down_and_the_eighth_is_planned_at_once(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    film = write_video(tmp_path / "film.mp4", frames=5)
    config = load_config("default", ["sources.open_timeout_s=2"])
    # Three whose host takes connections and says nothing: each costs its whole deadline, but all at the same time.
    with socket.create_server(("127.0.0.1", 0)) as silent:
        mute = silent.getsockname()[1]
        down = [f"rtsp://admin:hunter2@127.0.0.1:{free_port()}/cam{number}" for number in range(4)]
        down += [f"rtsp://admin:hunter2@127.0.0.1:{mute}/cam{number}" for number in range(4, 7)]
        begun = time.monotonic()
        plan = plan_run([*down[:5], str(film), *down[5:]], config, store=tmp_path / "s.zarr")
        assert time.monotonic() - begun < 3 * 2
        with pytest.raises(UserError, match=r"cannot connect.*; .*cannot connect"):
            plan_run(down[:2], config, store=tmp_path / "t.zarr")
        with pytest.raises(UserError, match="cannot connect"):
            plan_run([down[0]], config, store=tmp_path / "t.zarr")
        inline = load_config("default", ["sources.open_timeout_s=2"], changes={"runtime.kind": "inline"})
        with pytest.raises(UserError, match="cannot connect"):
            plan_run([str(film), down[0]], inline, store=tmp_path / "t.zarr")
    assert [stream.stream for stream in plan.streams] == ["film"]
    assert len(plan.away) == 7
    told = [message for message in caplog.messages if "joins when it answers" in message]
    assert len(told) == 7
    assert "hunter2" not in "".join(caplog.messages)
    assert pickle.loads(pickle.dumps(plan.away[0].why)).again


@dataclass(frozen=True)
class Fake(AwayStream):
    """Answers as it is told to, one answer a try."""

    answers: tuple[StreamPlan | Exception, ...] = ()
    asked: tuple[list[int], ...] = ()

    def meet(self) -> StreamPlan:
        self.asked[0].append(1)
        answer = self.answers[len(self.asked[0]) - 1]
        if isinstance(answer, Exception):
            raise answer
        return answer


def fake(name: str, why: SourceAway, *answers: StreamPlan | Exception) -> Fake:
    return Fake(f"rtsp://{name}", name, Setting().config(), Path("s.zarr"), why, answers, ([],))


def plans(count: int, live: bool = False) -> tuple[list[StreamPlan], Setting]:
    setting = Setting(films=tuple(Film(live=live) for _ in range(count)))
    return list(setting.plan(new_stores(setting)).streams), setting


def test_each_is_asked_until_it_answers_or_refuses_a_password() -> None:
    (first,), _ = plans(1)
    comes = fake("film0", AWAY, AWAY, AWAY, first)
    never = fake("locked", REFUSED)
    turns = fake("turns", AWAY, AWAY, REFUSED)
    broken = fake("broken", AWAY, RuntimeError("rtsp://u:hunter2@h/x"))
    late = Latecomers([comes, never, turns, broken], "openvino", pause=lambda tries, longest: 0.0)
    found: list[StreamPlan] = []

    def settled() -> bool:
        found.extend(late.arrived())
        return len(found) == 1 and len(turns.asked[0]) == 2 and "report" in str(late.missing["broken"])

    wait_for(settled, "everybody's last answer")
    wait_for(lambda: late.arrived() == [] and late.missing["turns"] is REFUSED, "the refusal")
    assert (found[0].stream, found[0].info.engines) == ("film0", "openvino")
    assert len(comes.asked[0]) == 3
    assert not never.asked[0]
    assert set(late.missing) == {"locked", "turns", "broken"}
    assert "hunter2" not in str(late.missing["broken"])
    late.end()


def simulated(
    away: Callable[[StreamPlan], Fake], monkeypatch: pytest.MonkeyPatch
) -> tuple[Watch, list[str], Exception | None]:
    """A run of two streams, the second of which joins late; what was told, who was watched to the end, how it ended."""
    setting = Setting(films=(Film(), Film()))
    stores = new_stores(setting)
    plan = setting.plan(stores)
    late = away(plan.streams[1])

    class Prompt(Latecomers):
        def __init__(self, away: list[AwayStream], engines: str) -> None:
            super().__init__(away, engines, pause=lambda tries, longest: 0.0)
            for thread in threading.enumerate():
                if thread.name.startswith("late-"):
                    thread.join(20)

    monkeypatch.setattr(loop, "Latecomers", Prompt)
    from dataclasses import replace

    clock, stop, watch = SimulatedClock(), StopRequest(), Watch()
    films = dict(zip(stores, setting.films, strict=True))
    cluster = SimulatedCluster(Script(seed=1), films, stores, clock, stop.set)
    driver = Driver(replace(plan, streams=plan.streams[:1], away=(late,)), watch, stop, cluster, clock)
    try:
        progress = driver.run()
    except UserError as error:
        return watch, [name for name, store in stores.items() if store.frames], error
    return watch, [one.stream for one in progress if one.finished], None


def test_one_that_answers_is_watched_to_its_end(monkeypatch: pytest.MonkeyPatch) -> None:
    _watch, finished, error = simulated(lambda plan: fake(plan.stream, AWAY, plan), monkeypatch)
    assert error is None
    assert finished == ["film0", "film1"]


def test_one_that_never_does_is_said_to_be_down_and_told_at_the_end(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.ERROR)
    watch, watched, error = simulated(lambda plan: fake(plan.stream, AWAY, REFUSED), monkeypatch)
    assert watched == ["film0"]
    assert watch.up["film1"] is False
    assert "password is refused" in str(error)
    assert any("not asked again" in message for message in caplog.messages)
