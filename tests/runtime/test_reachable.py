"""A Ray that cannot be had is told in a moment and in our words, before anything starts."""

from __future__ import annotations

import contextlib
import socket
import threading
from collections.abc import Iterator
from contextlib import contextmanager

import pytest

from pipeline.core.errors import UserError
from pipeline.runtime.on_ray import reachable
from pipeline.runtime.on_ray.reachable import check_ray
from pipeline.settings.config import RuntimeOptions

pytestmark = pytest.mark.promise("ray-cannot")


@pytest.mark.parametrize(
    "address",
    ["", "x", "\x1b[2J", "ray://x:10001", "127.0.0.1:0", "127.0.0.1:99999", "local", "::1:6379", ":6379"],
)
def test_an_address_that_is_none_is_refused(address: str) -> None:
    with pytest.raises(UserError, match="write HOST:PORT"):
        check_ray(RuntimeOptions(address=address))


@pytest.mark.parametrize(
    ("answer", "told"),
    [
        (b"", "timed out"),
        (b"\0", "timed out"),
        (None, "what listens there is no Ray"),
        (b"HTTP/1.1 400 Bad Request\r\n\r\n", "what listens there is no Ray"),
        (b"SSH-2.0-OpenSSH_9.2\r\n", "what listens there is no Ray"),
        (bytes(200), "what listens there is no Ray"),
    ],
)
def test_who_listens_and_is_no_ray_is_told_soon(
    answer: bytes | None, told: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It says nothing, hangs up, or speaks another language."""
    monkeypatch.setattr(reachable, "_ANSWERS_WITHIN_S", 0.3)
    with answering(answer) as port, pytest.raises(UserError, match=told) as error:
        check_ray(RuntimeOptions(address=f"127.0.0.1:{port}"))
    assert "\n" not in str(error.value)
    assert f"no Ray cluster answers at 127.0.0.1:{port}" in str(error.value)


def test_who_speaks_as_ray_does_is_let_in_and_nobody_is_told_at_once() -> None:
    with answering(bytes((0, 0, 6, 4, 0, 0, 0, 0, 0)) + bytes(6)) as port:
        check_ray(RuntimeOptions(address=f"127.0.0.1:{port}"))
    with pytest.raises(UserError, match=rf"no Ray cluster answers at 127\.0\.0\.1:{port}"):
        check_ray(RuntimeOptions(address=f"127.0.0.1:{port}"))
    with pytest.raises(UserError, match="no Ray cluster answers"):
        check_ray(RuntimeOptions(address=f"{'a' * 64}.example:6379"))
    check_ray(RuntimeOptions(address="auto"))


@contextmanager
def answering(answer: bytes | None) -> Iterator[int]:
    """The port of somebody who says that to whoever calls, and nothing more; None: who hangs up."""
    lines: list[socket.socket] = []

    def serve() -> None:
        with contextlib.suppress(OSError):
            while True:
                line, _ = server.accept()
                line.recv(1024)
                if answer is None:
                    line.close()
                else:
                    line.sendall(answer)
                    lines.append(line)

    with socket.create_server(("127.0.0.1", 0)) as server:
        threading.Thread(target=serve, daemon=True).start()
        try:
            yield server.getsockname()[1]
        finally:
            server.shutdown(socket.SHUT_RDWR)
            for line in lines:
                line.close()


@pytest.mark.parametrize("address", ["203.0.113.7", "here", "", "\x1b[2J"])
def test_a_ray_of_our_own_listens_only_where_this_machine_is(address: str) -> None:
    with pytest.raises(UserError, match=r"runtime\.node_address"):
        check_ray(RuntimeOptions(node_address=address))


def test_a_ray_of_our_own_takes_no_more_memory_than_there_is() -> None:
    check_ray(RuntimeOptions())
    with pytest.raises(UserError, match=r"runtime\.object_store_mb = 999999999"):
        check_ray(RuntimeOptions(object_store_mb=999_999_999))
