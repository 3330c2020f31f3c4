"""Errors of ours that say whose fault it is."""

from __future__ import annotations


class UserError(ValueError):
    """What was asked for cannot be done as it was asked. The text names the input and the remedy, in one line.

    The command line shows it without a traceback and exits with 2. A `ValueError` that is no `UserError` is a fault of
    the program.
    """


class MalformedFile(UserError):
    """A file that was read is not what it should be: cut off, damaged, hostile or of another kind."""
