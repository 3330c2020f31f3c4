"""Names and fingerprints: which stream is this, and is it the same video as last time."""

from __future__ import annotations

import hashlib
import re
from pathlib import Path

from pipeline.core.redaction import HIDDEN, redact_url

_EDGE_BYTES = 1 << 20
_LIVE = "live:"


def stream_name(uri: str) -> str:
    """A short stream name for an address: a file's stem, a directory's name, a camera's host and path."""
    if "://" in uri:
        # Only what is shown of an address may name its stream: names become folders, and stand in every row.
        raw = redact_url(uri).partition("://")[2].partition("?")[0].partition("#")[0]
        raw = re.sub(rf"\w*=?{re.escape(HIDDEN)}", "", raw)
    elif uri.isdigit():
        raw = f"webcam{uri}"
    elif any(char in uri for char in "*?["):
        raw = Path(uri).parent.name or "images"
    else:
        path = Path(uri)
        raw = path.name if path.is_dir() else path.stem
    name = re.sub(r"[^A-Za-z0-9._-]+|[-_]{2,}", "-", raw).strip("-._")
    return name or "stream"


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
