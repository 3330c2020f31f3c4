"""Our own engine back ends keep what every one keeps."""

from __future__ import annotations

import pytest

from engines.backends import BACKENDS, backend_named
from engines.backends.interface import Backend
from engines.testing import BackendTests


class TestBackends(BackendTests):
    # Inductor compiles C++ for minutes and is tried by its benchmark.
    @pytest.fixture(autouse=True, params=[name for name in BACKENDS.own if name != "inductor"])
    def _choose(self, request: pytest.FixtureRequest) -> None:
        self.name = request.param

    def backend(self) -> Backend:
        return backend_named(self.name)


def test_names_are_those_of_the_registry() -> None:
    assert [backend_named(name).name for name in BACKENDS.own] == list(BACKENDS.own)
