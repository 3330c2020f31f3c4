"""Found by every Python that Ray starts for a test: a worker of Ray is forked by a process that has imported the libraries.

Importing the model's libraries takes a worker ten seconds of processor time, which whole runs would pay dozens of times. This
process hands its arguments, environment and streams to `server.py`, which forks the worker; it ends when the worker does. All
else starts as usual, and so does a worker where no server answers.
"""

import json
import os
import socket
import sys


def fork_elsewhere(address: str, arguments: list[str]) -> int | None:
    """The exit code of the worker that the server at `address` forked; None without one."""
    request = {"arguments": arguments, "environment": dict(os.environ), "folder": os.getcwd()}
    try:
        server = socket.socket(socket.AF_UNIX)
        server.connect(address)
        socket.send_fds(server, [b"0"], [0, 1, 2])
        server.sendall(json.dumps(request).encode() + b"\n")
        answer = server.makefile().readline()
    except OSError:
        return None
    return int(answer) if answer.strip() else 1


def worker_arguments(command: list[str]) -> list[str]:
    """The script of a worker and what follows it; empty if the command starts something else."""
    script = next((n for n, word in enumerate(command) if n and not word.startswith("-")), 0)
    return command[script:] if os.path.basename(command[script]) == "default_worker.py" else []


if (address := os.environ.get("SCA_WARM_START")) and (arguments := worker_arguments(sys.orig_argv)):
    code = fork_elsewhere(address, arguments)
    if code is not None:
        os._exit(code)
