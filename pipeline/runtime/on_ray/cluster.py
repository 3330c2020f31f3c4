"""A quiet Ray on this machine, or a connection to an existing cluster."""

from __future__ import annotations

import logging
import os
import signal
import threading
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import TYPE_CHECKING

from pipeline.core.errors import UserError
from pipeline.settings.config import RuntimeOptions
from sca.child_processes import child_environment, code_root

if TYPE_CHECKING:
    from ray.job_config import JobConfig

_MIB = 1 << 20
_START_ATTEMPTS = 3


@contextmanager
def ray_session(options: RuntimeOptions) -> Iterator[bool]:
    """Ray, connected for the length of the block; yields whether it has GPUs.

    Raises `UserError` when the cluster at `options.address` does not answer.
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
    if ours:
        with _signals_stay_ours():
            if options.address:
                _connect(options.address)
            else:
                _start(options)
    try:
        yield ray.cluster_resources().get("GPU", 0) > 0
    finally:
        if ours:
            ray.shutdown()


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


# Below its temporary directory, Ray makes sockets, whose paths Unix limits.
_LONGEST_SOCKET_PATH = 107
_SOCKET = "ray/session_2026-01-01_00-00-00_000000_{pid}/sockets/plasma_store"


def check_temporary_directory(environment: Mapping[str, str] = os.environ) -> None:
    """Raise `UserError` where Ray could not start on this machine because of its temporary directory."""
    name = "RAY_TMPDIR" if environment.get("RAY_TMPDIR") else "TMPDIR"
    directory = environment.get(name) or "/tmp"
    socket = os.path.join(os.path.abspath(directory), _SOCKET.format(pid=os.getpid()))
    over = len(os.fsencode(socket)) - _LONGEST_SOCKET_PATH
    if over > 0:
        raise UserError(
            f"{name}={directory}: this path is {over} bytes too long for the sockets that Ray makes below it; set {name} to "
            "a shorter one, such as /tmp, or use --runtime inline"
        )
    if os.path.lexists(directory) and not os.access(directory, os.W_OK | os.X_OK):
        raise UserError(
            f"{name}={directory}: Ray cannot write there; set {name} to a directory that can be written"
        )


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


def _start(options: RuntimeOptions) -> None:
    """Start Ray here. Ray gives itself 30 s for that, which a busy machine may exceed: try again."""
    import ray

    for attempts_left in reversed(range(_START_ATTEMPTS)):
        try:
            ray.init(
                address="local",  # never somebody else's cluster that happens to run on this machine
                job_config=_own_code_only(),
                include_dashboard=False,
                log_to_driver=False,
                logging_level=logging.ERROR,
                object_store_memory=options.object_store_mb * _MIB,
                num_cpus=max(2, os.cpu_count() or 2),
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
