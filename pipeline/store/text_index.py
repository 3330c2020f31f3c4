"""What the texts of a stream mean, as vectors that are kept beside its segments.

A text is known by a digest of it, so the index holds no words. It is made anew from the texts at any time: what is missing is computed when it is
first asked for, a part that cannot be read counts as missing, and erasing deletes all of it.
"""

from __future__ import annotations

import hashlib
import logging
import zlib
from collections.abc import Sequence
from typing import Protocol

import numpy as np

from pipeline.store.place import StorePlace

log = logging.getLogger(__name__)

FOLDER = "about"
"""Of a stream's place. Below it is a folder for each model."""

_MAGIC = b"texts/2\n"
_ENDING = ".vectors"
_DIGEST = 16
# Every question after which texts have come adds a part; so many are joined to one.
_MOST_PARTS = 8
_AT_ONCE = 4096


class TextModel(Protocol):
    """What makes vectors (n, `width`) float32 of length one of texts. `name`: of the model, and of a folder."""

    name: str
    width: int

    def vectors(self, texts: Sequence[str]) -> np.ndarray: ...


class TextIndex:
    """Vectors of the texts of one stream. Where nothing can be written they are computed each time, which is logged."""

    def __init__(self, place: StorePlace, model: TextModel) -> None:
        self._place, self._model = place, model
        self._folder = f"{FOLDER}/{model.name}"

    def similarities(self, texts: Sequence[str], wanted: np.ndarray) -> np.ndarray:
        """Cosine (n,) float32 of each text with `wanted`, (width,) of length one. New texts are computed and kept."""
        keys = [hashlib.blake2b(text.encode(), digest_size=_DIGEST).digest() for text in texts]
        parts = self._parts()
        known: dict[bytes, np.ndarray] = {}
        for _, digests, vectors in parts:
            known.update(zip(digests, vectors, strict=True))
        new = [number for number, key in enumerate(keys) if key not in known]
        for first in range(0, len(new), _AT_ONCE):
            rows = new[first : first + _AT_ONCE]
            made = self._model.vectors([texts[row] for row in rows]).astype(np.float16)
            known.update((keys[row], vector) for row, vector in zip(rows, made, strict=True))
        if new:
            self._keep([keys[row] for row in new], known, keys, [name for name, _, _ in parts])
        if not keys:
            return np.empty(0, np.float32)
        blocks = [
            np.stack([known[key] for key in keys[first : first + _AT_ONCE]]).astype(np.float32) @ wanted
            for first in range(0, len(keys), _AT_ONCE)
        ]
        return np.concatenate(blocks)

    def _parts(self) -> list[tuple[str, list[bytes], np.ndarray]]:
        found: list[tuple[str, list[bytes], np.ndarray]] = []
        try:
            names = sorted(name for name in self._place.list(self._folder) if name.endswith(_ENDING))
        except OSError:  # no folder lies there; what is computed cannot be kept, which is told then
            return found
        for name in names:
            try:
                part = _read(self._place.read(f"{self._folder}/{name}"), self._model)
            except OSError:  # joined with others since it was listed
                continue
            # What is no part goes when parts are joined.
            found.append((name, *(part or ([], np.empty((0, self._model.width), np.float16)))))
        return found

    def _keep(
        self,
        new: Sequence[bytes],
        known: dict[bytes, np.ndarray],
        used: Sequence[bytes],
        parts: Sequence[str],
    ) -> None:
        joined = len(parts) >= _MOST_PARTS
        keys = list(dict.fromkeys(used if joined else new))
        data = _written(self._model.name, keys, np.stack([known[key] for key in keys]))
        name = f"{hashlib.blake2b(data, digest_size=8).hexdigest()}{_ENDING}"
        try:
            self._place.prepare(self._folder)
            self._place.put(f"{self._folder}/{name}", data)
            for old in parts if joined else ():
                if old != name:
                    self._place.delete(f"{self._folder}/{old}")
        except OSError as error:
            log.warning("what texts mean cannot be kept, and is computed again next time: %s", error)


def forget_texts(place: StorePlace) -> None:
    """Delete the index of a stream. Raises OSError."""
    if place.exists(FOLDER):
        place.delete(FOLDER)


def _written(model: str, keys: Sequence[bytes], vectors: np.ndarray) -> bytes:
    """The checksum is of the model's name too: vectors of another mean something else."""
    body = len(keys).to_bytes(8, "little") + b"".join(keys) + vectors.astype("<f2").tobytes()
    return _MAGIC + zlib.crc32(body, zlib.crc32(model.encode())).to_bytes(4, "little") + body


def _read(data: bytes, model: TextModel) -> tuple[list[bytes], np.ndarray] | None:
    """Digests, and vectors (n, width) half floats; None for what is no such part of this model."""
    body = data[len(_MAGIC) + 4 :]
    if not data.startswith(_MAGIC) or zlib.crc32(body, zlib.crc32(model.name.encode())) != int.from_bytes(
        data[len(_MAGIC) : len(_MAGIC) + 4], "little"
    ):
        return None
    count = int.from_bytes(body[:8], "little")
    digests, vectors = body[8 : 8 + count * _DIGEST], body[8 + count * _DIGEST :]
    if len(digests) != count * _DIGEST or len(vectors) != count * model.width * 2:
        return None
    keys = [digests[at : at + _DIGEST] for at in range(0, len(digests), _DIGEST)]
    return keys, np.frombuffer(vectors, "<f2").reshape(count, model.width)
