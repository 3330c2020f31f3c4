"""A Ray of our own without what only a cluster or its dashboard needs: five Python processes, 270 MiB and five seconds of a processor.

Ray has no settings for that. What is left out: the autoscaler's monitor and the monitor of logs, the dashboard's server, and on the
node its agent and that of runtime environments, which we do not use. The raylet wants to start the two agents and ends when one of
them does; what it starts instead reads its standard input, which ends with the raylet.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

_STAND_IN = "cat"
_AGENTS = ("--dashboard_agent_command=", "--runtime_env_agent_command=")
_WORKERS = "--num_prestart_python_workers="
_UNUSED = ("start_monitor", "start_log_monitor", "start_api_server")
# The raylet keeps back its answer to us until so many workers are there: those that a run needs at once, not one a processor.
_FIRST_WORKERS = 3
# What an agent that serves nothing tells the raylet. Of runtime environments it is told a port, and asks there when one is wanted.
_NOT_SERVED = -1
_NOBODYS_PORT = 1


@contextmanager
def lean_ray() -> Iterator[None]:
    """A Ray that is started within the block comes without them."""
    import ray._private.services
    from ray._private.node import Node

    services: Any = ray._private.services
    before = {name: getattr(Node, name) for name in _UNUSED}
    start = services.start_ray_process

    def start_lean(command: list[str], kind: str, *rest: Any, **options: Any) -> Any:
        return start(_lean(command) if kind == "raylet" else command, kind, *rest, **options)

    for name in _UNUSED:
        setattr(Node, name, _nothing)
    services.start_ray_process = start_lean
    try:
        yield
    finally:
        services.start_ray_process = start
        for name, method in before.items():
            setattr(Node, name, method)


def _nothing(node: Any, **options: Any) -> None:
    """In place of starting a process."""


def _lean(command: list[str]) -> list[str]:
    """The command of a raylet without its agents, which have told their ports already."""
    import ray._raylet as native

    ray: Any = native
    told = dict(word[2:].split("=", 1) for word in command if word.startswith("--") and "=" in word)
    for name, port in (
        (ray.METRICS_AGENT_PORT_NAME, _NOT_SERVED),
        (ray.METRICS_EXPORT_PORT_NAME, _NOT_SERVED),
        (ray.DASHBOARD_AGENT_LISTEN_PORT_NAME, _NOT_SERVED),
        (ray.RUNTIME_ENV_AGENT_PORT_NAME, _NOBODYS_PORT),
    ):
        ray.persist_port(told["session_dir"], told["node_id"], name, port)
    return [_leaner(word) for word in command]


def _leaner(word: str) -> str:
    for agent in _AGENTS:
        if word.startswith(agent):
            return agent + _STAND_IN
    if word.startswith(_WORKERS):
        return f"{_WORKERS}{min(_FIRST_WORKERS, int(word.removeprefix(_WORKERS)))}"
    return word
