"""Whether and when a stream that ended is opened again: pure policies."""

from __future__ import annotations

from enum import StrEnum

from pipeline.restarts import RestartPolicy

_FIRST_S = 0.5
# A connection that held for this long starts the next series of attempts from the beginning.
HEALTHY_S = 5.0


class Ending(StrEnum):
    """How a connection ended, or why none was made. REFUSED: the camera does not accept the credentials."""

    OVER = "over"
    FAILED = "failed"
    REFUSED = "refused"


def reconnects(policy: RestartPolicy, ending: Ending) -> bool:
    """Whether a stream that ended so is opened again.

    Refused credentials never are: cameras lock accounts after a few wrong passwords.
    """
    if ending is Ending.REFUSED or policy is RestartPolicy.NEVER:
        return False
    return policy is RestartPolicy.ALWAYS or ending is Ending.FAILED


def backoff_s(failures: int, draw: float, longest_s: float) -> float:
    """Seconds to wait after `failures` attempts in a row: exponential with full jitter, at most `longest_s`.

    `draw`: a random number in [0, 1).
    """
    # Beyond 2**30 the exponent no longer matters, and floats would overflow in a long outage.
    return draw * min(longest_s, _FIRST_S * 2.0 ** min(failures, 30))
