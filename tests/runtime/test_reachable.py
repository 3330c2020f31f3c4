"""A Ray that cannot be had is told in a moment and in our words, before anything starts."""

from __future__ import annotations

import socket

import pytest

from pipeline.core.errors import UserError
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


def test_a_cluster_that_nobody_answers_for_is_told_at_once() -> None:
    with socket.create_server(("127.0.0.1", 0)) as server:
        port = server.getsockname()[1]
        check_ray(RuntimeOptions(address=f"127.0.0.1:{port}"))
    with pytest.raises(UserError, match=rf"no Ray cluster answers at 127\.0\.0\.1:{port}"):
        check_ray(RuntimeOptions(address=f"127.0.0.1:{port}"))
    with pytest.raises(UserError, match="no Ray cluster answers"):
        check_ray(RuntimeOptions(address=f"{'a' * 64}.example:6379"))
    check_ray(RuntimeOptions(address="auto"))


@pytest.mark.parametrize("address", ["203.0.113.7", "here", "", "\x1b[2J"])
def test_a_ray_of_our_own_listens_only_where_this_machine_is(address: str) -> None:
    with pytest.raises(UserError, match=r"runtime\.node_address"):
        check_ray(RuntimeOptions(node_address=address))


def test_a_ray_of_our_own_takes_no_more_memory_than_there_is() -> None:
    check_ray(RuntimeOptions())
    with pytest.raises(UserError, match=r"runtime\.object_store_mb = 999999999"):
        check_ray(RuntimeOptions(object_store_mb=999_999_999))
