"""Names and fingerprints: which stream is this, and is it the same video as last time."""

from __future__ import annotations

import glob
import hashlib
import os
import re
from collections.abc import Sequence
from pathlib import Path

from pipeline.core.redaction import HIDDEN, redact_url
from pipeline.core.stream_names import Nameable, readable_name, unique_names
from pipeline.sources.addresses import is_webcam
from pipeline.sources.inputs import still_pictures
from pipeline.sources.source import SourceInfo, SourceKind

_EDGE_BYTES = 1 << 20
# A file is told by so many blocks, spread evenly over it. A recorder that closes its file changes the head, the ends of
# a few clusters, and goes on behind the rest.
_BLOCKS = 32
_BLOCK_BYTES = 4096
_SAME_SHARE = 0.75
_LIVE = "live:"
_IMAGES = "images:"


def stream_name(uri: str) -> str:
    """A short stream name for an address: a file's stem, a directory's name, a camera's host and path."""
    if "://" in uri:
        # Only what is shown of an address may name its stream: names become folders, and stand in every row.
        raw = redact_url(uri).partition("://")[2].partition("?")[0].partition("#")[0]
        raw = re.sub(rf"\w*=?{re.escape(HIDDEN)}", "", raw)
        raw = re.sub(r"[^A-Za-z0-9._-]+|[-_]{2,}", "-", raw).strip("-._")
    elif is_webcam(uri):
        raw = f"webcam{uri}" if uri.isdigit() else Path(uri).name
    elif os.path.isdir(uri):
        raw = Path(uri).resolve().name
    elif glob.has_magic(uri) and not os.path.lexists(uri):
        raw = Path(uri).parent.name or "images"
    else:
        raw = Path(uri).stem
    return readable_name(raw) or "stream"


def stream_names(uris: Sequence[str], given: Sequence[str | None]) -> list[str]:
    """A name for each input, no two alike; `given`: those that the user chose. Raises `UserError` for two of one name."""
    return unique_names([_nameable(uri, name) for uri, name in zip(uris, given, strict=True)])


def _nameable(uri: str, name: str | None) -> Nameable:
    plain = stream_name(uri) if name is None else name
    if "://" in uri:
        return Nameable(plain, (), redact_url(uri), name is not None)
    path = Path(uri)
    searched = os.path.isdir(uri) or (glob.has_magic(uri) and not os.path.lexists(uri))
    ending = "images" if searched else path.suffix[1:]
    folder = path.absolute().parent.name
    qualifiers = (ending, folder, f"{folder}-{ending}")
    return Nameable(plain, qualifiers, os.path.abspath(uri), name is not None)


def file_fingerprint(path: Path) -> str:
    """A file's size, and a hash of each of 32 blocks that are spread evenly over it: cheap on long recordings."""
    size = path.stat().st_size
    return f"file:{size}:{_block_hashes(path, size)}"


def goes_on(known: str, now: SourceInfo) -> bool:
    """Whether `now` is what the fingerprint `known` was taken of, or, for a file or a folder, what has grown out of that."""
    if same_content(known, now.fingerprint):
        return True
    if now.kind is SourceKind.IMAGES and known.startswith(_IMAGES):
        return _folder_goes_on(known, now.address)
    parts = known.split(":")
    if now.kind is not SourceKind.FILE or parts[0] != "file":
        return False
    path = Path(now.address)
    if len(parts) != 3 or not parts[1].isdigit():
        return known == _early_fingerprint(path)
    size = int(parts[1])
    if path.stat().st_size < size:
        return False
    before, after = _split(parts[2]), _split(_block_hashes(path, size))
    # What stands in the file several times is padding, and tells nothing.
    telling = [place for place, block in enumerate(before) if before.count(block) == 1]
    if not telling:
        return before == after
    return sum(before[place] == after[place] for place in telling) >= _SAME_SHARE * len(telling)


def _block_hashes(path: Path, size: int) -> str:
    """Four hex digits for each block of the first `size` bytes."""
    length = max(1, min(_BLOCK_BYTES, size // _BLOCKS))
    hashes = []
    with path.open("rb") as file:
        for block in range(_BLOCKS):
            file.seek(block * max(0, size - length) // (_BLOCKS - 1))
            hashes.append(hashlib.sha256(file.read(length)).hexdigest()[:4])
    return "".join(hashes)


def _split(hashes: str) -> list[str]:
    return [hashes[at : at + 4] for at in range(0, len(hashes), 4)]


def _early_fingerprint(path: Path) -> str:
    """As earlier versions wrote it: a hash of a file's size, its first and its last MiB."""
    size = path.stat().st_size
    digest = hashlib.sha256(str(size).encode())
    with path.open("rb") as file:
        digest.update(file.read(_EDGE_BYTES))
        file.seek(max(0, size - _EDGE_BYTES))
        digest.update(file.read(_EDGE_BYTES))
    return f"file:{digest.hexdigest()[:32]}"


def images_fingerprint(paths: list[Path]) -> str:
    """How many pictures an image sequence has, and a hash of their names and sizes."""
    return f"{_IMAGES}{len(paths)}:{_names_and_sizes(paths)}"


def _folder_goes_on(known: str, address: str) -> bool:
    """Whether the first pictures at `address` are those of the fingerprint `known`; earlier versions told no number."""
    number, _, digest = known.removeprefix(_IMAGES).rpartition(":")
    pictures = still_pictures(address)
    return digest == _names_and_sizes(pictures[: int(number)] if number.isdigit() else pictures)


def _names_and_sizes(paths: list[Path]) -> str:
    digest = hashlib.sha256()
    for path in paths:
        digest.update(f"{path.name}\0{path.stat().st_size}\0".encode())
    return digest.hexdigest()[:32]


def address_fingerprint(uri: str) -> str:
    """A live source is the same when what is shown of its address is the same. `uri`: an address, or such a fingerprint."""
    return f"{_LIVE}{redact_url(uri.removeprefix(_LIVE))}"


def same_content(known: str, now: str) -> bool:
    """Whether two fingerprints are of one source; stored ones of earlier versions may tell more of an address."""
    return known == now or (known.startswith(_LIVE) and address_fingerprint(known) == now)
