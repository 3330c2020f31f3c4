# ruff: noqa: F811 - fixtures that fixtures ask for
"""A real S3 server and the network before it, for the tests that ask for them; stores lie in memory."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.memory_folders import temporary_files_in_memory, tmp_path, tmp_path_factory  # noqa: F401 - fixtures
from tests.s3_server import Network, bucket_environment, s3_server


@pytest.fixture(scope="session")
def server() -> Iterator[int]:
    with s3_server() as port:
        yield port


@pytest.fixture(scope="session")
def a_network(server: int) -> Iterator[Network]:
    network = Network(server)
    yield network
    network.close()


@pytest.fixture
def direct(server: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> int:
    """Nothing lies between this process and the server."""
    for name, value in bucket_environment(server, tmp_path / "spool").items():
        monkeypatch.setenv(name, value)
    return server


@pytest.fixture
def network(a_network: Network, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Network:
    """Whole, and this process is led to it."""
    for name, value in bucket_environment(a_network.port, tmp_path / "spool").items():
        monkeypatch.setenv(name, value)
    a_network.mend()
    return a_network
