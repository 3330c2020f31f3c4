"""A quiet Ray on this machine, or a connection to an existing cluster."""

from __future__ import annotations

import contextlib
import logging
import os
import signal
import threading
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import psutil

from pipeline.core.errors import UserError
from pipeline.core.leaving import abandon_threads
from pipeline.runtime.on_ray.alive import RayWatch
from pipeline.runtime.on_ray.own_folder import new_token, ray_folder
from pipeline.settings.config import RuntimeOptions
from sca.child_processes import child_environment, code_root

if TYPE_CHECKING:
    from ray.job_config import JobConfig

_MIB = 1 << 20
_START_ATTEMPTS = 3
_LOOPBACK = "127.0.0.1"
_TOKEN_SETTINGS = ("RAY_AUTH_MODE", "RAY_AUTH_TOKEN", "RAY_AUTH_TOKEN_PATH")


@dataclass(frozen=True, slots=True)
class RaySession:
    """A Ray that is connected to. `watch`: whether it is alive."""

    has_gpu: bool
    watch: RayWatch


@contextmanager
def ray_session(options: RuntimeOptions) -> Iterator[RaySession]:
    """Ray, connected for the length of the block: the cluster at `options.address`, or one on this machine.

    One of our own listens on `options.node_address` alone, and keeps its files in a folder that nobody else may enter. Raises `UserError` when the cluster at `options.address` does not answer.
    """
    # Must be in the environment before Ray is imported, and reaches the workers through it.
    os.environ.update(child_environment())
    os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")
    os.environ.setdefault("RAY_DEDUP_LOGS", "0")
    os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")
    # A worker has dozens of threads, and glibc would give eight heaps a processor to them, each of which fills up.
    os.environ.setdefault("MALLOC_ARENA_MAX", "2")
    # Ray runs its workers at niceness 15, so that anything else on the machine starves them.
    os.environ.setdefault("RAY_worker_niceness", "0")
    os.environ.setdefault("RAY_ACCEL_ENV_VAR_OVERRIDE_ON_ZERO", "0")
    # Ray would remember its last 100,000 calls for a dashboard that we do not start: 100 MiB an hour until it is full.
    os.environ.setdefault("RAY_task_events_report_interval_ms", "0")
    # What an actor raised is logged by us, without credentials; Ray would print it once more for each of its values.
    os.environ.setdefault("RAY_IGNORE_UNHANDLED_ERRORS", "1")
    import ray

    ours = not ray.is_initialized()
    with ExitStack() as during:
        if ours:
            folder = None if options.address else during.enter_context(ray_folder())
            with _signals_stay_ours():
                if folder is None:
                    _connect(str(options.address))
                else:
                    during.enter_context(_token_of_its_own(folder))
                    _start(options, folder)
        watch = RayWatch(_doors())
        try:
            yield RaySession(ray.cluster_resources().get("GPU", 0) > 0, watch)
        finally:
            watch.end()
            if watch.death is not None:
                _abandon()
            elif ours:
                ray.shutdown()


def _doors() -> dict[str, str]:
    """Where Ray's processes answer, by what they are to a user."""
    import ray
    from ray._private.worker import global_worker

    node = global_worker.node
    assert node is not None, "only a driver that is connected asks"
    return {
        "Ray's head (GCS)": ray.get_runtime_context().gcs_address,
        "Ray on this machine (its raylet)": node.raylet_socket_name,
    }


def _abandon() -> None:
    """Leave a Ray that has died: its own orderly end would wait for answers of what is dead, and abort this process.

    What it started here and still lives is ended; what has lost its raylet already ends by itself.
    """
    from ray._private.worker import _global_node

    abandon_threads()
    if _global_node is None or not _global_node.is_head():
        return
    below = [child for child in psutil.Process().children(recursive=True) if child.ppid() != os.getpid()]
    _global_node.kill_all_processes(check_alive=False, allow_graceful=False)
    for child in below:  # of the raylet: psutil knows them by their start too, and ends nobody else
        with contextlib.suppress(psutil.Error):
            child.kill()


@contextmanager
def _token_of_its_own(folder: Path) -> Iterator[None]:
    """Unless the user has settled it, what this Ray's processes show each other is a password in `folder`.

    Ray would write one into the home directory, readable by everybody, or not start where that cannot be written.
    """
    if any(name in os.environ for name in _TOKEN_SETTINGS):
        yield
        return
    import ray._raylet as native

    # Ray's own types do not tell of it.
    loader: Any = native
    os.environ["RAY_AUTH_TOKEN_PATH"] = str(new_token(folder))
    loader.AuthenticationTokenLoader.instance().reset_cache()
    try:
        yield
    finally:
        for name in _TOKEN_SETTINGS:  # Ray has set its mode
            os.environ.pop(name, None)
        # This process would demand a token of the next cluster, too, which may have none. First the mode: threads that still
        # live would abort on a mode without its token.
        loader.Config.initialize("")
        loader.AuthenticationTokenLoader.instance().reset_cache()


@contextmanager
def _on_loopback(address: str) -> Iterator[None]:
    """Ray takes a loopback address for a wish to be reached, and listens on every address, unless it is to know no clusters."""
    from ray._private import ray_constants

    before = ray_constants.ENABLE_RAY_CLUSTER
    ray_constants.ENABLE_RAY_CLUSTER = before and address != _LOOPBACK
    try:
        yield
    finally:
        ray_constants.ENABLE_RAY_CLUSTER = before


@contextmanager
def _signals_stay_ours() -> Iterator[None]:
    """Who is asked to stop is asked as before, although Ray's native library has put its own handlers there meanwhile.

    Those print a stack and abort the process three seconds later, whatever it is about to store. What Ray starts is spared the
    SIGHUP of a terminal that is closed: we hear it and end them in order.
    """
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    stops = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)
    before = {number: signal.getsignal(number) for number in stops}
    mask = signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGHUP})
    try:
        yield
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, mask)
        for number, handler in before.items():
            # Python believes that its handler is still there: setting it again puts it back.
            if handler is not None:
                signal.signal(number, handler)


def _connect(address: str) -> None:
    import ray

    try:
        ray.init(
            address=address, job_config=_own_code_only(), log_to_driver=False, logging_level=logging.ERROR
        )
    except ConnectionError:
        raise UserError(
            f"no Ray cluster answers at {address}; start one with 'ray start --head', or leave the address out to "
            "use this machine"
        ) from None


def _start(options: RuntimeOptions, folder: Path) -> None:
    """Start Ray here. Ray gives itself 30 s for that, which a busy machine may exceed: try again."""
    import ray

    for attempts_left in reversed(range(_START_ATTEMPTS)):
        try:
            with _on_loopback(options.node_address):
                ray.init(
                    address="local",  # never somebody else's cluster that happens to run on this machine
                    job_config=_own_code_only(),
                    include_dashboard=False,
                    log_to_driver=False,
                    logging_level=logging.ERROR,
                    object_store_memory=options.object_store_mb * _MIB,
                    num_cpus=max(2, os.cpu_count() or 2),
                    _node_ip_address=options.node_address,
                    _temp_dir=str(folder / "r"),  # which Ray opens to everybody: the folder around it is not
                )
            return
        except ValueError:
            raise
        except Exception as error:
            ray.shutdown()
            if not attempts_left:
                raise _not_started(error) from None


def _not_started(error: Exception) -> UserError:
    reason = str(error).strip().splitlines()[0]
    return UserError(
        f"Ray did not start on this machine ({reason}); run the command again when it is less busy, or with "
        "--runtime inline"
    )


def _own_code_only() -> JobConfig:
    """What the workers import from: where our packages are, never the folder that the command was given in.

    Ray would put the driver's working directory and the script's folder in front of the workers' own path, unless the
    job brings a working directory of its own.
    """
    from ray.job_config import JobConfig

    class OwnCode(JobConfig):
        def _runtime_env_has_working_dir(self) -> bool:
            return True

    root = code_root()
    return OwnCode(_py_driver_sys_path=[] if root is None else [str(root)])
