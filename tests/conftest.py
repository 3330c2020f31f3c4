"""Settings of every test run, and the heavy parts that tests share: models, one Ray."""

from __future__ import annotations

import fcntl
import os
import signal
import sys
import time
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager, nullcontext
from pathlib import Path
from typing import TYPE_CHECKING, Any, TextIO

import pytest
from hypothesis import settings

from tests.duration import LONG
from tests.shared_ray import SharedRay

if TYPE_CHECKING:
    from sca.predictor import Predictor

# Models in tests are tiny: more threads only wait for each other, badly so on a busy machine.
os.environ.setdefault("OMP_NUM_THREADS", "1")
# A run asks its own threads not to spin while they wait, before torch is loaded; here torch is loaded long before a run.
os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")
# Engines that one test builds serve the next, and the next run; nobody's own cache is touched.
os.environ["SCA_ENGINE_CACHE"] = str(Path(__file__).resolve().parent.parent / ".pytest_cache" / "engines")
# Nor is anybody's own state.
os.environ["XDG_STATE_HOME"] = str(Path(__file__).resolve().parent.parent / ".pytest_cache" / "state")

# A shell has what it starts in the background ignore Ctrl-C, and so would all runs that tests interrupt.
if signal.getsignal(signal.SIGINT) is signal.SIG_IGN:
    signal.signal(signal.SIGINT, signal.default_int_handler)

# A property holds or does not; how long an example takes says how busy the machine is.
settings.register_profile("day", deadline=None, max_examples=60)
settings.register_profile("long", deadline=None, max_examples=1000)
settings.load_profile("long" if LONG else "day")


@pytest.fixture(autouse=True)
def _torch_computes_with_as_many_threads_in_every_test() -> None:
    """A run in this process, a fixture's of a whole module too, takes all processors, and oneDNN then computes another way.

    With two threads it takes other convolutions, whose results are up to 0.01 away (tests/tiny_models.py).
    """
    torch = sys.modules.get("torch")
    wanted = int(os.environ["OMP_NUM_THREADS"])
    if torch is not None and torch.get_num_threads() != wanted:
        torch.set_num_threads(wanted)


RAY = "whole runs on Ray"
# Whole runs keep both processors busy by themselves and have deadlines: never two of them at the same time.
GROUPS = {
    "tests/runtime/test_supervision.py": RAY,
    "tests/runtime/test_faults.py": RAY,
    "tests/runtime/test_crash.py": RAY,
    "tests/runtime/test_full_disk.py": RAY,
    "tests/runtime/test_two_nodes.py": RAY,
    "tests/runtime/test_run.py": RAY,
    "tests/runtime/test_ray_itself.py": RAY,
    "tests/runtime/test_live_run.py": RAY,
    "tests/runtime/test_observer.py": RAY,
    "tests/runtime/test_shedding_run.py": RAY,
}
BUCKETS = "one S3 server"
GROUPS |= dict.fromkeys(("tests/store/test_bucket_place.py", "tests/store/test_bucket_store.py"), BUCKETS)
WAITING = "waiting for cameras"
GROUPS |= dict.fromkeys(
    (
        "tests/sources/test_rtsp_source.py",
        "tests/sources/test_web_cameras.py",
        "tests/sources/test_source_conformance.py",
    ),
    WAITING,
)
# These mostly wait for clocks and sockets: they run beside what keeps the processors busy.
IDLE = (
    *(file for file, group in GROUPS.items() if group == WAITING),
    "tests/runtime/test_full_disk.py",
    "tests/runtime/test_live_run.py",
    "tests/serving/test_health.py",
    "tests/sources/test_dash.py",
    "tests/sources/test_web_films.py",
    "tests/sources/test_webcam.py",
)
# What takes long begins first, or the last file would be waited for by one worker alone.
FIRST = (
    *GROUPS,
    "tests/sca/test_training.py",
    "tests/engines/test_stages.py",
    "tests/engines/test_tensorrt.py",
    "tests/engines/test_cache.py",
    "tests/engines/test_preparation.py",
    "tests/store/test_crash.py",
)


def file_of(nodeid: str) -> str:
    return nodeid.split("::", 1)[0]


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    places = {file: place for place, file in enumerate(FIRST)}
    items.sort(key=lambda item: places.get(file_of(item.nodeid), len(FIRST)))
    if LONG:
        # Thousands of examples, perhaps on a busy machine: what hangs is found all the same.
        for item in items:
            if item.get_closest_marker("timeout") is None:
                item.add_marker(pytest.mark.timeout(7200))


class Workers:
    """pytest-xdist is optional: without it the tests run one after the other."""

    @pytest.hookimpl(optionalhook=True)
    def pytest_xdist_make_scheduler(self, config: pytest.Config, log: Any) -> Any:
        """The tests of a file, and those of a group, stay together in one worker and in order."""
        from xdist.scheduler import LoadScopeScheduling

        class ByFile(LoadScopeScheduling):  # type: ignore[misc]
            def _split_scope(self, nodeid: str) -> str:
                return GROUPS.get(file_of(nodeid), file_of(nodeid))

        config.option.loadscopereorder = False
        return ByFile(config, log)

    # Outermost, so that a test's own time limit begins when it does.
    @pytest.hookimpl(hookwrapper=True, tryfirst=True)
    def pytest_runtest_protocol(self, item: pytest.Item) -> Iterator[None]:
        """More workers than processors, yet no more busy tests than processors at a time."""
        beside = "PYTEST_XDIST_WORKER" not in os.environ or file_of(item.nodeid) in IDLE
        with nullcontext() if beside else a_processor():
            yield


@contextmanager
def a_processor() -> Iterator[None]:
    """One of the machine's processors, as long as no other worker of these tests has it."""
    folder = Path(__file__).resolve().parent.parent / ".pytest_cache"
    folder.mkdir(exist_ok=True)
    with ExitStack() as files:
        places = [
            files.enter_context((folder / f"processor-{number}").open("w"))
            for number in range(os.cpu_count() or 1)
        ]
        while not any(taken(place) for place in places):
            time.sleep(0.02)
        yield


def taken(place: TextIO) -> bool:
    try:
        fcntl.flock(place, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    return True


def pytest_configure(config: pytest.Config) -> None:
    config.pluginmanager.register(Workers())
    config.addinivalue_line("markers", "promise(name): a promise of tests/promises.py that this test holds")


@pytest.fixture(scope="session")
def demo() -> Predictor:
    """The shipped model; not to be changed."""
    import sca

    return sca.load("demo")


@pytest.fixture(scope="session")
def tiny_checkpoint(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A tiny model in our checkpoint format; not to be changed."""
    from tests.tiny_checkpoint import write_tiny_checkpoint

    return write_tiny_checkpoint(tmp_path_factory.mktemp("checkpoint") / "tiny")


@pytest.fixture(scope="session")
def tiny_predictor(tiny_checkpoint: Path) -> Predictor:
    """The same, loaded."""
    import sca

    return sca.load(tiny_checkpoint)


@pytest.fixture(scope="session")
def ray_keeper() -> Iterator[SharedRay]:
    keeper = SharedRay()
    yield keeper
    keeper.end()


@pytest.fixture
def shared_ray(ray_keeper: SharedRay) -> None:
    """Ray runs in this process, and runs use it as they find it. Actors may be killed, Ray may not."""
    ray_keeper.start()


@pytest.fixture
def own_ray(ray_keeper: SharedRay) -> Iterator[None]:
    """No Ray runs in this process: the test starts one of its own."""
    ray_keeper.stop()
    with ray_keeper.warm_workers():
        yield
