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

_EDGE_BYTES = 1 << 20
_LIVE = "live:"


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
    """A hash of a file's size, its first and its last MiB: cheap on long recordings."""
    size = path.stat().st_size
    digest = hashlib.sha256(str(size).encode())
    with path.open("rb") as file:
        digest.update(file.read(_EDGE_BYTES))
        file.seek(max(0, size - _EDGE_BYTES))
        digest.update(file.read(_EDGE_BYTES))
    return f"file:{digest.hexdigest()[:32]}"


def images_fingerprint(paths: list[Path]) -> str:
    """A hash of the names and sizes of an image sequence."""
    digest = hashlib.sha256()
    for path in paths:
        digest.update(f"{path.name}\0{path.stat().st_size}\0".encode())
    return f"images:{digest.hexdigest()[:32]}"


def address_fingerprint(uri: str) -> str:
    """A live source is the same when what is shown of its address is the same. `uri`: an address, or such a fingerprint."""
    return f"{_LIVE}{redact_url(uri.removeprefix(_LIVE))}"


def same_content(known: str, now: str) -> bool:
    """Whether two fingerprints are of one source; stored ones of earlier versions may tell more of an address."""
    return known == now or (known.startswith(_LIVE) and address_fingerprint(known) == now)
