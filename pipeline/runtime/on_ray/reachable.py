"""What can be said of a Ray before it is asked for anything: whether a cluster listens, and whether one of our own could start.

Ray itself waits for a minute and more where nobody answers, and ends in its own words.
"""

from __future__ import annotations

import os
import re
import socket
import time
from collections.abc import Iterable

import psutil

from pipeline.core.errors import UserError
from pipeline.runtime.on_ray.own_folder import temporary_directory
from pipeline.settings.config import RuntimeOptions

_MIB = 1 << 20
_ANSWERS_WITHIN_S = 5.0
# RFC 9113, 3.4: either side of HTTP/2 begins with a frame of settings, on stream 0; the client greets before it.
_SETTINGS = 4
_FRAME_HEAD = 9
_GREETING = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n" + bytes((0, 0, 0, _SETTINGS, 0, 0, 0, 0, 0))
_TLS = "RAY_USE_TLS"
# Ray finds the cluster of this machine by itself.
_FOUND_BY_RAY = "auto"
_ADDRESS = re.compile(r"(?P<host>\[[0-9a-fA-F:.]+\]|[\w.-]+):(?P<port>\d{1,5})")


def check_ray(options: RuntimeOptions) -> None:
    """Raise `UserError` with the remedy where no Ray can be had as `options` say."""
    if options.address is None:
        temporary_directory()
        _check_own(options)
    elif options.address != _FOUND_BY_RAY:
        _check_cluster(options.address)


def check_names(names: Iterable[str]) -> None:
    """Raise `UserError` for a name that Ray cannot hand on to its processes: it takes no text that is not UTF-8."""
    for name in names:
        try:
            name.encode()
        except UnicodeEncodeError:
            raise UserError(
                f"{name}: this name is not UTF-8, which Ray cannot hand on; rename it, or use --runtime inline"
            ) from None


def _check_cluster(address: str) -> None:
    found = _ADDRESS.fullmatch(address)
    if found is None or not 0 < int(found["port"]) < 1 << 16:
        raise UserError(
            f"--address {address}: write HOST:PORT, as 'ray start --head' tells it, such as 10.0.0.5:6379; or auto for the "
            "cluster that this machine belongs to"
        )
    try:
        with socket.create_connection(
            (found["host"].strip("[]"), int(found["port"])), _ANSWERS_WITHIN_S
        ) as line:
            if os.environ.get(_TLS, "0") in ("", "0") and not _is_grpc(line):
                raise OSError(0, "what listens there is no Ray")
    except (OSError, UnicodeError) as error:
        reason = getattr(error, "strerror", None) or error
        raise UserError(
            f"no Ray cluster answers at {address} ({reason}); start one with 'ray start --head', or leave the address out "
            "to use this machine"
        ) from None


def _is_grpc(line: socket.socket) -> bool:
    """Whether the other side of a new connection begins to talk as a gRPC server does, which Ray's head is one of."""
    line.settimeout(_ANSWERS_WITHIN_S)
    line.sendall(_GREETING)
    until_s = time.monotonic() + _ANSWERS_WITHIN_S
    answer = b""
    while len(answer) < _FRAME_HEAD and time.monotonic() < until_s:
        part = line.recv(_FRAME_HEAD - len(answer))
        if not part:
            return False
        answer += part
    return len(answer) == _FRAME_HEAD and answer[3] == _SETTINGS and answer[5:] == bytes(4)


def _check_own(options: RuntimeOptions) -> None:
    address = options.node_address
    try:
        family = socket.getaddrinfo(address, 0, type=socket.SOCK_STREAM, flags=socket.AI_NUMERICHOST)[0][0]
        with socket.socket(family, socket.SOCK_STREAM) as probe:
            probe.bind((address, 0))
    except (OSError, UnicodeError):
        raise UserError(
            f"setting runtime.node_address: this machine has no address {address}; 127.0.0.1 is for this machine alone, and "
            "`hostname -I` lists the others"
        ) from None
    memory_mb = psutil.virtual_memory().total // _MIB
    if options.object_store_mb > memory_mb // 2:
        raise UserError(
            f"setting runtime.object_store_mb = {options.object_store_mb}: this machine has {memory_mb} MiB of memory, and Ray "
            "may take half of it at most; 256 serves eight cameras"
        )
