"""What a stream goes without when it falls behind: windows and new regions first, then keyframes, then frames that are too old."""

from __future__ import annotations

from dataclasses import dataclass, replace

from pydantic import Field

from pipeline.core.options import Options
from pipeline.core.records import EffortName

# A step back that comes this many calm spells before the next overload was a mistake (a relapse). A guess.
_RELAPSE = 2.0
# How far mistakes can stretch the calm that a step back needs: 16 x 10 s. Longer, and a quiet night would begin late.
MAX_PATIENCE = 16.0


class SheddingOptions(Options):
    """When a stream that may drop frames works less, and when it works more again. Seconds."""

    enabled: bool = Field(
        default=True, description="false: a stream that falls behind only drops by its policy"
    )
    staleness_s: float = Field(
        default=5.0, gt=0, description="budget: a keyframe should be queryable this long after it came"
    )
    # Measured on four cameras: with shedding at the budget itself 71 to 87 % of the keyframes kept it, at .6 all.
    shed_share: float = Field(
        default=0.6, gt=0, le=1, description="work is shed above this share of the budget, to stay within it"
    )
    calm_share: float = Field(
        default=0.3, ge=0, lt=1, description="calm is staleness below this share of the budget"
    )
    hold_s: float = Field(default=2.0, ge=0, description="a step down is given this long to show")
    calm_s: float = Field(
        default=10.0,
        ge=0,
        description="calm that lasts this long takes one step back; longer after a relapse",
    )

    @property
    def tolerated_s(self) -> float:
        """Staleness above which work is shed."""
        return self.shed_share * self.staleness_s

    @property
    def calm_below_s(self) -> float:
        """Staleness below which it is calm."""
        return min(self.calm_share, self.shed_share) * self.staleness_s


@dataclass(frozen=True, slots=True)
class Effort:
    """How much work a stream gets under this name.

    `view_share`: of the windows that are looked at beside the whole picture; `probe_share`: of the prompts for new regions. `interval_factor`: on the time between keyframes. `drop_stale`:
    keyframes that have waited too long already are not looked at.
    """

    name: EffortName
    view_share: float = 1.0
    probe_share: float = 1.0
    interval_factor: float = 1.0
    drop_stale: bool = False


# What is given up first hurts least: small things are seen no nearer, then new regions are found later, then all is looked at less often, and only then is
# anything not looked at. How far each step goes is a guess.
EFFORTS = (
    Effort(EffortName.FULL),
    Effort(EffortName.NO_VIEWS, 0.0),
    Effort(EffortName.HALF_PROBES, 0.0, 0.5),
    Effort(EffortName.FEW_PROBES, 0.0, 0.125),
    Effort(EffortName.HALF_KEYFRAMES, 0.0, 0.125, interval_factor=2.0),
    Effort(EffortName.QUARTER_KEYFRAMES, 0.0, 0.125, interval_factor=4.0),
    Effort(EffortName.DROP_STALE, 0.0, 0.125, interval_factor=4.0, drop_stale=True),
)


@dataclass(frozen=True, slots=True)
class LoadState:
    """Where a stream stands. `step`: index into `EFFORTS`. `changed_s`: when it got there; `calm_since_s`: since when
    it is calm, None when it is not; `relaxed_s`: when it last took a step back. Seconds on a steady clock.
    `patience`: times `calm_s` that calm must last.
    """

    step: int = 0
    changed_s: float = float("-inf")
    calm_since_s: float | None = None
    relaxed_s: float = float("-inf")
    patience: float = 1.0

    @property
    def effort(self) -> Effort:
        """What the stream gets at this step."""
        return EFFORTS[self.step]


def next_load(state: LoadState, staleness_s: float, now_s: float, options: SheddingOptions) -> LoadState:
    """The state at `now_s`, when the newest rows are `staleness_s` behind the camera.

    At most one step a call. Above `shed_share` of the budget the stream sheds a step every `hold_s`; below `calm_share`
    of it for `calm_s` it takes one back; in between nothing changes, so that it does not swing. A step back that proves wrong
    soon makes the next one wait longer, one that proves right less long.
    """
    if not options.enabled:
        return LoadState()
    # 1. Too late: one step down, unless the last one has not had the time to show. Below the budget itself, since what is
    # shed helps only the keyframes that come after it.
    if staleness_s > options.tolerated_s:
        if state.step + 1 < len(EFFORTS) and now_s - state.changed_s >= options.hold_s:
            # The step back that was just taken was wrong: wait longer before the next. Without this, a stream that is a
            # little too heavy would go up and down for ever.
            relapse = now_s - state.relaxed_s < _RELAPSE * options.calm_s * state.patience
            patience = min(MAX_PATIENCE, state.patience * 4) if relapse else state.patience
            return LoadState(state.step + 1, now_s, None, state.relaxed_s, patience)
        return replace(state, calm_since_s=None)
    # 2. In between: stay. The two thresholds lie apart so that noise does not carry a stream across both.
    if staleness_s >= options.calm_below_s:
        return replace(state, calm_since_s=None)
    # 3. Calm for long enough, counted anew after each step: one step back, and a little more trust.
    calm_since = now_s if state.calm_since_s is None else state.calm_since_s
    if state.step > 0 and now_s - max(calm_since, state.changed_s) >= options.calm_s * state.patience:
        return LoadState(state.step - 1, now_s, now_s, now_s, max(1.0, state.patience / 2))
    return replace(state, calm_since_s=calm_since)
