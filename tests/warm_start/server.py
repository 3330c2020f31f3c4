"""Forks workers of Ray for `sitecustomize.py`, with the model's libraries imported. Usage: server.py SOCKET; says "ready"."""

from __future__ import annotations

import contextlib
import importlib
import json
import os
import runpy
import signal
import socket
import sys
import threading

# Not Ray: its settings are read from the environment of each worker when it is imported.
LIBRARIES = (
    "torch",
    "torchvision",
    "timm",
    "transformers",
    "transformers.models.gpt2.modeling_gpt2",
    "segment_anything",
    "safetensors.torch",
    "pandas",
    "zarr",
    "av",
    "cv2",
    "scipy.optimize",
)


def serve(address: str) -> None:
    door = socket.socket(socket.AF_UNIX)
    door.bind(address)
    door.listen(64)
    sys.stdout.write("ready\n")
    sys.stdout.flush()
    while True:
        caller, _ = door.accept()
        _, streams, _, _ = socket.recv_fds(caller, 1, 3)
        request = json.loads(caller.makefile().readline())
        child = os.fork()
        if child == 0:
            door.close()
            caller.close()
            become(request, streams)
        for stream in streams:
            os.close(stream)
        threading.Thread(target=tell_end, args=(child, caller), daemon=True).start()


def end_with_parent() -> None:
    """Standard input ends when whoever started this process has ended."""
    sys.stdin.read()
    os._exit(0)


def tell_end(child: int, caller: socket.socket) -> None:
    _, status = os.waitpid(child, 0)
    code = os.waitstatus_to_exitcode(status)
    with contextlib.suppress(OSError):  # who asked may be gone
        caller.sendall(b"%d\n" % (code if code >= 0 else 128 - code))
    caller.close()


def become(request: dict, streams: list[int]) -> None:
    """Be the worker: what `python ARGUMENTS` would be."""
    code = 1
    try:
        os.setsid()
        for number, stream in enumerate(streams):
            os.dup2(stream, number)
            os.close(stream)
        os.chdir(request["folder"])
        os.environ.clear()
        os.environ.update(request["environment"])
        script, *_ = sys.argv = request["arguments"]
        sys.path[0] = os.path.dirname(script)
        runpy.run_path(script, run_name="__main__")
        code = 0
    except SystemExit as leaving:
        code = leaving.code if isinstance(leaving.code, int) else int(leaving.code is not None)
    except BaseException:
        sys.excepthook(*sys.exc_info())
    finally:
        sys.stdout.flush()
        sys.stderr.flush()
        os._exit(code)


if __name__ == "__main__":
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    threading.Thread(target=end_with_parent, daemon=True).start()
    for name in LIBRARIES:
        importlib.import_module(name)
    serve(sys.argv[1])
