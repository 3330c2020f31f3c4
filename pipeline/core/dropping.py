"""What gives way when frames come faster than they are looked at: policies as pure decisions, by name.

A policy holds no frame and no clock. Whoever holds a queue asks it: the mailbox behind a camera's decoder
(`pipeline/sources/latest.py`), the buffer behind the keyframe gate (`pipeline/keyframes/buffer.py`) and the driver.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Protocol

from sca.parts import Registry, registry

# Of a stream that only wants its newest keyframe few are on the way: what waits grows stale.
_FRESH_CREDITS = 3


class DropPolicy(Protocol):
    """Decides for one stream. Subclass it: only `gives_way` has to be said; the rest may be said otherwise.

    `name`: as settings say it. `sheds`: whether the stream may be looked at less closely when it falls behind; a policy
    whose source waits has no need to.
    """

    name: str
    sheds: bool = True

    def gives_way(self, waiting_ns: Sequence[int], newcomer_ns: int) -> int | None:
        """Which frame goes when a newcomer finds no place: an index into (*waiting_ns, newcomer_ns).

        Both are wall ns of the frames, oldest first. None: nothing goes, the source waits until there is a place. Asked
        again with one frame less as long as there is no place.
        """
        ...

    def places(self, buffer: int) -> int:
        """How many keyframes may wait behind the decoder where settings say `buffer`; at least 1."""
        return buffer

    def may_read(self, waiting: int, on_the_way: int, credits: int) -> bool:
        """Whether to ask for another keyframe while `on_the_way` of at most `credits` are between source and store.

        `waiting`: those of them that nobody has begun to look at.
        """
        return on_the_way < credits


class Block(DropPolicy):
    """Nothing is dropped: the source waits."""

    name = "block"
    sheds = False

    def gives_way(self, waiting_ns: Sequence[int], newcomer_ns: int) -> int | None:
        return None


class KeepLatest(DropPolicy):
    """Only the newest keyframe waits."""

    name = "keep-latest"

    def gives_way(self, waiting_ns: Sequence[int], newcomer_ns: int) -> int | None:
        return 0

    def places(self, buffer: int) -> int:
        return 1

    def may_read(self, waiting: int, on_the_way: int, credits: int) -> bool:
        return not waiting and on_the_way < min(credits, _FRESH_CREDITS)


class DropOldest(DropPolicy):
    """The newest keyframes wait, as many as settings say."""

    name = "drop-oldest"

    def gives_way(self, waiting_ns: Sequence[int], newcomer_ns: int) -> int | None:
        return 0


BLOCK, KEEP_LATEST, DROP_OLDEST = Block(), KeepLatest(), DropOldest()

DROP_POLICIES: Registry[type[DropPolicy]] = registry(
    "drop policy",
    "drop_policies",
    {
        "block": "pipeline.core.dropping:Block",
        "keep-latest": "pipeline.core.dropping:KeepLatest",
        "drop-oldest": "pipeline.core.dropping:DropOldest",
    },
)
"""Parts are called without arguments and give a `DropPolicy`."""


def drop_policy(name: str) -> DropPolicy:
    """The policy of this name. `UserError` as in `Registry.get`."""
    return DROP_POLICIES.get(name)()
