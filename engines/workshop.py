"""Gets the engine of a stage: from the cache if a checked one is there, else built, checked and stored."""

from __future__ import annotations

import hashlib
import logging
import shutil
import sys
import time
from collections.abc import Callable
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from enum import StrEnum
from pathlib import Path

import torch
from torch import nn

from engines.backends import backend_named
from engines.backends.interface import Backend, Engine, EngineBuildError, Report
from engines.cache import EngineCache, describe_files
from engines.devices import Device, Precision, choose_precision
from engines.manifest import EngineKey, EngineRejected, Manifest, Verification, digest_file
from engines.parity import Probes, compare, reference_outputs, time_beside
from engines.selection import AUTO, attempts
from engines.verdicts import GATE_VERSION
from sca.errors import UserError
from sca.stages.spec import DynamicAxis, Stage

LOGGER = logging.getLogger("engines")

MakeProbes = Callable[[], Probes]
"""Gives what an engine is checked on; called only where a check has to be made."""


class BuildPolicy(StrEnum):
    """What to do where no usable engine is stored."""

    IF_NEEDED = "if-needed"
    ALWAYS = "always"
    NEVER = "never"


@dataclass(frozen=True)
class ReadyEngine:
    """An engine that may serve, with where it comes from and why nothing better was taken."""

    engine: Engine
    stage: str
    backend: str
    precision: Precision
    manifest: Manifest | None
    refused: tuple[str, ...] = ()

    def summary(self) -> str:
        """One line for log and store."""
        why = f" ({'; '.join(self.refused)})" if self.refused else ""
        return f"{self.stage}: {self.backend} {self.precision}{why}"


class Workshop:
    """Builds, checks, caches and loads engines for one device.

    report: takes one line of progress at a time, the first before any work is done.
    """

    def __init__(self, cache: EngineCache, device: Device, report: Report | None = None) -> None:
        self.cache = cache
        self.device = device
        self._report = report or LOGGER.info
        self._digests: dict[int, tuple[Stage, str, str]] = {}

    def key(self, stage: Stage, backend: Backend, precision: Precision) -> EngineKey:
        """The key of this stage's engine on this device. Reads all weights once."""
        if id(stage) not in self._digests:  # the stage is kept as well, so that its id stays its own
            self._digests[id(stage)] = stage, digest_weights(stage.module), digest_code(stage.module)
        _, weights, code = self._digests[id(stage)]
        return EngineKey(
            stage=stage.name,
            weights=weights,
            code=code,
            signature=signature(stage),
            backend=backend.name,
            backend_version=backend.version(self.device),
            torch_version=torch.__version__,
            precision=precision,
            device=backend.target(self.device),
            gate=GATE_VERSION,
        )

    def obtain(
        self,
        stage: Stage,
        probes: MakeProbes,
        *,
        backend: str = AUTO,
        precision: str = "auto",
        policy: BuildPolicy = BuildPolicy.IF_NEEDED,
    ) -> ReadyEngine:
        """The best engine that may serve here. Falls back, with a reason in the log, down to eager float32.

        Args:
            probes: makes the stage's inputs of real frames for the parity gate.
            backend, precision: `auto`, or what to try first.
            policy: whether engines may be, must be or must not be built.
        """
        if backend != AUTO:
            backend_named(backend)
        refused: list[str] = []
        absent: set[str] = set()
        for attempt in attempts(backend, precision, self.device):
            if attempt.backend in absent:
                continue
            compiler = backend_named(attempt.backend)
            if attempt.reason and attempt.backend == backend:
                LOGGER.info(
                    "%s: %s in %s: %s", stage.name, attempt.backend, attempt.precision, attempt.reason
                )
            if attempt.backend == "eager" and attempt.precision is Precision.FLOAT32:
                engine = compiler.load(stage, attempt.precision, self.device, self.cache.root)
                return ReadyEngine(engine, stage.name, "eager", attempt.precision, None, tuple(refused))
            reason = compiler.unavailable(self.device)
            if reason is not None:
                absent.add(attempt.backend)
            else:
                try:
                    engine, manifest = self._ready(stage, compiler, attempt.precision, probes, policy)
                    return ReadyEngine(
                        engine, stage.name, compiler.name, attempt.precision, manifest, tuple(refused)
                    )
                except (EngineRejected, EngineBuildError) as error:
                    reason = str(error)
                except (
                    ValueError,
                    AssertionError,
                ):  # for the user, such as a cache that cannot be written, or for us
                    raise
                except (
                    Exception
                ) as error:  # whatever a compiler or its runtime raises, another back end may work
                    reason = _first_line(error)
            refused.append(f"{attempt.backend} {attempt.precision}: {reason}")
            LOGGER.log(
                logging.INFO if backend == AUTO and attempt.backend in absent else logging.WARNING,
                "%s: %s %s not used: %s",
                stage.name,
                attempt.backend,
                attempt.precision,
                reason,
            )
        raise AssertionError("eager float32 is always the last attempt")

    def build_and_verify(
        self, stage: Stage, probes: MakeProbes, backend: str, *, precision: str, policy: BuildPolicy
    ) -> Manifest:
        """Makes sure that the engine of this one back end is stored, and checked if it can run here. No fallback.

        Raises:
            UserError: it cannot be built here, or it differs from eager float32.
        """
        choice = choose_precision(precision, backend, self.device)
        if choice.reason:
            self._report(f"{stage.name}: {choice.precision} instead of {precision}: {choice.reason}")
        tried = [choice.precision]
        if precision == AUTO and choice.precision is not Precision.FLOAT32:
            tried.append(Precision.FLOAT32)
        compiler = backend_named(backend)
        refusal: Exception | None = None
        for kind in tried:
            if refusal is not None:
                self._report(f"{stage.name}: {kind} instead of {tried[0]}: {refusal}")
            try:
                manifest = self.build(stage, backend, kind, policy=policy)
                if compiler.unavailable(self.device) is None:
                    engine, manifest = self._serve(stage, compiler, kind, manifest, probes)
                    del engine
                return manifest
            except (EngineBuildError, EngineRejected) as error:
                refusal = error
            except (ValueError, AssertionError):
                raise
            except Exception as error:  # of the compiler or its runtime
                refusal = EngineBuildError(_first_line(error))
        raise UserError(
            f"{stage.name} cannot be served by {backend}: {refusal}. Remedy: use --backend auto, which takes the best "
            "that works."
        ) from refusal

    def build(self, stage: Stage, backend: str, precision: Precision, *, policy: BuildPolicy) -> Manifest:
        """Makes sure that the engine is stored, without running it; the parity check waits for a machine that can.

        Raises:
            EngineBuildError: it cannot be built here.
            EngineRejected: it is not stored, and `policy` forbids building.
        """
        compiler = backend_named(backend)
        key = self.key(stage, compiler, precision)
        found = None if policy is BuildPolicy.ALWAYS else self._stored(key)
        if found is not None:
            return found
        if policy is BuildPolicy.NEVER:
            raise EngineRejected(self._absence(key))
        with self.cache.lock(key):
            # Another process may have built it while this one waited for the lock.
            found = None if policy is BuildPolicy.ALWAYS else self._stored(key)
            return found or self._build(stage, compiler, precision, key)

    def verify(self, stage: Stage, manifest: Manifest, probes: Probes) -> Verification:
        """Loads a stored engine, compares it with eager float32 and writes the numbers into its side-car.

        Raises:
            EngineBuildError: it cannot be loaded on this machine.
        """
        compiler = backend_named(manifest.key.backend)
        engine = compiler.load(
            stage, Precision(manifest.key.precision), self.device, self.cache.folder(manifest.key)
        )
        return self._check(stage, engine, manifest, lambda: probes, again=True)[0]

    def _ready(
        self, stage: Stage, compiler: Backend, precision: Precision, probes: MakeProbes, policy: BuildPolicy
    ) -> tuple[Engine, Manifest | None]:
        if compiler.name == "eager":
            engine = compiler.load(stage, precision, self.device, self.cache.root)
            _refuse_if_failed(self._verification(stage, engine, precision, probes()))
            return engine, None
        return self._serve(
            stage, compiler, precision, self.build(stage, compiler.name, precision, policy=policy), probes
        )

    def _serve(
        self, stage: Stage, compiler: Backend, precision: Precision, manifest: Manifest, probes: MakeProbes
    ) -> tuple[Engine, Manifest]:
        """Loads a stored engine; checks it unless that was done on this machine before."""
        made = manifest.verified_on(self.device.fingerprint)
        if made is not None:
            _refuse_if_failed(made)
        engine = compiler.load(stage, precision, self.device, self.cache.folder(manifest.key))
        if made is None:
            made, manifest = self._check(stage, engine, manifest, probes)
            _refuse_if_failed(made)
        return engine, manifest

    def _verification(
        self, stage: Stage, engine: Engine, precision: Precision, probes: Probes
    ) -> Verification:
        inputs = [tuple(value.to(self.device.torch_device) for value in probe) for probe in probes.inputs]
        given = [engine(*tensors) for tensors in inputs]
        report = compare(stage.outputs, reference_outputs(stage, inputs), given, probes.read_tokens)
        hopeless = replace(report, same_tokens=None).failures()
        if precision is not Precision.FLOAT32 and probes.see is not None and not hopeless:
            report = replace(report, seen=probes.see(engine))
        timing = time_beside(stage.module, engine, inputs[0])
        return Verification(self.device.fingerprint, _timestamp(), report, timing)

    def _check(
        self, stage: Stage, engine: Engine, manifest: Manifest, probes: MakeProbes, *, again: bool = False
    ) -> tuple[Verification, Manifest]:
        with self.cache.lock(manifest.key):
            # Another process may have checked it while this one waited for the lock.
            manifest = self._stored(manifest.key) or manifest
            before = manifest.verified_on(self.device.fingerprint)
            if before is not None and not again:
                return before, manifest
            self._report(
                f"{stage.name}: comparing {manifest.key.backend} {manifest.key.precision} with eager float32"
            )
            made = self._verification(stage, engine, Precision(manifest.key.precision), probes())
            manifest = manifest.with_verification(made)
            self.cache.update(manifest)
        verdict = "REFUSED" if made.failures() else "passed"
        self._report(f"{stage.name}: {verdict}: {made.report}, {made.timing}")
        return made, manifest

    def _stored(self, key: EngineKey) -> Manifest | None:
        try:
            return self.cache.find(key)
        except EngineRejected as reason:
            LOGGER.warning("%s: stored engine is not used: %s", key.stage, reason)
            return None

    def _absence(self, key: EngineKey) -> str:
        relatives = self.cache.relatives(key)
        if relatives:
            return (
                f"the stored engine is stale ({key.differences(relatives[-1])}), and building is switched off"
            )
        return "no engine is stored, and building is switched off"

    def _build(self, stage: Stage, compiler: Backend, precision: Precision, key: EngineKey) -> Manifest:
        def report(line: str) -> None:
            self._report(f"{stage.name}: {line}")

        relatives = self.cache.relatives(key)
        if relatives:
            LOGGER.info("%s: stored engine is stale: %s", stage.name, key.differences(relatives[-1]))
        report(f"building with {compiler.name} in {precision}")
        reason = compiler.cannot_build(self.device)
        if reason is not None:
            raise EngineBuildError(reason)
        folder = self.cache.working_folder()
        started = time.monotonic()
        try:
            notes = compiler.build(stage, precision, self.device, folder, report)
            seconds = time.monotonic() - started
            manifest = Manifest(
                key=key,
                artefacts=describe_files(folder),
                built_at=_timestamp(),
                built_on=self.device.fingerprint,
                built_for=compiler.target(self.device),
                build_seconds=round(seconds, 3),
                notes=notes,
            )
            self.cache.publish(folder, manifest)
        finally:
            shutil.rmtree(folder, ignore_errors=True)
        report(f"built in {seconds:.1f} s")
        return manifest


def _first_line(error: Exception) -> str:
    lines = str(error).strip().splitlines()
    return f"{type(error).__name__}: {lines[0]}" if lines else type(error).__name__


def _refuse_if_failed(made: Verification) -> None:
    if made.failures():
        differs = "it differs from eager float32: " if made.report.failures() else ""
        raise EngineRejected(f"{differs}{', '.join(made.failures())}")


def _timestamp() -> str:
    return datetime.now(UTC).isoformat(timespec="seconds")


# Fingerprints of weights, code and shapes: what makes two engines the same engine.


def digest_weights(module: nn.Module) -> str:
    """SHA-256 over names, shapes, dtypes and bytes of all parameters and buffers, persistent or not."""
    sha = hashlib.sha256()
    tensors = [*module.named_parameters(), *module.named_buffers()]
    for name, tensor in sorted(tensors, key=lambda item: item[0]):
        plain = tensor.detach().cpu().contiguous()
        sha.update(f"{name}|{tuple(plain.shape)}|{plain.dtype}|".encode())
        sha.update(plain.reshape(-1).view(torch.uint8).numpy().tobytes())
    return sha.hexdigest()


# What every module has, and what changes while nothing that it computes does.
_NO_NUMBERS = frozenset(vars(nn.Module()))


def _is_plain(value: object) -> bool:
    """Whether a module's attribute is a setting whose text is the same in every process."""
    if isinstance(value, list | tuple):
        return all(_is_plain(one) for one in value)
    return value is None or type(value) in (bool, int, float, str)


def digest_code(module: nn.Module) -> str:
    """SHA-256 over the structure of a module, the numbers that it computes with and the source files that its submodules come from.

    Two models may have the same weights and shapes, and differ in the size of a picture or in an epsilon. Only files outside torch are read: torch's version is a part of the key by itself.
    """
    files = set()
    for part in module.modules():
        home = sys.modules.get(type(part).__module__)
        file = getattr(home, "__file__", None)
        if file and not type(part).__module__.startswith("torch."):
            files.add(file)
    sha = hashlib.sha256(repr(module).encode())
    for name, part in module.named_modules():
        own = {key: value for key, value in vars(part).items() if key not in _NO_NUMBERS and _is_plain(value)}
        sha.update(f"{name}|{sorted(own.items())}|".encode())
    # By content, because two files may share a name and their folders differ from machine to machine.
    for content in sorted(digest_file(Path(file)) for file in files):
        sha.update(content.encode())
    return sha.hexdigest()


def signature(stage: Stage) -> str:
    """Inputs and outputs of a stage as one line, dynamic axes with their planned lengths."""

    def axis(length: int | DynamicAxis) -> str:
        if isinstance(length, int):
            return str(length)
        return f"{length.name}:{length.minimum}..{length.typical}..{length.maximum}"

    inputs = ", ".join(
        f"{spec.name}[{','.join(axis(length) for length in spec.shape)}]{str(spec.dtype).removeprefix('torch.')}"
        for spec in stage.inputs
    )
    return f"({inputs}) -> ({', '.join(output.name for output in stage.outputs)})"
