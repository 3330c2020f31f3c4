"""Which tracks deserve a new caption now: captions cost most, and most of them would say the same again."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from enum import StrEnum
from typing import Any, Protocol

import numpy as np
from pydantic import Field

from pipeline.core.clock import NS
from pipeline.core.options import Options
from sca.parts import Registry, registry


class CaptionGateOptions(Options):
    """When a track is captioned again. Seconds of wall-clock time."""

    rule: str = Field(
        default="looks",
        description="who says which tracks need words: looks, which is our own, or one of an installed package",
    )
    options: dict[str, Any] = Field(
        default_factory=dict, description="settings of its own that a rule of an installed package takes"
    )
    change: float = Field(
        default=0.2,
        ge=0,
        le=2,
        description="cosine distance from the looks that were captioned, above which a new caption is due",
    )
    min_interval_s: float = Field(
        default=1.0, ge=0, description="never caption a track more often than this, but for further readings"
    )
    refresh_s: float = Field(
        default=20.0, gt=0, description="a caption that is older is renewed, even if nothing has changed"
    )
    readings: int = Field(
        default=4,
        ge=1,
        description="how often the same looks of a track are captioned, as it is described anew: readings that agree make its name "
        "surer, others less sure; 1: once",
    )
    max_per_keyframe: int = Field(
        default=16,
        ge=1,
        description="captions of a keyframe at most; the others wait for the next one; 96 of a shot's first if this is less",
    )


# Of the first keyframe of a shot, if `max_per_keyframe` is less: as many regions as the presets look for there. A picture, a
# film of one frame, or a photo among others has no next keyframe for the rest to wait for.
FIRST_BUDGET = 96
# Seen so much larger, a track has new words. From the whole picture to a window of it is a step of 1.7.
_NEARER = 1.5


class CaptionReason(StrEnum):
    """Why a track is captioned, most urgent first."""

    NEW = "new"
    CHANGED = "changed"
    NEARER = "nearer"
    OLD = "old"
    AGAIN = "again"


@dataclass(frozen=True, slots=True)
class Captioned:
    """When a track was last captioned (ns UTC), and what its feature was then.

    `scale`: pixels of the model's input to one of the picture, in the view that was captioned; 0 where nobody tells. `readings`: how
    often it was captioned since it last looked otherwise, `read`: the feature of the last of these, if it is another.
    """

    at_ns: int
    feature: np.ndarray
    scale: float = 0.0
    readings: int = 1
    read: np.ndarray | None = None

    def is_read(self, feature: np.ndarray) -> bool:
        """Whether the track was captioned as it is described by `feature` (D,)."""
        return np.array_equal(self.feature if self.read is None else self.read, feature)


class CaptionRule(Protocol):
    """Decides about one confirmed track of one keyframe. Pure: what it remembers is handed to it."""

    def __call__(
        self, last: Captioned | None, now_ns: int, feature: np.ndarray, options: CaptionGateOptions
    ) -> CaptionReason | None:
        """Why the track should be captioned now (wall ns UTC), or None.

        `last`: its last caption, None if it has none yet. `feature` (D,): its looks now, L2-normalised.
        """
        ...


CAPTION_RULES: Registry[CaptionRule] = registry(
    "caption rule", "caption_rules", {"looks": "pipeline.captioning.gate:caption_reason"}
)
"""Parts are the rules themselves."""


def caption_reason(
    last: Captioned | None, now_ns: int, feature: np.ndarray, options: CaptionGateOptions
) -> CaptionReason | None:
    """Why a confirmed track with this L2-normalised `feature` should be captioned at `now_ns`, or None."""
    # 1. Nothing was said of it yet.
    if last is None:
        return CaptionReason.NEW
    # 2. Said a moment ago: looks that flicker must not cost a caption each keyframe.
    age = now_ns - last.at_ns
    if age < options.min_interval_s * NS:
        return None
    # 3. It looks otherwise than when it was captioned (not than a moment ago: slow changes add up).
    if 1.0 - float(last.feature @ feature) > options.change:
        return CaptionReason.CHANGED
    # 4. The same looks for long: a caption may be wrong by chance, and a second one is a second chance.
    return CaptionReason.OLD if age >= options.refresh_s * NS else None


class CaptionGate:
    """A rule (`captions.rule`) over the tracks of one stream, with a budget for each keyframe.

    `avoided` counts the observations of numbered tracks that needed no caption.
    """

    def __init__(self, options: CaptionGateOptions) -> None:
        self._options = options
        self._rule = CAPTION_RULES.get(options.rule)
        self._last: dict[int, Captioned] = {}
        self._begun = False
        self.avoided = 0

    def choose(
        self,
        track_ids: np.ndarray,
        features: np.ndarray,
        now_ns: int,
        scales: Sequence[float] | None = None,
    ) -> list[int]:
        """Indices of the regions to caption, most urgent first. `track_ids` (N,), -1 never; `features` (N, D).

        `scales` (N,): how large each is seen, in pixels of the model's input to one of the picture.
        """
        if scales is None:
            scales = [0.0] * len(track_ids)
        wanted: list[tuple[int, int]] = []
        order = list(CaptionReason)
        for index, track in enumerate(track_ids.tolist()):
            if track < 0:
                continue
            last = self._last.get(track)
            reason = self._rule(last, now_ns, features[index], self._options)
            # Whatever the rule holds of looks: who sees a thing much larger than when it was captioned may know it now.
            if (
                reason is None
                and last is not None
                and now_ns - last.at_ns >= self._options.min_interval_s * NS
            ):
                if scales[index] > _NEARER * last.scale > 0:
                    reason = CaptionReason.NEARER
                # Described anew since then: other words of the same thing would tell that the first ones were a guess.
                elif last.readings < self._options.readings and not last.is_read(features[index]):
                    reason = CaptionReason.AGAIN
            if reason is None:
                self.avoided += 1
            else:
                wanted.append((order.index(reason), index))
        # The most urgent within the budget. The others stay as they are, so that they ask again with the next keyframe.
        budget = self._options.max_per_keyframe
        if not self._begun:
            budget = max(budget, FIRST_BUDGET)
        chosen = sorted(wanted)[:budget]
        self._begun = self._begun or bool(len(track_ids))
        for place, index in chosen:
            track = int(track_ids[index])
            before = self._last.get(track)
            now = Captioned(now_ns, features[index], scales[index])
            if order[place] is CaptionReason.AGAIN and before is not None:
                # Slow changes add up: what is compared is the first of these looks.
                now = replace(now, feature=before.feature, readings=before.readings + 1, read=now.feature)
            self._last[track] = now
        return [index for _, index in chosen]

    def asked_again(self, track: int) -> bool:
        """Whether the track was last captioned for a further reading of the same looks."""
        last = self._last.get(track)
        return last is not None and last.readings > 1

    def begin_shot(self) -> None:
        """What comes next shows another place: all of it is new."""
        self._begun = False

    def forget(self, track: int) -> None:
        """The track has ended."""
        self._last.pop(track, None)
