"""A quiet Ray on this machine, or a connection to an existing cluster."""

from __future__ import annotations

import contextlib
import ctypes
import gc
import logging
import os
import signal
import threading
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager, nullcontext
from pathlib import Path
from typing import TYPE_CHECKING, Any

import psutil

from pipeline.core.errors import StageFailed, UserError
from pipeline.core.leaving import abandon_threads
from pipeline.core.redaction import redact_text
from pipeline.core.stage_times import TimedStage, timed
from pipeline.runtime.driver.remote import death_text
from pipeline.runtime.on_ray.alive import RayWatch, end_now
from pipeline.runtime.on_ray.lean import lean_ray
from pipeline.runtime.on_ray.own_folder import RayFolder, new_token, ray_folder
from pipeline.settings.config import RuntimeOptions
from sca.child_processes import child_environment, code_root

if TYPE_CHECKING:
    from ray.job_config import JobConfig

log = logging.getLogger(__name__)

_MIB = 1 << 20
_START_ATTEMPTS = 3
_LOOPBACK = "127.0.0.1"
_FAMILY = "SCA_RAY_FOLDER"
# Taking leave of a dead Ray takes five seconds; a busy machine needs more.
_FAREWELL_S = 60.0
_KILLED_S = 10.0
_TOKEN_SETTINGS = ("RAY_AUTH_MODE", "RAY_AUTH_TOKEN", "RAY_AUTH_TOKEN_PATH")


class RaySession:
    """A Ray that is connected to: the cluster at `options.address`, or one of our own, which can be replaced when it has died.

    One of our own listens on `options.node_address` alone, and keeps its files in a folder that nobody else may enter.
    """

    def __init__(self, options: RuntimeOptions) -> None:
        import ray

        self._options = options
        self._ours = not ray.is_initialized()
        with timed(TimedStage.START):
            self.watch = self._start()

    @property
    def renewable(self) -> bool:
        return self._ours and self._options.address is None

    @property
    def has_gpu(self) -> bool:
        import ray

        return bool(ray.cluster_resources().get("GPU", 0) > 0)

    def renew(self) -> None:
        """Start another Ray in place of one that has died. Nothing of the old one may be held any more. Raises `StageFailed`."""
        assert self.renewable
        import ray

        # A dead Ray may never answer: then the program ends rather than wait for it.
        text = death_text(self.watch.death or "Ray")
        with _last_resort(_FAREWELL_S, text):
            self.watch.end()
            self._kill()
            gc.collect()
            ray.shutdown()
            self._during.close()
        try:
            self.watch = self._start()
        except UserError as error:
            raise StageFailed(f"{text}; {error}") from None

    def end(self) -> None:
        """Leave it; one of our own ends."""
        import ray

        self.watch.end()
        if self.watch.death is not None:
            # Its own orderly end would wait for answers of what is dead, and abort this process.
            abandon_threads()
            if self.renewable:
                self._kill()
        elif self._ours:
            ray.shutdown()
        self._during.close()

    def _start(self) -> RayWatch:
        _say_nothing_on_standard_output()
        with ExitStack() as during:
            if self._ours:
                address = self._options.address
                folder = None if address else during.enter_context(ray_folder())
                with _signals_stay_ours():
                    if folder is None:
                        _connect(str(address))
                    else:
                        during.enter_context(_token_of_its_own(folder.path))
                        during.enter_context(_family_mark(folder.path))
                        _start(self._options, folder)
            watch = RayWatch(_doors())
            self._during = during.pop_all()
        return watch

    def _kill(self) -> None:
        """End all that a Ray of our own has started, also what was started by processes of it that are dead."""
        from ray._private.worker import _global_node

        family = [one for one in psutil.process_iter() if _is_marked(one)]
        if _global_node is not None:
            _global_node.kill_all_processes(check_alive=False, allow_graceful=False)
        for process in family:  # psutil knows them by their start too, and ends nobody else
            with contextlib.suppress(psutil.Error):
                process.kill()
        psutil.wait_procs(family, timeout=_KILLED_S)


@contextmanager
def ray_session(options: RuntimeOptions) -> Iterator[RaySession]:
    """Ray, connected for the length of the block. Raises `UserError` when the cluster at `options.address` does not answer."""
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
    session = RaySession(options)
    try:
        yield session
    finally:
        session.end()


@contextmanager
def _last_resort(within_s: float, text: str) -> Iterator[None]:
    timer = threading.Timer(within_s, end_now, (text,))
    timer.daemon = True
    timer.start()
    try:
        yield
    finally:
        timer.cancel()


@contextmanager
def _family_mark(folder: Path) -> Iterator[None]:
    """What is started meanwhile, by whomever, bears the name of this Ray's folder in its environment."""
    os.environ[_FAMILY] = str(folder)
    try:
        yield
    finally:
        os.environ.pop(_FAMILY, None)


def _is_marked(process: psutil.Process) -> bool:
    mark = os.environ.get(_FAMILY)
    try:
        return mark is not None and process.pid != os.getpid() and process.environ().get(_FAMILY) == mark
    except psutil.Error:
        return False


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


def _say_nothing_on_standard_output() -> None:
    """What Ray would print there, in colours, when something of it dies goes to our log: the first line, without credentials."""
    from ray._private import worker

    def note(data: dict[str, Any], *rest: Any, **options: Any) -> None:
        line = next(iter(data.get("lines") or [""])).strip().partition("\n")[0]
        log.info("Ray says: %s", redact_text(line))

    worker.print_to_stdstream = note


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
    """Who is asked to stop is asked as before, although Ray sets handlers of its own, and its native library sets others.

    Those print a stack and abort the process three seconds later, whatever it is about to store. What Ray starts is spared the
    SIGHUP of a terminal that is closed: we hear it and end them in order.
    """
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    import ray._raylet as native
    from ray._private import utils

    stops = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)
    before = {number: signal.getsignal(number) for number in stops}
    # Ray's own types do not tell that these can be replaced.
    rays: Any = native
    theirs: Any = utils
    core_worker, set_handler = rays.CoreWorker, theirs.set_sigterm_handler

    def put_back() -> None:
        for number, handler in before.items():
            # Python believes that its handler is still there: setting it again puts it back.
            if handler is not None:
                signal.signal(number, handler)

    def make_core_worker(*words: Any, **options: Any) -> Any:
        """It is here that the native handlers come."""
        try:
            return core_worker(*words, **options)
        finally:
            put_back()

    mask = signal.pthread_sigmask(signal.SIG_BLOCK, set(stops))
    _set_native_handlers(native.__file__)
    put_back()
    signal.pthread_sigmask(signal.SIG_SETMASK, mask | {signal.SIGHUP})
    rays.CoreWorker, theirs.set_sigterm_handler = make_core_worker, lambda handler: None
    try:
        yield
    finally:
        rays.CoreWorker, theirs.set_sigterm_handler = core_worker, set_handler
        signal.pthread_sigmask(signal.SIG_SETMASK, mask)
        put_back()


def _set_native_handlers(library: str) -> None:
    """Let Ray set its native handlers now, which it does once: else it would in the middle of connecting, for seconds.

    Where a Ray has no such function, its handlers stand until it is connected.
    """
    install = getattr(ctypes.CDLL(library), _INSTALL_HANDLERS, None)
    if install is not None:
        install.argtypes, install.restype = [ctypes.c_char_p, ctypes.c_bool], None
        install(None, False)


# ray::RayLog::InstallFailureSignalHandler(const char *argv0, bool call_previous_handler)
_INSTALL_HANDLERS = "_ZN3ray6RayLog27InstallFailureSignalHandlerEPKcb"


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


def _start(options: RuntimeOptions, folder: RayFolder) -> None:
    """Start Ray here. Ray gives itself 30 s for that, which a busy machine may exceed: try again, at last with all that it brings.

    Where others may join, it comes with all that a cluster needs.
    """
    import ray

    for attempts_left in reversed(range(_START_ATTEMPTS)):
        alone = options.node_address == _LOOPBACK and attempts_left > 0
        try:
            with _on_loopback(options.node_address), lean_ray() if alone else nullcontext():
                ray.init(
                    address="local",  # never somebody else's cluster that happens to run on this machine
                    job_config=_own_code_only(),
                    include_dashboard=False,
                    log_to_driver=False,
                    logging_level=logging.ERROR,
                    object_store_memory=options.object_store_mb * _MIB,
                    num_cpus=max(2, os.cpu_count() or 2),
                    _node_ip_address=options.node_address,
                    _temp_dir=str(folder.shown),
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
