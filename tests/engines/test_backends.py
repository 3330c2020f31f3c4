"""Our own engine back ends keep what every one keeps."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from engines.backends import BACKENDS, backend_named
from engines.backends.interface import Backend
from engines.backends.openvino import OpenVinoBackend
from engines.devices import Precision, probe
from engines.openvino_blob import load_blob
from engines.testing import BackendTests, small_stage
from sca.lanes import Lanes


class TestBackends(BackendTests):
    # Inductor compiles C++ for minutes and is tried by its benchmark.
    @pytest.fixture(autouse=True, params=[name for name in BACKENDS.own if name != "inductor"])
    def _choose(self, request: pytest.FixtureRequest) -> None:
        self.name = request.param

    def backend(self) -> Backend:
        return backend_named(self.name)


def test_names_are_those_of_the_registry() -> None:
    assert [backend_named(name).name for name in BACKENDS.own] == list(BACKENDS.own)


def test_an_engine_that_has_made_its_first_call_gives_what_one_that_has_not_gives(tmp_path: Path) -> None:
    """It is made on zeros in the least shapes, where the engine is small."""
    stage, device = small_stage(), probe("cpu")
    OpenVinoBackend().build(stage, Precision.FLOAT32, device, tmp_path, lambda line: None)
    inputs = [value.numpy() for value in stage.example()]
    cold, warm = (load_blob(tmp_path, Precision.FLOAT32, 1, warm=first) for first in (False, True))
    for one, other in zip(cold(*inputs), warm(*inputs), strict=True):
        np.testing.assert_array_equal(one, other)


def test_an_engine_answers_several_lanes_at_once(tmp_path: Path) -> None:
    stage, device = small_stage(), probe("cpu")
    OpenVinoBackend().build(stage, Precision.FLOAT32, device, tmp_path, lambda line: None)
    example = [value.numpy() for value in stage.example()]
    asked = [[value * (1 + number) for value in example] for number in range(20)]
    alone = load_blob(tmp_path, Precision.FLOAT32, 1)
    beside = load_blob(tmp_path, Precision.FLOAT32, 3, 3)
    answers = Lanes(3).map(lambda inputs: beside(*inputs), asked)
    for inputs, answer in zip(asked, answers, strict=True):
        for one, other in zip(alone(*inputs), answer, strict=True):
            np.testing.assert_allclose(one, other, rtol=1e-5, atol=1e-6)
