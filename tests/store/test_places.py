"""The local disk keeps what every place of a store keeps."""

from __future__ import annotations

from pathlib import Path

import pytest

from pipeline.store import CaptionStore
from pipeline.store.place import LocalPlace, StorePlace
from pipeline.testing.places import StorePlaceTests


class TestLocalPlace(StorePlaceTests):
    def place(self, path: Path) -> StorePlace:
        return LocalPlace(path / "place")

    def address(self, path: Path) -> str:
        return f"file://{path}/a.zarr"


def test_an_unknown_address_is_told_with_those_that_are_known() -> None:
    with pytest.raises(ValueError, match="unknown place of a store 'fil'; did you mean 'file'"):
        CaptionStore.open("fil:///tmp/a.zarr")
