"""Captions are asked for when something is new, and joined into events when they say the same."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
from hypothesis import given
from hypothesis import strategies as st

from pipeline.captioning.gate import (
    CAPTION_RULES,
    Captioned,
    CaptionGate,
    CaptionGateOptions,
    CaptionReason,
    CaptionRule,
    caption_reason,
)
from pipeline.core.clock import NS
from pipeline.core.frame import FrameTime
from pipeline.core.masks import RleMask
from pipeline.core.regions import RegionCaption
from pipeline.recording.events import CaptionEventOptions, CaptionEvents, likeness, read_again
from pipeline.testing.caption_rules import CaptionRuleTests

OPTIONS = CaptionGateOptions(change=0.2, min_interval_s=1, refresh_s=20, max_per_keyframe=2)
NORTH, EAST = np.array([0.0, 1.0], np.float32), np.array([1.0, 0.0], np.float32)
MASK = RleMask((4, 4), b"0")


def test_reasons() -> None:
    last = Captioned(0, NORTH)
    assert caption_reason(None, 0, NORTH, OPTIONS) is CaptionReason.NEW
    assert caption_reason(last, 10 * NS, NORTH, OPTIONS) is None
    assert caption_reason(last, 10 * NS, EAST, OPTIONS) is CaptionReason.CHANGED
    assert caption_reason(last, NS // 2, EAST, OPTIONS) is None
    assert caption_reason(last, 20 * NS, NORTH, OPTIONS) is CaptionReason.OLD


def test_budget_serves_new_tracks_first_and_the_rest_next_time() -> None:
    gate = CaptionGate(OPTIONS)
    north = np.stack([NORTH] * 4)
    assert gate.choose(np.array([1, -1]), north[:2], 0) == [0]
    ids, looks = np.array([1, 2, 3, 4]), np.stack([EAST, NORTH, NORTH, NORTH])
    assert gate.choose(ids, looks, 2 * NS) == [1, 2]
    assert gate.choose(ids, looks, 3 * NS) == [3, 0]
    assert gate.choose(ids, looks, 3 * NS + 1) == []
    assert gate.avoided == 2 + 4


def test_what_is_seen_much_nearer_is_captioned_again() -> None:
    gate = CaptionGate(OPTIONS)
    track, look = np.array([1]), NORTH[None]
    assert gate.choose(track, look, 0, [1.0]) == [0]
    assert gate.choose(track, look, 2 * NS, [1.4]) == []
    assert gate.choose(track, look, NS // 2, [3.0]) == []  # too soon for any reason
    assert gate.choose(track, look, 3 * NS, [3.0]) == [0]
    assert gate.choose(track, look, 5 * NS, [3.0]) == []
    assert gate.choose(track, look, 7 * NS, [1.0]) == []  # as known as it was
    assert gate.choose(track, look, 9 * NS) == []  # nobody tells


def test_looks_that_were_described_anew_are_read_again_until_it_is_enough() -> None:
    gate = CaptionGate(OPTIONS.model_copy(update={"readings": 3}))
    track, looks = np.array([1]), [np.array([0.1 * n, 1.0], np.float32) for n in range(4)]
    looks = [look / np.linalg.norm(look) for look in looks]
    assert gate.choose(track, looks[0][None], 0) == [0]
    assert not gate.asked_again(1)
    assert gate.choose(track, looks[0][None].copy(), NS) == []  # the same description says the same
    assert gate.choose(track, looks[1][None], NS) == [0]
    assert gate.choose(track, looks[1][None], 2 * NS) == []
    assert gate.choose(track, looks[2][None], 2 * NS) == [0]
    assert gate.asked_again(1)
    assert gate.choose(track, looks[3][None], 4 * NS) == []  # three readings are enough
    assert gate.choose(track, EAST[None], 4 * NS) == [0]
    assert not gate.asked_again(1)  # that is something else


def test_slow_changes_add_up_over_further_readings() -> None:
    gate = CaptionGate(OPTIONS.model_copy(update={"readings": 9}))
    turn = np.radians(np.arange(0, 90, 15))
    looks = np.stack([np.cos(turn), np.sin(turn)], axis=1).astype(np.float32)
    asked = []
    for second, look in enumerate(looks):
        assert gate.choose(np.array([1]), look[None], second * NS) == [0]
        asked.append(gate.asked_again(1))
    assert asked == [False, True, True, False, True, True]  # 45 degrees from the first look are another one


def test_further_readings_wait_for_what_was_never_read() -> None:
    gate = CaptionGate(OPTIONS.model_copy(update={"readings": 3}))
    both = np.stack([NORTH, EAST])
    gate.choose(np.array([1, 2]), both, 0)
    now = np.stack([NORTH * 0.999, EAST * 0.999, NORTH])
    assert gate.choose(np.array([1, 2, 3]), now, NS) == [2, 0]
    assert gate.choose(np.array([1, 2, 3]), now, NS) == [1]


def test_all_regions_of_the_first_keyframe_with_any_are_captioned() -> None:
    gate = CaptionGate(OPTIONS)
    assert gate.choose(np.zeros(0, np.int64), np.zeros((0, 2), np.float32), 0) == []
    assert gate.choose(np.arange(1, 21), np.stack([NORTH] * 20), NS) == list(range(20))
    assert len(gate.choose(np.arange(21, 41), np.stack([NORTH] * 20), 2 * NS)) == 2


@given(st.lists(st.tuples(st.integers(0, 3), st.integers(1, 4000)), max_size=80))
def test_no_track_is_captioned_more_often_than_allowed(steps: list[tuple[int, int]]) -> None:
    gate = CaptionGate(OPTIONS)
    last: dict[int, int] = {}
    now = 0
    for look, wait in steps:
        now += wait * 1_000_000
        ids = np.array([1, 2, 3])
        features = np.stack([NORTH if (look >> i) & 1 else EAST for i in range(3)])
        for index in gate.choose(ids, features, now):
            track = int(ids[index])
            assert now - last.get(track, -(10**18)) >= NS
            last[track] = now


def caption(text: str, at_s: float, score: float = 0.5, track: int = 1) -> RegionCaption:
    time = FrameTime(round(at_s * NS), 10**18 + round(at_s * NS))
    return RegionCaption(
        track, round(at_s * 25), time, (0, 0, 9, 9), MASK, np.array([1, 0], np.float32), text, score, -1.0
    )


def seconds(ns: int) -> float:
    return (ns - 10**18) / NS


def test_same_words_extend_the_event_and_keep_the_surer_text() -> None:
    events = CaptionEvents(CaptionEventOptions())
    first = events.captioned(caption("a man in a red shirt", 0, 0.4))[0]
    rows = events.captioned(caption("man in the red shirt", 3, 0.7))
    assert [(r.start_ns, seconds(r.end_ns), r.text) for r in rows] == [
        (first.start_ns, 3, "man in the red shirt")
    ]
    assert events.best_text(1) == "man in the red shirt"


def test_other_words_close_the_event_and_begin_a_new_one() -> None:
    events = CaptionEvents(CaptionEventOptions())
    events.captioned(caption("a man in a red shirt", 0))
    closed, begun = events.captioned(caption("a brown dog", 3))
    assert (seconds(closed.start_ns), seconds(closed.end_ns), closed.text) == (0, 3, "a man in a red shirt")
    assert (seconds(begun.start_ns), begun.text) == (3, "a brown dog")


def test_a_caption_that_contradicts_the_track_is_trusted_once_it_is_repeated() -> None:
    events = CaptionEvents(CaptionEventOptions(contradiction=0.5))
    events.captioned(caption("a black dog", 0, 0.6))
    related = events.captioned(caption("a dog on the grass", 1, 0.6))[-1]
    contrary = events.captioned(caption("a red car", 2, 0.6))[-1]
    elsewhere = events.captioned(caption("a red car", 2, 0.6, track=2))[-1]
    assert [related.score, contrary.score, elsewhere.score] == [0.6, 0.3, 0.6]
    assert events.captioned(caption("a red car", 3, 0.6))[-1].score == 0.6
    events.ended(1)
    assert events.captioned(caption("a tree", 4, 0.6))[-1].score == 0.6


@given(st.floats(0.01, 0.99), st.floats(0.01, 0.99))
def test_readings_that_agree_are_worth_more_than_others(first: float, second: float) -> None:
    text, agreed = read_again("a red car", first, "the car", second)
    assert text == ("the car" if second > first else "a red car")
    assert (text, agreed) == read_again("the car", second, "a red car", first) or first == second
    other, differing = read_again("a red car", first, "a tree", second)
    assert other == ("a tree" if second > first else "a red car")
    assert min(first, second) < agreed < 1
    assert 0 < differing < max(first, second)


def test_a_further_reading_of_the_same_name_makes_the_event_surer() -> None:
    events = CaptionEvents(CaptionEventOptions())
    events.captioned(caption("a black dog", 0, 0.6))
    (row,) = events.captioned(replace(caption("a brown dog", 1, 0.6), again=True))
    assert (seconds(row.start_ns), seconds(row.end_ns), row.text) == (0, 1, "a black dog")
    assert row.score > 0.65
    assert events.begun == 1


def test_a_further_reading_of_another_name_makes_it_less_sure() -> None:
    events = CaptionEvents(CaptionEventOptions())
    events.captioned(caption("a dog", 0, 0.6))
    (row,) = events.captioned(replace(caption("a fence", 1, 0.4), again=True))
    assert (seconds(row.start_ns), row.text) == (0, "a dog")
    assert row.score < 0.5
    closed, begun = events.captioned(replace(caption("a fence", 2, 0.8), again=True))
    assert (seconds(closed.end_ns), closed.text, begun.text) == (2, "a dog", "a fence")
    assert 0.6 < begun.score < 0.8
    assert events.best_text(1) == "a fence"


def test_lasting_event_is_extended_now_and_then_and_capped() -> None:
    options = CaptionEventOptions(max_event_s=60, extend_every_s=5)
    events = CaptionEvents(options)
    rows = events.captioned(caption("a tree", 0))
    for half_seconds in range(1, 260):
        at = half_seconds / 2
        time = FrameTime(round(at * NS), 10**18 + round(at * NS))
        rows += events.seen(1, half_seconds, time, (0, 0, 9, 9))
    rows += events.ended(1)
    assert len(rows) < 40
    last = {row.start_ns: row for row in rows}
    assert [(seconds(r.start_ns), seconds(r.end_ns)) for r in last.values()] == [
        (0, 60),
        (60, 120),
        (120, 129.5),
    ]


def test_absence_is_not_part_of_an_event() -> None:
    events = CaptionEvents(CaptionEventOptions(max_absence_s=5))
    events.captioned(caption("a dog", 0))
    before, after = events.seen(1, 500, FrameTime(20 * NS, 10**18 + 20 * NS), (1, 1, 5, 5))
    assert (seconds(before.start_ns), seconds(before.end_ns)) == (0, 0)
    assert (seconds(after.start_ns), after.text, after.frame) == (20, "a dog", 500)


def test_a_track_that_comes_back_is_stored_where_it_is_now() -> None:
    events = CaptionEvents(CaptionEventOptions(max_absence_s=5))
    events.captioned(caption("a dog", 0))
    again = replace(caption("a dog", 20), box=(50.0, 60.0, 70.0, 80.0), frame=600)
    before, after = events.captioned(again)
    assert (seconds(before.end_ns), before.box) == (0, caption("a dog", 0).box)
    assert (seconds(after.start_ns), after.box, after.frame) == (20, again.box, 600)
    assert events.begun == 2


def test_likeness() -> None:
    assert likeness("a man in a red shirt", "the man in red shirt") == 1.0
    assert likeness("a black dog", "a brown dog") < 0.75
    assert likeness("a woman", "a tree") == 0.0


class TestLooksRule(CaptionRuleTests):
    def rule(self) -> CaptionRule:
        return CAPTION_RULES.get("looks")
