"""How well hard cuts are found: joins of given clips, and what only looks like a cut within them.

    python benchmarks/cuts.py CLIP... [--joins 200]

Every clip is taken to be one shot; those that are not are listed with the pictures at which cuts were found. Prints hits and
misses over joins at full, half and a fifth of the picture rate, false cuts within single clips, at flashes of one or two
pictures, at dips to black and at pans, and CPU milliseconds a picture.
"""

from __future__ import annotations

import argparse
import time
from collections.abc import Sequence
from pathlib import Path

import av
import cv2
import numpy as np

from pipeline.core.thumbnail import thumbnail_of
from pipeline.keyframes.cuts import FoundCut, ShotState, end_of_stream, look_at, next_shot_state

Clip = list[np.ndarray]


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("clips", nargs="+", type=Path)
    parser.add_argument("--joins", type=int, default=200)
    arguments = parser.parse_args()
    read = {path.name: thumbnails(path) for path in arguments.clips}
    clips = {}
    for name, (clip, rate) in read.items():
        if found := cuts_in(clip, rate):
            print(f"{name}: cuts at pictures {found}")
        else:
            clips[name] = clip
    print(f"{len(clips)} clips of {sum(map(len, clips.values()))} pictures without a cut")
    begun, pictures = time.process_time(), 0
    for step in (1, 2, 5):
        hits, misses, false, seen = joins(list(clips.values()), arguments.joins, step)
        pictures += seen
        print(f"joins at 1/{step} of the pictures: {hits} found, {misses} missed, {false} false")
    print(f"{(time.process_time() - begun) / pictures * 1e3:.2f} ms of CPU a picture")
    for name, made in (("flashes", flash), ("dips to black", dip), ("pans", pan)):
        rng = np.random.default_rng(1)
        told = sum(bool(cuts_in(made(clip, rng), 25)) for clip in clips.values() for _ in range(5))
        print(f"{name}: {told} false cuts in {5 * len(clips)}")


def thumbnails(path: Path) -> tuple[Clip, float]:
    """Grey thumbnails of every picture, and the picture rate."""
    with av.open(str(path)) as container:
        rate = float(container.streams.video[0].average_rate or 25)
        return [thumbnail_of(p.to_ndarray(format="gray")) for p in container.decode(video=0)], rate


def cuts_in(clip: Sequence[np.ndarray], rate: float) -> list[int]:
    """Numbers of the pictures at which shots are said to begin."""
    state = ShotState()
    found: list[FoundCut] = []
    for index, picture in enumerate(clip):
        state, cuts = next_shot_state(state, look_at(picture), round(index * 1e9 / rate), 0)
        found += cuts
    last = end_of_stream(state)
    return [round(cut.pts_ns * rate / 1e9) for cut in (*found, *([last] if last else []))]


def joins(clips: Sequence[Clip], count: int, step: int) -> tuple[int, int, int, int]:
    """Hits, misses, false cuts and pictures seen over `count` random joins of twelve pictures each."""
    rng, hits, false, seen = np.random.default_rng(0), 0, 0, 0
    for _ in range(count):
        first, second = (clips[index][::step] for index in rng.choice(len(clips), 2, replace=False))
        before, after = some(first, rng), some(second, rng)
        found = cuts_in([*before, *after], 25 / step)
        hits += len(before) in found
        false += sum(cut != len(before) for cut in found)
        seen += len(before) + len(after)
    return hits, count - hits, false, seen


def some(clip: Clip, rng: np.random.Generator, length: int = 12) -> Clip:
    begin = int(rng.integers(max(1, len(clip) - length + 1)))
    return clip[begin : begin + length]


def flash(clip: Clip, rng: np.random.Generator) -> Clip:
    pictures, brighter = list(some(clip, rng, 30)), int(rng.integers(60, 200))
    for index in range(15, min(len(pictures), 15 + int(rng.integers(1, 3)))):
        pictures[index] = np.clip(pictures[index].astype(int) + brighter, 0, 255).astype(np.uint8)
    return pictures


def dip(clip: Clip, rng: np.random.Generator) -> Clip:
    pictures, length = some(clip, rng, 30), int(rng.integers(3, 12))
    into = [min(1.0, (index + 1) / length) for index in range(len(pictures))]
    faded = [(p * weight).astype(np.uint8) for p, weight in zip(pictures, into, strict=True)]
    return [*faded[::-1], np.zeros_like(pictures[0]), *faded]


def pan(clip: Clip, rng: np.random.Generator) -> Clip:
    speed, wide = int(rng.integers(1, 7)), cv2.resize(clip[0], (128, 72), interpolation=cv2.INTER_CUBIC)
    return [wide[18:54, left : left + 64] for left in range(0, 64, speed)]


if __name__ == "__main__":
    main()
