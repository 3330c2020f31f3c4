"""What a remote call raised, in words for the user."""

from __future__ import annotations

from ray.exceptions import RayError, RayTaskError

from pipeline.runtime.failure import StageFailed
from pipeline.sources import redact_text


def plain(error: Exception) -> Exception:
    """The error without Ray's wrapping and without credentials: `ValueError` for bad input, else `StageFailed`."""
    if isinstance(error, RayTaskError):
        cause = error.cause
        if isinstance(cause, RayTaskError):
            return plain(cause)
        if isinstance(cause, ValueError):
            return ValueError(redact_text(str(cause)))
        if not isinstance(cause, RayError):
            where = getattr(error, "function_name", "a stage")
            return StageFailed(f"{where} failed: {type(cause).__name__}: {redact_text(str(cause))}")
        error = cause
    if isinstance(error, ValueError):
        return ValueError(redact_text(str(error)))
    reason = (str(error).strip().splitlines() or [type(error).__name__])[0]
    return StageFailed(f"stopped unexpectedly ({redact_text(reason)})")
