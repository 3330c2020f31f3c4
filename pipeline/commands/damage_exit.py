"""How a command that answered without a damaged file of the store ends: one line, and a code of its own."""

from __future__ import annotations

from collections.abc import Sequence

import typer

from pipeline.commands.terminal import say
from pipeline.core.clock import iso_text
from pipeline.query.windows import MaskReading
from pipeline.store.open_segments import DamagedFile

EXIT_DAMAGED = 3


def leave_with_damage(damage: Sequence[DamagedFile], masks: MaskReading | None = None) -> None:
    """Name what was left out on stderr and end with EXIT_DAMAGED; do nothing where all was read."""
    if masks is not None and masks.first is not None:
        stream, track, start_s = masks.first
        rest = f" and {masks.damaged - 1} more" if masks.damaged > 1 else ""
        say(
            f"sca: the mask of track {track} at {start_s:.1f} s of {stream}{rest} is damaged (its run lengths do not fill its grid) "
            "and left out",
            error=True,
        )
    elif not damage:
        return
    if not damage:
        raise typer.Exit(EXIT_DAMAGED)
    first, more = damage[0], len(damage) - 1
    others = f" and {more} more" if more else ""
    say(
        f"sca: {first.path} is damaged ({first.reason}){others}: what it held from {iso_text(first.span.start)} to "
        f"{iso_text(first.span.end)} is left out and counts as a gap; restore it from a copy, or move it out of the store",
        error=True,
    )
    raise typer.Exit(EXIT_DAMAGED)
