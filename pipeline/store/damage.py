"""What is wrong with a segment or archive: which one cannot be read, and whether its content belongs to its name."""

from __future__ import annotations

import errno
from collections.abc import Mapping
from typing import Any

from pipeline.core.errors import StoreRefused
from pipeline.store.place import StorePlace
from pipeline.store.segment_name import SegmentName
from pipeline.store.stream_info import identity_of

# Of what is refused for these reasons nothing is known: it may be whole.
_OF_THE_READER = (errno.EACCES, errno.EPERM, errno.EMFILE, errno.ENFILE, errno.ENOMEM)


def is_of_the_reader(error: Exception) -> bool:
    """Whether a file could not be read because of who reads it, or of the machine, and not because of what it is."""
    return isinstance(error, OSError) and error.errno in _OF_THE_READER


class SegmentRefused(StoreRefused):
    """One segment or archive that cannot be used. `key`: its name in the stream's place; the others can be."""

    def __init__(self, message: str, key: str) -> None:
        super().__init__(message)
        self.key = key


class SegmentDamaged(SegmentRefused):
    """A segment or archive of which some byte is not what was written. The time in its name counts as a gap."""

    def __init__(self, kind: str, path: object, key: str, reason: object) -> None:
        super().__init__(
            f"{kind} {path} is damaged ({reason}): restore it from a copy, or move it out of the store; "
            "the time it held then counts as a gap",
            key,
        )
        self.path = str(path)
        self.reason = str(reason)


def _holds_counts(rows: object) -> bool:
    return isinstance(rows, Mapping) and all(type(count) is int and count >= 0 for count in rows.values())


def hold_against_name(attrs: Mapping[str, Any], place: StorePlace, key: str) -> None:
    """Raise ValueError where the root attributes are those of another stream, another store or other commits than the name tells.

    A key that is no name of a segment (a file that lies elsewhere) is held against nothing.
    """
    folder, _, entry = key.rpartition("/")
    name = SegmentName.parse(folder, entry)
    if name is None:
        return
    try:
        told = (*attrs["seq"], *(attrs[each] for each in ("epoch", "t_min", "t_max", "level")))
        whose = attrs["stream"]
        numbers = [attrs.get(each, 0) for each in ("track_min", "track_max", "trk_t_min", "trk_t_max")]
        numbers += attrs["resume"].values()
        whole = _holds_counts(attrs["rows"]) and all(type(number) is int for number in numbers)
        whole = whole and isinstance(attrs.get("chunks", {}), Mapping)
    except (KeyError, TypeError, AttributeError) as error:
        raise ValueError(f"its attributes lack {error}") from None
    if not whole:
        raise ValueError("its attributes are not those of a segment")
    if whose != place.where.rpartition("/")[2]:
        raise ValueError(f"its content is that of stream {whose!r}")
    # Streams and segments of earlier versions have no identity.
    if attrs.get("stream_id") and identity_of(place) not in ("", attrs["stream_id"]):
        raise ValueError("its content is that of a stream of this name in another store")
    if told != (name.lo, name.hi, name.epoch, name.t_min, name.t_max, name.level):
        raise ValueError("its content is that of other commits than its name tells")
