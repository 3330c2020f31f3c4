"""When something that died is started again: a bounded number of times, with growing pauses."""

from __future__ import annotations

from dataclasses import dataclass
from enum import StrEnum

from pydantic import Field

from pipeline.core.options import Options


class RestartPolicy(StrEnum):
    """After what a stream is started again."""

    NEVER = "never"
    ON_ERROR = "on-error"
    ALWAYS = "always"


class RestartOptions(Options):
    """How a stream or a stage that died comes back. Seconds."""

    policy: RestartPolicy = Field(
        default=RestartPolicy.ON_ERROR,
        description="after what a stream or stage is started again; always: live streams also when their sender ends them",
    )
    max_restarts: int = Field(default=8, ge=1, description="restarts within `window_s`; one more is given up")
    window_s: float = Field(
        default=600.0, gt=0, description="how long a restart counts against `max_restarts`"
    )
    first_delay_s: float = Field(
        default=0.5, ge=0, description="pause before the first restart, doubled for each further one"
    )
    max_delay_s: float = Field(default=30.0, gt=0, description="longest pause before a restart")


class Ending(StrEnum):
    """How a stream came to stand still."""

    FINISHED = "finished"
    FAILED = "failed"


@dataclass(frozen=True, slots=True)
class RestartHistory:
    """When restarts were granted, seconds on a steady clock, oldest first."""

    granted_s: tuple[float, ...] = ()


@dataclass(frozen=True, slots=True)
class Restart:
    """Start again `delay_s` from now, and remember `history`."""

    delay_s: float
    history: RestartHistory


def next_restart(
    ending: Ending, history: RestartHistory, now_s: float, options: RestartOptions
) -> Restart | None:
    """The restart that `options` grant at `now_s`, or None: it stays down."""
    wanted = options.policy is RestartPolicy.ALWAYS or (
        options.policy is RestartPolicy.ON_ERROR and ending is Ending.FAILED
    )
    if not wanted:
        return None
    recent = tuple(moment for moment in history.granted_s if now_s - moment < options.window_s)
    if ending is Ending.FAILED and len(recent) >= options.max_restarts:
        return None
    # The exponent is capped so that a stream which is always restarted cannot overflow the float.
    delay = min(options.max_delay_s, options.first_delay_s * 2.0 ** min(len(recent), 30))
    return Restart(delay, RestartHistory((*recent, now_s)[-64:]))


# Whether and when a stream that ended is opened again: pure policies.

_FIRST_S = 0.5
# A connection that held for this long starts the next series of attempts from the beginning.
HEALTHY_S = 5.0


class LossCause(StrEnum):
    """How a connection ended, or why none was made. REFUSED: the camera does not accept the credentials."""

    OVER = "over"
    FAILED = "failed"
    REFUSED = "refused"


# Cameras lock accounts after a few wrong passwords, for minutes as a rule, and refuse right ones while they start.
_REFUSED_S = (5 * 60.0, 15 * 60.0, 60 * 60.0)


def reconnects(policy: RestartPolicy, ending: LossCause, *, accepted: bool = False) -> bool:
    """Whether a stream that ended so is opened again. `accepted`: the camera has taken the credentials before.

    Credentials that it never took are not tried again: cameras lock accounts after a few wrong passwords.
    """
    if policy is RestartPolicy.NEVER:
        return False
    if ending is LossCause.REFUSED:
        return accepted
    return policy is RestartPolicy.ALWAYS or ending is LossCause.FAILED


def refused_pause_s(refusals: int) -> float:
    """Seconds until credentials that were accepted once are tried again, after so many refusals before this one."""
    return _REFUSED_S[min(refusals, len(_REFUSED_S) - 1)]


def backoff_s(failures: int, draw: float, longest_s: float) -> float:
    """Seconds to wait after `failures` attempts in a row: exponential with full jitter, at most `longest_s`.

    `draw`: a random number in [0, 1).
    """
    # Beyond 2**30 the exponent no longer matters, and floats would overflow in a long outage.
    return draw * min(longest_s, _FIRST_S * 2.0 ** min(failures, 30))
