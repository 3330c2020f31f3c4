"""Settings that choose a part by name, and the settings that such a part takes itself."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from pydantic import ValidationError

from pipeline.captioning.gate import CAPTION_RULES, CaptionGateOptions
from pipeline.core.dropping import DROP_POLICIES
from pipeline.core.errors import UserError
from pipeline.core.options import Options, did_you_mean
from pipeline.keyframes.buffer import FlowOptions
from pipeline.tracking.interface import TRACKERS, TrackingOptions
from sca.parts import Registry


def check_parts(tracking: TrackingOptions, captions: CaptionGateOptions, flow: FlowOptions) -> None:
    """Find every part that the settings of a run choose. `UserError` says which setting is wrong, and how."""
    check_part("tracking.tracker", TRACKERS, tracking.tracker, tracking.options)
    check_part("captions.rule", CAPTION_RULES, captions.rule, captions.options)
    if flow.policy is not None:
        check_part("flow.policy", DROP_POLICIES, flow.policy)


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
        raise UserError(_explain(error, group, taken)) from None


def _explain(error: ValidationError, group: str, taken: type[Options]) -> str:
    problem = error.errors()[0]
    dotted = ".".join([group, *map(str, problem["loc"])])
    if problem["type"] == "extra_forbidden" and len(problem["loc"]) == 1:
        known = sorted(taken.model_fields)
        return f"unknown setting {dotted!r}{did_you_mean(str(problem['loc'][0]), known)}; known: {', '.join(known)}"
    return f"setting {dotted} = {problem['input']!r}: {problem['msg'].lower()}"
