"""When a run ends because of us or the machine, not because of its input."""

from __future__ import annotations


class StageFailed(RuntimeError):
    """A stage stopped the run. Its text says which, why, and what to do; what was committed is kept."""
