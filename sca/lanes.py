"""Several things at once, each computed by a part of the processor: small stages share out over one another, not over cores."""

from __future__ import annotations

import heapq
import itertools
import threading
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import Any, Generic, TypeVar

import numpy as np

T = TypeVar("T")
R = TypeVar("R")

# What others wait for comes first, and what they have begun before what they have not: parts of a part.
_WITHIN, _ASKED, _LATER = range(3)

_here = threading.local()


class Begun(Generic[R]):
    """Items that are worked on, by whoever is free."""

    def __init__(self, work: Callable[[Any], R], items: Sequence[Any]) -> None:
        self._work, self._items = work, items
        self._made: list[R | None] = [None] * len(items)
        self._taken = 0
        self._left = len(items)
        self._fault: BaseException | None = None
        self._lock, self._done = threading.Lock(), threading.Event()
        if not items:
            self._done.set()

    @property
    def taken(self) -> bool:
        """Whether somebody is at it, or was."""
        return self._taken > 0

    def step(self) -> bool:
        """Work on the next item, if there is one that nobody has taken."""
        with self._lock:
            number = self._taken
            if number == len(self._items):
                return False
            self._taken += 1
        try:
            self._made[number] = self._work(self._items[number])
        except BaseException as fault:  # for whoever waits
            self._fault = self._fault or fault
        with self._lock:
            self._left -= 1
            if not self._left:
                self._done.set()
        return True

    def wait(self) -> None:
        """Until all are done, however they ended."""
        self._done.wait()

    def results(self) -> list[R]:
        """What came of the items, in their order, when all are done; raises what the work raised."""
        self.wait()
        if self._fault is not None:
            raise self._fault
        return self._made  # type: ignore[return-value]


class Lanes:
    """As many threads as there are engines that compute at once.

    Two cores that share out one small layer wait for each other at its end, and for whoever decodes meanwhile. Five views of a
    picture, measured on two cores: 13 % less time than one after the other and 24 % less of the processors, and 30 and 33 %
    while a film is decoded beside (`benchmarks/lanes.py`).
    """

    def __init__(self, count: int = 1) -> None:
        self.count = max(1, count)
        self._pool = ThreadPoolExecutor(self.count, "lane") if self.count > 1 else None
        self._waiting: list[tuple[int, int, Begun[Any]]] = []
        self._numbers = itertools.count()
        self._lock = threading.Lock()

    @property
    def waiting(self) -> int:
        """Items that no lane has come to yet."""
        return len(self._waiting)

    def map(self, work: Callable[[T], R], items: Sequence[T]) -> list[R]:
        """What `work` gives of each item, in their order; raises what it raises. It may itself be in a lane."""
        if self._pool is None or len(items) < 2:
            return [work(item) for item in items]
        within = bool(getattr(_here, "in_lane", False))
        begun = self._begin(work, items, _WITHIN if within else _ASKED)
        while within and begun.step():  # a lane that only waited would be lost
            pass
        return begun.results()

    def later(self, work: Callable[[T], R], item: T) -> Begun[R]:
        """Begin what is not waited for yet, when a lane has nothing else to do; at once where there is but one lane."""
        if self._pool is None:
            begun = Begun(work, [item])
            begun.step()
            return begun
        return self._begin(work, [item], _LATER)

    def _begin(self, work: Callable[[T], R], items: Sequence[T], urgency: int) -> Begun[R]:
        assert self._pool is not None
        begun = Begun(work, items)
        with self._lock:
            for _ in items:
                heapq.heappush(self._waiting, (urgency, next(self._numbers), begun))
        for _ in items:
            self._pool.submit(self._serve)
        return begun

    def _serve(self) -> None:
        _here.in_lane = True
        with self._lock:
            begun = heapq.heappop(self._waiting)[-1]
        begun.step()


ONE_LANE = Lanes()
"""For a model that fills the processor by itself, or a GPU."""


def pieces(count: int, largest: int, lanes: Lanes, least: int = 1) -> list[slice]:
    """`count` rows in as few parts of `largest` rows at most as fill the lanes with `least` rows each; none of no rows."""
    number = min(count, max(-(-count // largest), min(lanes.count, count // least), 1))
    ends = [count * piece // number for piece in range(number + 1)] if number else [0]
    return [slice(*pair) for pair in itertools.pairwise(ends)]


def in_chunks(
    run: Callable[..., tuple[np.ndarray, ...]],
    largest: int,
    batched: Sequence[np.ndarray],
    lanes: Lanes = ONE_LANE,
    least: int = 1,
) -> tuple[np.ndarray, ...]:
    """Calls `run(*batched)` by `pieces`, side by side in the lanes."""
    parts = pieces(len(batched[0]), largest, lanes, least)
    if len(parts) < 2:
        return run(*batched)
    made = lanes.map(lambda part: run(*(value[part] for value in batched)), parts)
    return tuple(np.concatenate(parts) for parts in zip(*made, strict=True))
