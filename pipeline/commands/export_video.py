"""`sca export STORE out.mp4`: the captions of a store, drawn into the film that they are of."""

from __future__ import annotations

import os
from pathlib import Path

from pipeline.commands.extras import require
from pipeline.core.errors import UserError
from pipeline.core.output_files import check_output
from pipeline.query.windows import StreamWindow
from pipeline.store import CaptionStore
from pipeline.store.row_filter import RowFilter

# Boxes are carried over gaps as a run would carry them: one and a half of its longest keyframe interval.
_GAP_INTERVALS = 1.5


def export_video(
    store: CaptionStore,
    windows: list[StreamWindow],
    asked: RowFilter,
    out: Path,
    film: str | None,
    kind: str | None,
) -> None:
    """Draw what matches into the pictures of the window. Raises `UserError` where the film is not there, or another one."""
    require("export to a film", "run")
    from pipeline.drawing.annotate import ANNOTATED_SUFFIXES, track_paths, write_annotated
    from pipeline.drawing.drawing import DisplayOptions
    from pipeline.keyframes.gate import KeyframeOptions
    from pipeline.sources import open_source
    from pipeline.sources.standing import StandingPictures

    if out.suffix.lower() not in ANNOTATED_SUFFIXES:
        raise UserError(f"{out}: the file of a film ends in {', '.join(sorted(ANNOTATED_SUFFIXES))}")
    if not windows:
        raise UserError(f"{store.path} holds nothing that could be drawn yet")
    (window,) = windows
    info = store.streams([window.stream])[window.stream]
    place = film or info.uri
    if film is None and not os.path.isfile(place):
        raise UserError(
            f"stream {window.stream} is of {place}, which is no film that lies here: name the film with --film"
        )
    check_output(out, source=place)
    display = DisplayOptions()
    if asked.min_score is not None:
        display = display.model_copy(update={"min_score": asked.min_score})
    source = StandingPictures(open_source(place, stream=window.stream, start_ns=info.start_wall_ns))
    try:
        if (source.info.width, source.info.height) != (info.width, info.height):
            raise UserError(
                f"{place} has {source.info.width} x {source.info.height} pixels, the stream {window.stream} had "
                f"{info.width} x {info.height}: name the film that it was made of with --film"
            )
        write_annotated(
            source,
            track_paths(store, window.stream, asked),
            out,
            max_gap_s=KeyframeOptions().max_interval_s * _GAP_INTERVALS,
            display=display,
            between_ns=(window.start, window.end),
        )
    finally:
        source.close()
