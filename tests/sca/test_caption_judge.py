"""The judge of captions: what it learns from, that it learns, and that its scores become probabilities."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import cv2
import numpy as np
import pytest
import torch

from sca.data.annotations import AnnotatedImage, RegionAnnotation
from sca.modeling.caption_judge import CaptionJudge
from sca.predictor import Predictor
from sca.proposals import USUAL_FIT
from sca.training.judge import JudgeExamples, calibrate_judge, fit_judge, judge_examples, judge_pictures


def test_pictures_are_half_described_ones_and_many_collections() -> None:
    def image(source: str, number: int) -> AnnotatedImage:
        name = f"{source}{number}"
        return AnnotatedImage(
            name, Path(name), source, "train", 9, 9, 1.0, (), (), (), described=source == "told"
        )

    count = {"told": 60, "large": 90, "small": 10}
    images = [image(source, n) for source, many in count.items() for n in range(many)]
    chosen = judge_pictures(images, 40, seed=1)
    sources = [one.source for one in chosen]
    assert len(chosen) == len({one.id for one in chosen}) == 40
    assert sources.count("told") == 20
    assert sources.count("small") > 20 * 10 / 100
    assert chosen == judge_pictures(images, 40, seed=1) != judge_pictures(images, 40, seed=2)
    assert len(judge_pictures(images[:60], 40, seed=1)) == 40  # a folder of one collection
    assert len(judge_pictures(images, 1000, seed=1)) == 160


def test_captions_of_found_regions_become_examples(tmp_path: Path, demo: Predictor) -> None:
    """The shipped model on a red ball in the grass, whose every region bears every name that is one piece of the vocabulary, or none that it knows."""
    predictor = demo
    words = predictor.tokenizer.get_vocab()  # type: ignore[attr-defined]
    picture = np.full((240, 320, 3), (50, 140, 70), np.uint8)
    picture += np.random.default_rng(0).integers(0, 40, picture.shape, np.uint8)
    cv2.circle(picture, (160, 150), 50, (35, 30, 205), -1)
    cv2.imwrite(str(tmp_path / "ball.png"), picture)

    def image(*phrases: str) -> AnnotatedImage:
        whole = RegionAnnotation((0.0, 0.0, 320.0, 240.0), phrases, 1, "1", ("other",), None, None)
        return AnnotatedImage("0", tmp_path / "ball.png", "x", "train", 320, 240, 4 / 3, (), (), (whole,))

    right = judge_examples(predictor, [image(*(word.strip("\u0120") for word in words))], seed=0)
    assert right.evidence.shape == (len(right), 256 + 1)
    # The ball is what looks like a thing of its own, and most of what was found in the grass does not.
    assert right.fits is not None
    assert 0 <= right.fits.min() < 0.2 < 0.4 < right.fits.max() <= 1
    # A rare name is written in several pieces, none of which is the word.
    assert right.right.float().mean() > 0.8
    wrong = judge_examples(predictor, [image("a xylophone")], seed=0)
    assert torch.equal(wrong.evidence, right.evidence)
    assert not wrong.right.any()
    both = judge_examples(predictor, [image("a xylophone"), image("a xylophone")], seed=0)
    assert not torch.equal(both.evidence[len(wrong) :], wrong.evidence), (
        "the second view is as sharp as the first"
    )
    unannotated = replace(image(), regions=())
    with pytest.raises(ValueError, match="no annotated picture"):
        judge_examples(predictor, [unannotated], seed=0)


def examples(count: int, seed: int) -> JudgeExamples:
    """Right where two of 32 directions of the evidence agree in sign, with a tenth of the answers wrong."""
    generator = torch.Generator().manual_seed(seed)
    evidence = torch.randn(count, 32, generator=generator) * 3 + 5
    right = (evidence[:, 0] > 5) & (evidence[:, 20] > 4)
    noise = torch.rand(count, generator=generator) < 0.1
    return JudgeExamples(evidence, right ^ noise)


def ranking(judge: CaptionJudge, held_out: JudgeExamples) -> float:
    """Probability that a right caption gets a higher score than a wrong one."""
    with torch.inference_mode():
        logits = judge(held_out.evidence, held_out.fits)
    right, wrong = logits[held_out.right], logits[~held_out.right]
    return float((right[:, None] > wrong[None]).float().mean())


def test_a_judge_learns_to_rank_captions_it_has_not_seen() -> None:
    learnt, held_out = examples(4000, 0), examples(1000, 1)
    judge = fit_judge(learnt)
    assert ranking(judge, held_out) > 0.75
    shuffled = JudgeExamples(learnt.evidence, learnt.right[torch.randperm(4000)])
    assert abs(ranking(fit_judge(shuffled), held_out) - 0.5) < 0.2


def things_and_grounds(count: int, seed: int) -> JudgeExamples:
    """A dog's name (the first direction) is right in a box that looks like a thing's own, a lawn's in one that does not."""
    generator = torch.Generator().manual_seed(seed)
    evidence, fits = (
        torch.randn(count, 32, generator=generator) * 3 + 5,
        torch.rand(count, generator=generator),
    )
    right = (evidence[:, 0] > 5) == (fits > 0.5)
    return JudgeExamples(evidence, right, fits=fits)


def test_what_a_box_looks_like_says_something_else_of_a_dog_than_of_a_lawn() -> None:
    learnt, held_out = things_and_grounds(4000, 0), things_and_grounds(1000, 1)
    judge = fit_judge(learnt)
    assert ranking(judge, held_out) > 0.8
    calibrate_judge(judge, held_out)
    assert error(judge, held_out) < 0.06
    blind = fit_judge(replace(learnt, fits=None))
    assert abs(ranking(blind, held_out) - 0.5) < 0.1
    # Of a box that somebody chose, the judge takes it that there is a thing in it.
    with torch.inference_mode():
        chosen = judge(held_out.evidence)
        assert torch.allclose(chosen, judge(held_out.evidence, torch.full((1000,), USUAL_FIT)))


def test_a_judge_departs_from_the_one_before_as_far_as_it_is_asked_to() -> None:
    """Three hundred captions alone teach little; beside what is known already they teach what fits say, and undo nothing."""
    before = fit_judge(examples(4000, 0))
    few, held_out = examples(300, 2), examples(1000, 1)
    kept = fit_judge(few, before)
    assert ranking(kept, held_out) > ranking(fit_judge(few), held_out)
    assert ranking(kept, held_out) == pytest.approx(ranking(before, held_out), abs=0.03)
    learnt, other = things_and_grounds(4000, 0), things_and_grounds(1000, 1)
    assert ranking(fit_judge(learnt, before), other) > 0.8 > 0.6 > ranking(before, other)


def test_what_counts_for_nothing_teaches_nothing() -> None:
    learnt, held_out = examples(2000, 0), examples(1000, 1)
    lies = JudgeExamples(
        torch.cat([learnt.evidence, learnt.evidence]),
        torch.cat([learnt.right, ~learnt.right]),
        torch.cat([torch.ones(2000), torch.zeros(2000)]),
    )
    assert ranking(fit_judge(lies), held_out) > 0.75


def test_examples_of_one_kind_teach_nothing() -> None:
    with pytest.raises(ValueError, match="right captions and wrong ones"):
        fit_judge(JudgeExamples(torch.randn(60, 8), torch.ones(60, dtype=torch.bool)))


def error(judge: CaptionJudge, held_out: JudgeExamples) -> float:
    """How far the judge's probabilities are from how often it is right, over tenths of the captions."""
    with torch.inference_mode():
        scores = judge(held_out.evidence, held_out.fits).sigmoid()
    tenths = scores.argsort().chunk(10)
    return float(np.mean([abs(scores[t].mean() - held_out.right[t].float().mean()) for t in tenths]))


def test_calibration_makes_scores_probabilities_and_keeps_their_order() -> None:
    judge, held_out = fit_judge(examples(4000, 0)), examples(1000, 1)
    with torch.no_grad():  # as sure as a judge is of pictures unlike those it is calibrated on
        judge.head.weight.mul_(3)
        judge.head.bias.add_(2)
    before, order = error(judge, held_out), ranking(judge, held_out)
    calibrate_judge(judge, held_out)
    assert error(judge, held_out) < 0.06 < before
    assert ranking(judge, held_out) == pytest.approx(order, abs=1e-3)


def test_calibration_refuses_what_it_cannot_be_fitted_on() -> None:
    judge, held_out = fit_judge(examples(4000, 0)), examples(1000, 1)
    with pytest.raises(ValueError, match="at least 50"):
        calibrate_judge(judge, JudgeExamples(held_out.evidence[:49], held_out.right[:49]))
    with pytest.raises(ValueError, match="backwards"):
        calibrate_judge(judge, JudgeExamples(held_out.evidence, ~held_out.right))
