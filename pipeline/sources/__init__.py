"""Sources of frames: video files, images, network cameras, webcams."""

from pipeline.core.redaction import redact_text, redact_url
from pipeline.sources.inputs import FoundInput, expand_inputs, find_inputs
from pipeline.sources.opening import SourceOptions, open_source
from pipeline.sources.picture import DecodedFrame
from pipeline.sources.source import Source, SourceCounts, SourceInfo, SourceKind

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
