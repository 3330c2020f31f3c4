"""Where a feed is: how far each stream was told, and which of what is still being written was told already."""

from __future__ import annotations

import json
import zlib
from collections.abc import Collection
from dataclasses import dataclass, field

from pipeline.core.errors import UserError
from sca.small_files import parsed_json

EventKey = tuple[int, int]
"""Track, and start in wall ns."""

GapKey = tuple[int, int, str]
"""Start and end in wall ns, and the reason."""

# Events that are neither closed nor followed by another of their track; the recorder leaves no more than it has live tracks.
_MOST_OPEN = 10_000
_VERSION = 1


@dataclass(slots=True)
class StreamPosition:
    """Commits before `commit` were told whole, that one as far as `told` and `gaps` say; -1: nothing.

    `told`: events that a later commit may hold again, and the commit that each was last met in. `until_ns`: wall ns of the latest
    moment that was told of.
    """

    commit: int = -1
    until_ns: int = 0
    told: dict[EventKey, int] = field(default_factory=dict)
    gaps: dict[GapKey, int] = field(default_factory=dict)

    def tells(self, event: EventKey, commit: int) -> bool:
        """Remember an event of a commit. Whether it is new."""
        new = event not in self.told
        self.told[event] = commit
        return new

    def tells_gap(self, gap: GapKey, commit: int) -> bool:
        """The same of a gap; those are written once."""
        new = gap not in self.gaps
        self.gaps[gap] = commit
        return new

    def reached(self, commit: int, closed: Collection[int] = ()) -> None:
        """All up to `commit` was told. Forget what no later commit can hold: events of `closed` tracks, and those that another
        of their track follows.
        """
        self.commit = max(self.commit, commit)
        self.gaps = {key: met for key, met in self.gaps.items() if met >= self.commit}
        latest: dict[int, int] = {}
        for track, start in self.told:
            latest[track] = max(start, latest.get(track, start))
        self.told = {
            (track, start): met
            for (track, start), met in self.told.items()
            if met >= self.commit or (start == latest[track] and track not in closed)
        }
        if len(self.told) > _MOST_OPEN:
            kept = sorted(self.told.items(), key=lambda item: item[1])[-_MOST_OPEN:]
            self.told = dict(kept)


@dataclass(frozen=True, slots=True)
class FeedCursor:
    """Where a feed is in each stream. `identities`: which streams these are, of those that have an identity."""

    positions: dict[str, StreamPosition]
    identities: dict[str, str] = field(default_factory=dict)

    def text(self) -> str:
        """As one line of JSON, for `read`. With a checksum: another digit would let events go untold, or come twice."""
        streams = {
            name: {
                "commit": one.commit,
                "until": one.until_ns,
                "told": [[*key, met] for key, met in one.told.items()],
                "gaps": [[*key, met] for key, met in one.gaps.items()],
                **({"id": self.identities[name]} if self.identities.get(name) else {}),
            }
            for name, one in self.positions.items()
        }
        told = _canonical({"cursor": _VERSION, "streams": streams})
        return f'{told[:-1]},"crc32":{zlib.crc32(told.encode())}}}'

    @classmethod
    def read(cls, text: str, what: str = "the cursor") -> FeedCursor:
        """Raises `UserError` naming `what` for a text that is no cursor."""
        try:
            document = parsed_json(text)
            if document["cursor"] != _VERSION:
                raise ValueError(f"it is of version {document['cursor']!r}")
            told_crc = document.pop("crc32", None)  # earlier versions wrote none
            if told_crc not in (None, zlib.crc32(_canonical(document).encode())):
                raise ValueError("it has another checksum than it was written with")
            positions, identities = {}, {}
            for name, one in document["streams"].items():
                told = {(_number(track), _number(start)): _number(met) for track, start, met in one["told"]}
                gaps = {
                    (_number(start), _number(end), str(reason)): _number(met)
                    for start, end, reason, met in one["gaps"]
                }
                positions[str(name)] = StreamPosition(
                    _number(one["commit"]), _number(one["until"]), told, gaps
                )
                identities[str(name)] = str(one.get("id", ""))
        except (ValueError, KeyError, TypeError, AttributeError, RecursionError) as error:
            raise UserError(
                f"{what} cannot be read ({type(error).__name__}: {error}): give one that this command wrote, or begin without it"
            ) from None
        return cls(positions, identities)


def _canonical(document: object) -> str:
    return json.dumps(document, sort_keys=True, separators=(",", ":"))


def _number(value: object) -> int:
    if not isinstance(value, int) or isinstance(value, bool):
        raise ValueError(f"{value!r} is no whole number")
    return value
