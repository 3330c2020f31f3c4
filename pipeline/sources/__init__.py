"""Sources of frames: video files, images, network cameras, webcams."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from pipeline.core.redaction import redact_text, redact_url
from pipeline.sources.picture import DecodedFrame
from pipeline.sources.source import Source, SourceCounts, SourceInfo, SourceKind, SourceOptions

if TYPE_CHECKING:
    from pipeline.sources.inputs import FoundInput, expand_inputs, find_inputs
    from pipeline.sources.opening import open_source

_HOMES = {
    "FoundInput": "pipeline.sources.inputs",
    "expand_inputs": "pipeline.sources.inputs",
    "find_inputs": "pipeline.sources.inputs",
    "open_source": "pipeline.sources.opening",
}

__all__ = [
    "DecodedFrame",
    "FoundInput",
    "Source",
    "SourceCounts",
    "SourceInfo",
    "SourceKind",
    "SourceOptions",
    "expand_inputs",
    "find_inputs",
    "open_source",
    "redact_text",
    "redact_url",
]


def __getattr__(name: str) -> Any:
    # Whoever only reads settings does without FFmpeg, which these open files with.
    if name in _HOMES:
        from importlib import import_module

        return getattr(import_module(_HOMES[name]), name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
