"""What is kept of decoded files is bounded, and forgotten when a file is closed, whoever closes it and whenever."""

from __future__ import annotations

import threading

import numpy as np

from pipeline.store.decoded_cache import DecodedCache


class Closing:
    """A name that is looked up at the moment in which the collector of garbage closes file 1."""

    def __init__(self, cache: DecodedCache) -> None:
        self._cache = cache

    def __hash__(self) -> int:
        self._cache.drop(1)
        return 7


def test_a_file_that_is_collected_while_the_cache_is_at_work_stops_nobody() -> None:
    cache, array = DecodedCache(), np.zeros(8, np.uint8)
    cache.keep(1, "masks", array, array.nbytes)
    asking = threading.Thread(target=lambda: cache.kept(2, Closing(cache)), daemon=True)
    asking.start()
    asking.join(timeout=60)
    assert not asking.is_alive()
    assert cache.kept(1, "masks") is None


def test_what_is_kept_is_bounded_and_goes_with_its_file() -> None:
    cache, array = DecodedCache(100), np.zeros(20, np.uint8)
    for file in range(10):
        cache.keep(file, "masks", array, array.nbytes)
    assert [file for file in range(10) if cache.kept(file, "masks") is not None] == [5, 6, 7, 8, 9]
    cache.keep(11, "whole", array, 26)
    assert cache.kept(11, "whole") is None, "a quarter of all at most"
    cache.drop(7)
    assert [file for file in range(10) if cache.kept(file, "masks") is not None] == [5, 6, 8, 9]
