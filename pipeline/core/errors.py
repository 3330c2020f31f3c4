"""The family of errors: whose fault it is decides what is shown, and whether a run goes on.

`UserError` is one line and exit code 2; `StageFailed` one line and exit code 1; anything else is a fault of ours: it
keeps its traceback, and inside a run it counts as a failure of the stage in which it happened.
"""

from __future__ import annotations

from sca.errors import MalformedFile, UserError

__all__ = ["MalformedFile", "SourceAway", "SourceRefused", "StageFailed", "StoreRefused", "UserError"]


class SourceRefused(UserError):
    """A file, folder, address or device that cannot be watched as it was named."""


class SourceAway(SourceRefused):
    """A camera that did not let us in when it was first asked. `again`: it may later, unlike one that refuses a password."""

    def __init__(self, text: str, *, again: bool) -> None:
        super().__init__(text)
        self.again = again

    def __reduce__(self) -> tuple[object, ...]:
        return _away, (str(self), self.again)


def _away(text: str, again: bool) -> SourceAway:
    return SourceAway(text, again=again)


class StoreRefused(UserError):
    """A store that cannot be opened, read or written: no store, another schema, damaged, in use, or a full disk."""


class StageFailed(RuntimeError):
    """A stage stopped the run. Its text says which, why, and what to do; what was committed is kept."""
