"""One stream's eyes and memory: keyframe in, tracked regions and caption requests out."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

import numpy as np

from pipeline.captioning.gate import CaptionGate, CaptionGateOptions
from pipeline.core.frame import Frame
from pipeline.core.masks import decode_mask
from pipeline.core.motion import motion_since
from pipeline.core.regions import AnalysedKeyframe, Avoided, CaptionRequest, EndedTrack, Regions
from pipeline.core.stage_times import TimedStage, timed
from pipeline.perception.colours import colours_of
from pipeline.perception.perceiver import Perception, Sightings
from pipeline.tracking.association import Candidates
from pipeline.tracking.interface import FollowsMotion, TrackingOptions, open_tracker
from sca.regions import ImageEncoding

# A picture that stands is looked at so often, at other points each time; after that it holds no more news.
_LOOKS = 4


class StreamAnalysis:
    """Perception, tracker and caption gate of one stream, in order. `next_track`: the first free track number."""

    def __init__(
        self,
        stream: str,
        perception: Perception,
        tracking: TrackingOptions,
        captions: CaptionGateOptions,
        next_track: int = 1,
    ) -> None:
        self._stream = stream
        self._perception = perception
        self._view = perception.new_view()
        self._tracking = tracking
        self._next_track = next_track
        self._shot = 0
        self._last_frame = -1
        self._tracker = open_tracker(tracking, next_track)
        self._gate = CaptionGate(captions)
        self._last_look: tuple[int, Sightings] | None = None
        self._last_keys: Sequence[int] = ()
        self._looks = 0
        self._looks_avoided = 0
        self._prompts_avoided = 0  # before this shot

    def keyframe(
        self,
        frame: Frame,
        *,
        encoding: ImageEncoding | None = None,
        probe_share: float = 1.0,
        view_share: float = 1.0,
    ) -> tuple[AnalysedKeyframe, tuple[CaptionRequest, ...]]:
        """Analyse the next keyframe of the stream; `encoding` and the shares as in `Perception.look`."""
        with timed(TimedStage.ASSOCIATION):
            return self._keyframe(frame, encoding, probe_share, view_share)

    def _keyframe(
        self, frame: Frame, encoding: ImageEncoding | None, probe_share: float, view_share: float
    ) -> tuple[AnalysedKeyframe, tuple[CaptionRequest, ...]]:
        cut_off = self._begin_shot() if frame.shot != self._shot else ()
        self._shot = frame.shot
        size = (frame.height, frame.width)
        begun = self._perception.begin(frame) if encoding is None and self.needs_look(frame) else None
        if isinstance(self._tracker, FollowsMotion):
            self._tracker.moved(motion_since(frame.motion, self._last_frame), size)
        self._last_frame = frame.index
        expected = self._tracker.expect(frame.time, size)
        found = self._seen_again(frame) or self._standing(frame)
        if found is None:
            with timed(TimedStage.REGIONS):
                found = self._perception.look(
                    frame,
                    expected,
                    self._view,
                    encoding=encoding or begun,
                    probe_share=probe_share,
                    view_share=view_share,
                )
            self._last_look = (frame.index, found)
        candidates = Candidates(found.boxes, found.features, found.scores, found.masks)
        update = self._tracker.update(frame.time, candidates, found.prompted_by)
        self._perception.remember(self._view, found, update.keys)
        self._last_keys = update.keys
        regions = Regions(
            stream=self._stream,
            frame_index=frame.index,
            time=frame.time,
            frame_size=size,
            boxes=found.boxes,
            masks=found.masks,
            scores=found.scores,
            features=found.features,
            track_ids=update.track_ids,
        )
        scales = [one.scale for one in found.described]
        chosen = self._gate.choose(update.track_ids, found.features, frame.time.wall_ns, scales)
        requests = []
        for index in chosen:
            x1, y1, x2, y2 = (float(value) for value in found.boxes[index])
            mask = found.masks[index]
            requests.append(
                CaptionRequest(
                    track=int(update.track_ids[index]),
                    frame=frame.index,
                    time=frame.time,
                    box=(x1, y1, x2, y2),
                    mask=mask,
                    feature=found.features[index],
                    tokens=found.caption_tokens[index],
                    colours=colours_of(
                        frame.rgb, found.boxes[index], None if mask is None else decode_mask(mask)
                    ),
                    fit=found.described[index].fit,
                    again=self._gate.asked_again(int(update.track_ids[index])),
                )
            )
        ended = (*cut_off, *update.ended)
        self._next_track = update.next_track
        for track in ended:
            self._gate.forget(track.track)
        avoided = Avoided(
            self._gate.avoided, self._prompts_avoided + self._view.prompts_avoided, self._looks_avoided
        )
        return AnalysedKeyframe(regions, ended, update.next_track, avoided), tuple(requests)

    def needs_look(self, frame: Frame) -> bool:
        """Whether the next keyframe will be looked at: whoever encodes it beforehand need not, otherwise."""
        return (
            frame.shot != self._shot
            or self._last_look is None
            or self._perception.needs_look(frame, self._view)
        )

    def _seen_again(self, frame: Frame) -> Sightings | None:
        """What was found before in a picture that still stands, once it was looked at often enough; None: look again.

        A time-lapse with a picture every quarter of an hour would be looked at for as long as it covers otherwise.
        """
        known = self._last_look
        same = known is not None and known[0] == frame.index
        self._looks = self._looks + 1 if same else 0
        if known is None or self._looks < _LOOKS:
            return None
        return replace(known[1], prompted_by=(-1,) * len(known[1]))

    def _standing(self, frame: Frame) -> Sightings | None:
        """What was found in a picture that still shows the same, by the tracks that it is of; None: look again."""
        if self.needs_look(frame):
            return None
        assert self._last_look is not None
        self._looks_avoided += 1
        known = self._last_look[1]
        # A tracker that does not tell its keys finds them again by their places.
        keys = tuple(self._last_keys) or (-1,) * len(known)
        return replace(known, prompted_by=keys, looked=np.zeros(len(known), bool))

    def _begin_shot(self) -> tuple[EndedTrack, ...]:
        """Another place: every track ends, and nothing that was seen says where something is now."""
        ended = self._tracker.finish()
        self._tracker = open_tracker(self._tracking, self._next_track)
        self._prompts_avoided += self._view.prompts_avoided
        self._view = self._perception.new_view()
        self._last_look = None
        self._gate.begin_shot()
        return ended

    def finish(self) -> tuple[EndedTrack, ...]:
        """The stream is over: every track ends."""
        return self._tracker.finish()
