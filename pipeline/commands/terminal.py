"""Writing to standard output, which a reader such as `head`, or a closed window, may leave at any time, and text of others there."""

from __future__ import annotations

import contextlib
import errno
import os
import sys
from collections.abc import Iterator
from typing import IO, Any

import typer
from rich.console import Console
from rich.text import Text

from pipeline.core.shown_text import shown

_GONE = (errno.EPIPE, errno.EIO)
"""The reader of a pipe has gone; the window of a terminal is closed."""


@contextlib.contextmanager
def quiet_pipe() -> Iterator[None]:
    """End the block quietly when the reader of standard output has gone."""
    try:
        yield
        sys.stdout.flush()
    except BrokenPipeError:
        drop_output(sys.stdout)


def drop_output(stream: IO[Any]) -> None:
    """From now on, what is written to `stream` goes nowhere. Python flushes it at exit, which would complain again."""
    with contextlib.suppress(OSError, ValueError):
        nowhere = os.open(os.devnull, os.O_WRONLY)
        os.dup2(nowhere, stream.fileno())
        os.close(nowhere)


class LastingOutput:
    """A text stream whose reader may go: a run goes on when nobody looks at its progress any more."""

    def __init__(self, stream: IO[str]) -> None:
        self._stream = stream

    def write(self, text: str) -> int:
        try:
            return self._stream.write(text)
        except OSError as error:
            self._lost(error)
            return len(text)

    def flush(self) -> None:
        try:
            self._stream.flush()
        except OSError as error:
            self._lost(error)

    def _lost(self, error: OSError) -> None:
        if error.errno not in _GONE:
            raise error
        drop_output(self._stream)

    def __getattr__(self, name: str) -> Any:
        return getattr(self._stream, name)


class PlainConsole(Console):
    """A console for which text is text: no markup, no emoji codes, and nothing in it acts on the terminal."""

    def __init__(self, **options: Any) -> None:
        super().__init__(markup=False, emoji=False, **options)

    def render_str(self, text: str, **how: Any) -> Text:
        """Whatever is printed as a string, a table's cells included, comes through here."""
        return super().render_str(shown(text, lines=True), **how)


def say(text: str, *, error: bool = False) -> None:
    """A line on standard output, or on standard error, that may hold text of others."""
    typer.echo(shown(text, lines=True), err=error)
