"""What every caption rule keeps: see `pipeline.captioning.gate.CaptionRule`."""

from __future__ import annotations

import numpy as np

from pipeline.captioning.gate import Captioned, CaptionGateOptions, CaptionReason, CaptionRule
from pipeline.core.clock import NS

_NOW = 1_700_000_000 * NS


class CaptionRuleTests:
    """Subclass it and say `rule`; `options` where it takes settings of its own."""

    def rule(self) -> CaptionRule:
        """The rule."""
        raise NotImplementedError

    def options(self) -> CaptionGateOptions:
        """Settings to ask it with."""
        return CaptionGateOptions()

    def questions(self) -> list[tuple[Captioned | None, int, np.ndarray]]:
        """Tracks without a caption and with captions of any age and any likeness."""
        draw = np.random.default_rng(0)
        asked: list[tuple[Captioned | None, int, np.ndarray]] = []
        for number in range(200):
            before, now = draw.normal(size=(2, 8)).astype(np.float32)
            before, now = before / np.linalg.norm(before), now / np.linalg.norm(now)
            age = int(draw.choice([0, 1, NS // 2, NS, 15 * NS, 3600 * NS]))
            last = None if number % 4 == 0 else Captioned(_NOW - age, before)
            asked.append((last, _NOW, before if number % 3 == 0 else now))
        return asked

    def test_it_answers_with_a_reason_or_none(self) -> None:
        rule, options = self.rule(), self.options()
        for last, now_ns, feature in self.questions():
            answer = rule(last, now_ns, feature, options)
            assert answer is None or isinstance(answer, CaptionReason)

    def test_it_is_pure(self) -> None:
        rule, options = self.rule(), self.options()
        asked = self.questions()
        for _, _, feature in asked:
            feature.setflags(write=False)
        first = [rule(last, now_ns, feature, options) for last, now_ns, feature in asked]
        again = [rule(last, now_ns, feature, options) for last, now_ns, feature in reversed(asked)]
        assert first == again[::-1], "the same question has the same answer, whatever was asked before"
