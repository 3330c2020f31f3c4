"""The JSON side-car of a stored engine: what it was made from, by what, for what, and how it was checked."""

from __future__ import annotations

import hashlib
import json
from dataclasses import asdict, dataclass, fields, replace
from pathlib import Path
from typing import Any

from engines.verdicts import ParityReport, SeenReport, Timing
from sca.small_files import parsed_json


def digest_file(path: Path) -> str:
    """SHA-256 of a file, as hexadecimal text."""
    with path.open("rb") as stream:
        return hashlib.file_digest(stream, "sha256").hexdigest()


FORMAT = 2
MANIFEST_NAME = "manifest.json"


class EngineRejected(Exception):
    """A stored engine that must not be used; the message says why in one line."""


@dataclass(frozen=True)
class EngineKey:
    """Everything that makes an engine what it is; two equal keys may share one stored engine."""

    stage: str
    weights: str
    code: str
    signature: str
    backend: str
    backend_version: str
    torch_version: str
    precision: str
    device: str
    gate: int

    @property
    def digest(self) -> str:
        """SHA-256 of all parts, as hexadecimal text."""
        return hashlib.sha256(json.dumps(asdict(self), sort_keys=True).encode()).hexdigest()

    @property
    def folder(self) -> str:
        """Name of the cache folder: readable, with enough of the digest to be unique."""
        return f"{self.stage}.{self.backend}.{self.precision}.{self.digest[:20]}"

    def same_purpose(self, other: EngineKey) -> bool:
        """Whether both compute the same stage with the same back end and precision."""
        return (self.stage, self.backend, self.precision) == (other.stage, other.backend, other.precision)

    def differences(self, other: EngineKey) -> str:
        """In one line, which parts of `other` differ from this key."""
        words = {
            "weights": "other weights",
            "code": "other model code",
            "signature": "other shapes",
            "gate": "an older parity gate",
        }
        found = []
        for field in fields(self):
            mine, theirs = getattr(self, field.name), getattr(other, field.name)
            if mine != theirs:
                found.append(
                    words.get(field.name, f"{field.name.replace('_', ' ')} {theirs} instead of {mine}")
                )
        return ", ".join(found) or "nothing"


@dataclass(frozen=True)
class Artefact:
    """One file of an engine."""

    name: str
    size: int
    sha256: str


@dataclass(frozen=True)
class Verification:
    """A check that was made on a machine: the numbers of the parity gate, and the time that both sides took."""

    machine: str
    at: str
    report: ParityReport
    timing: Timing

    def failures(self) -> tuple[str, ...]:
        """Why the engine must not serve on this machine; empty when it may."""
        return (*self.report.failures(), *self.timing.failures())


@dataclass(frozen=True)
class Manifest:
    """The side-car. Sizes in bytes, durations in seconds, times in ISO 8601 UTC."""

    key: EngineKey
    artefacts: tuple[Artefact, ...]
    built_at: str
    built_on: str
    built_for: str
    build_seconds: float
    notes: tuple[str, ...] = ()
    verifications: tuple[Verification, ...] = ()

    def verified_on(self, machine: str) -> Verification | None:
        """The newest check made on this machine."""
        return next((made for made in reversed(self.verifications) if made.machine == machine), None)

    def with_verification(self, verification: Verification) -> Manifest:
        """The same side-car with one more check; an older one of the same machine is dropped."""
        kept = tuple(made for made in self.verifications if made.machine != verification.machine)
        return replace(self, verifications=(*kept, verification))

    def to_json(self) -> str:
        return json.dumps({"format": FORMAT, "digest": self.key.digest, **asdict(self)}, indent=2)

    @staticmethod
    def read(folder: Path) -> Manifest:
        """Reads the side-car of an engine folder.

        Raises:
            EngineRejected: it is missing, damaged, of another format, or its digest is not that of its key.
        """
        path = folder / MANIFEST_NAME
        try:
            content: dict[str, Any] = parsed_json(path.read_text(encoding="utf-8"))
            if content["format"] != FORMAT:
                raise EngineRejected(
                    f"side-car has format {content['format']}, this program reads format {FORMAT}"
                )
            key = EngineKey(**content["key"])
            if content["digest"] != key.digest:
                raise EngineRejected("side-car was altered: its digest does not belong to its key")
            return Manifest(
                key=key,
                artefacts=tuple(Artefact(**item) for item in content["artefacts"]),
                built_at=content["built_at"],
                built_on=content["built_on"],
                built_for=content["built_for"],
                build_seconds=float(content["build_seconds"]),
                notes=tuple(content["notes"]),
                verifications=tuple(
                    Verification(
                        item["machine"],
                        item["at"],
                        _report(item["report"]),
                        Timing(**item["timing"]),
                    )
                    for item in content["verifications"]
                ),
            )
        except FileNotFoundError as error:
            raise EngineRejected("side-car is missing") from error
        except (KeyError, TypeError, ValueError) as error:
            raise EngineRejected(f"side-car is damaged ({error})") from error


def _report(content: dict[str, Any]) -> ParityReport:
    """From JSON. TypeError for what is none."""
    seen = content.pop("seen", None)
    return ParityReport(**content, seen=None if seen is None else SeenReport(**seen))
