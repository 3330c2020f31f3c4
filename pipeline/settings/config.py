"""The settings of a run: typed, from a preset, with overrides, and with helpful errors."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any, Literal

from pydantic import Field, ValidationError

from engines.backends import BACKENDS
from pipeline.captioning.gate import CAPTION_RULES, CaptionGateOptions
from pipeline.core.dropping import DROP_POLICIES
from pipeline.core.errors import UserError
from pipeline.core.options import Options
from pipeline.core.redaction import redact_text
from pipeline.core.restarts import RestartOptions
from pipeline.drawing.drawing import DisplayOptions
from pipeline.keyframes.buffer import FlowOptions
from pipeline.keyframes.gate import KeyframeOptions
from pipeline.perception.probing import PerceptionOptions
from pipeline.recording.events import CaptionEventOptions
from pipeline.recording.recorder import RecordingOptions
from pipeline.sources.source import SourceOptions
from pipeline.tracking.interface import TRACKERS, TrackingOptions
from sca.parts import Registry
from sca.setting_errors import did_you_mean, explain_settings
from sca.yaml_files import YamlFault, parse_yaml, read_yaml

_INSTALLED_PRESETS = Path(__file__).resolve().parent / "presets"
_SOURCE_PRESETS = Path(__file__).resolve().parents[2] / "configs"


class RuntimeOptions(Options):
    """Where the stages run."""

    kind: Literal["ray", "inline"] = Field(
        default="ray", description="actors on Ray, or everything in this process"
    )
    address: str | None = Field(
        default=None, description="an existing Ray cluster; none: one on this machine"
    )
    node_address: str = Field(
        default="127.0.0.1",
        description="where a Ray of our own listens: on loopback, for this machine alone; an address of this machine, for "
        "workers of others (which Ray guards by a token only)",
    )
    device: str = Field(
        default="auto", pattern=r"^(auto|cpu|cuda(:\d{1,3})?)$", description="auto, cpu, cuda or cuda:N"
    )
    engine: str = Field(
        default="auto",
        description="how the model's stages are compiled: auto (by the fastest that passes its checks), eager, tensorrt, "
        "torch-tensorrt, inductor, openvino, onnxruntime or one of an installed package",
    )
    perception_threads: int = Field(
        default=0,
        ge=0,
        description="CPU threads of perception; 0: all processors but one, which decodes; of two, and inline, all",
    )
    perception_actors: int = Field(
        default=1, ge=1, description="processes that find regions; streams are spread over them"
    )
    captioning_actors: int = Field(
        default=1, ge=1, description="processes that caption; each takes regions of any stream"
    )
    perception_cpus: float = Field(
        default=0.0, ge=0, description="processors of the cluster that a perception actor claims"
    )
    captioning_cpus: float = Field(
        default=0.0, ge=0, description="processors of the cluster that a captioner claims"
    )
    perception_gpus: float = Field(
        default=0.5, ge=0, description="share of a GPU that a perception actor claims, where there are any"
    )
    captioning_gpus: float = Field(
        default=0.5, ge=0, description="share of a GPU that a captioner claims, where there are any"
    )
    encode_batch: int = Field(
        default=8, ge=1, description="keyframes of different streams that are encoded together at most"
    )
    credits: int = Field(
        default=4, ge=1, description="keyframes of a stream between source and store at most"
    )
    object_store_mb: int = Field(
        default=256, ge=80, description="shared memory for keyframes on their way between actors, in MiB"
    )
    max_growth_mb: int = Field(
        default=2048,
        ge=0,
        description="a stage whose process grows by more is replaced, as if it had died; 0: never",
    )
    start_deadline_s: float = Field(
        default=300.0,
        gt=0,
        description="seconds for a stage to start and load the model, after which it counts as dead",
    )
    stall_deadline_s: float = Field(
        default=120.0, gt=0, description="seconds for a stage to answer a call, after which it counts as dead"
    )


class RunConfig(Options):
    """Everything that `sca run` can be told, one group a stage.

    `model` and `runtime` hold for the whole run; the other groups may differ from stream to stream.
    """

    model: str = Field(default="demo", description="a name from `sca models list`, or a checkpoint directory")
    sources: SourceOptions = SourceOptions()
    keyframes: KeyframeOptions = KeyframeOptions()
    perception: PerceptionOptions = PerceptionOptions()
    tracking: TrackingOptions = TrackingOptions()
    captions: CaptionGateOptions = CaptionGateOptions()
    events: CaptionEventOptions = CaptionEventOptions()
    recording: RecordingOptions = RecordingOptions()
    flow: FlowOptions = FlowOptions()
    restarts: RestartOptions = RestartOptions()
    runtime: RuntimeOptions = RuntimeOptions()
    display: DisplayOptions = DisplayOptions()


def preset_folder() -> Path:
    """Where the shipped presets lie: beside this file in an installed wheel, in configs/ of the source tree."""
    return _INSTALLED_PRESETS if _INSTALLED_PRESETS.is_dir() else _SOURCE_PRESETS


def preset_names() -> list[str]:
    """Names of the presets that are shipped."""
    return sorted(path.stem for path in preset_folder().glob("*.yaml"))


def load_config(
    preset: str = "default", settings: Iterable[str] = (), *, changes: Mapping[str, Any] | None = None
) -> RunConfig:
    """The settings of `preset` (a shipped name, or the path of a YAML file) with overrides.

    `settings`: "group.key=value" strings, values in YAML. `changes`: the same, already parsed. Raises `UserError`
    with the nearest name for an unknown preset or key, and with the allowed range for a bad value.
    """
    data = _read_preset(preset)
    for setting in settings:
        key, sign, value = setting.partition("=")
        if not sign:
            raise UserError(
                f"--set {redact_text(setting)}: write it as group.key=value, for example keyframes.interval_s=1"
            )
        try:
            parsed = parse_yaml(value)
        except YamlFault:
            raise UserError(f"--set {key}: the value is not valid YAML; quote it") from None
        _put(data, key.strip(), parsed)
    for key, value in (changes or {}).items():
        _put(data, key, value)
    try:
        config = RunConfig.model_validate(data)
    except ValidationError as error:
        raise UserError(explain_settings(error, RunConfig)) from None
    check_parts(config.tracking, config.captions, config.flow, config.runtime.engine)
    return config


def _read_preset(preset: str) -> dict[str, Any]:
    path = Path(preset)
    if path.suffix not in {".yaml", ".yml"}:
        path = preset_folder() / f"{preset}.yaml"
        if not path.is_file():
            names = preset_names()
            raise UserError(
                f"unknown preset {preset!r}{did_you_mean(preset, names)}; there are {', '.join(names)}"
            )
    try:
        data = read_yaml(path) or {}
    except FileNotFoundError:
        raise UserError(f"{path}: no such preset file; check the path") from None
    except (OSError, YamlFault) as error:
        reason = (error.strerror if isinstance(error, OSError) else None) or error
        raise UserError(
            f"{path}: not a readable YAML file ({reason}); compare it with configs/default.yaml"
        ) from None
    if not isinstance(data, dict):
        raise UserError(f"{path}: a preset is a mapping of groups; compare it with configs/default.yaml")
    return data


def _put(data: dict[str, Any], dotted: str, value: object) -> None:
    *groups, last = dotted.split(".")
    for group in groups:
        inner = data.setdefault(group, {})
        if not isinstance(inner, dict):
            raise UserError(f"setting {dotted}: {group} is a value, not a group of settings")
        data = inner
    data[last] = value


# Settings that choose a part by name, and the settings that such a part takes itself.


def check_parts(
    tracking: TrackingOptions, captions: CaptionGateOptions, flow: FlowOptions, engine: str
) -> None:
    """Find every part that the settings of a run choose. `UserError` says which setting is wrong, and how."""
    check_part("tracking.tracker", TRACKERS, tracking.tracker, tracking.options)
    check_part("captions.rule", CAPTION_RULES, captions.rule, captions.options)
    if flow.policy is not None:
        check_part("flow.policy", DROP_POLICIES, flow.policy)
    if engine != "auto":
        check_part("runtime.engine", BACKENDS, engine)


def check_part(
    setting: str, parts: Registry[Any], name: str, options: Mapping[str, Any] | None = None
) -> None:
    """Raise `UserError` unless `name`, the value of `setting`, is a part that can be loaded and takes `options`.

    A part of an installed package says what it takes in an attribute `Options`, a subclass of
    `pipeline.core.options.Options`. Our own parts take the settings of their group and no others.
    """
    group = f"{setting.rpartition('.')[0]}.options"
    if name in parts.own:
        if options:
            raise UserError(
                f"setting {group}: only a {parts.kind} of an installed package takes it, and {name!r} is not one"
            )
        return
    try:
        part = parts.get(name)
    except UserError as error:
        raise UserError(f"setting {setting}: {error}") from error.__cause__
    taken: type[Options] | None = getattr(part, "Options", None)
    if taken is None:
        if options:
            raise UserError(f"setting {group}: the {parts.kind} {name!r} takes no settings of its own")
        return
    try:
        taken.model_validate(options or {})
    except ValidationError as error:
        raise UserError(explain_settings(error, taken, within=group)) from None
