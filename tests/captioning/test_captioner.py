"""Captions of many regions and callers in one batch come back to the right ones."""

from __future__ import annotations

import threading
from dataclasses import replace

import numpy as np
import pytest

from pipeline.captioning.captioner import Captioner, CaptionQueue
from pipeline.core.frame import FrameTime
from pipeline.core.masks import RleMask
from pipeline.core.regions import CaptionRequest, RegionCaption
from sca.predictor import Predictor
from tests.tiny_models import region_token_config, tiny_model, word_tokenizer


@pytest.fixture(scope="module")
def captioner() -> Captioner:
    return Captioner(Predictor(tiny_model(region_token_config()), word_tokenizer()), max_batch=5)


def requests(seed: int, count: int) -> tuple[CaptionRequest, ...]:
    rng = np.random.default_rng(seed)
    config = region_token_config()
    shape = (config.num_region_tokens, config.width)
    return tuple(
        CaptionRequest(
            track=seed * 100 + index,
            frame=index,
            time=FrameTime(0, 0),
            box=(0, 0, 1, 1),
            mask=RleMask((1, 1), b"0"),
            feature=np.array([1.0, 0.0], np.float32),
            tokens=(rng.normal(size=shape) * 3).astype(np.float16),
        )
        for index in range(count)
    )


def told(captions: list[RegionCaption | None]) -> list[tuple[int, str]]:
    return [(caption.track, caption.text) for caption in captions if caption is not None]


def test_batches_change_nothing(captioner: Captioner) -> None:
    asked = requests(1, 12)
    alone = [captioner.caption([request])[0] for request in asked]
    assert told(captioner.caption(asked)) == told(alone)
    assert len({text for _, text in told(alone)}) > 1


def test_a_caption_says_for_which_kind_of_reading_it_was_asked(captioner: Captioner) -> None:
    asked = [replace(request, again=bool(place % 2)) for place, request in enumerate(requests(1, 4))]
    assert {bool(one.track % 2): one.again for one in captioner.caption(asked) if one is not None} == {
        False: False,
        True: True,
    }


def test_callers_at_the_same_time_each_get_their_own(captioner: Captioner) -> None:
    queue = CaptionQueue(captioner, max_batch=16)
    expected = {seed: told(captioner.caption(requests(seed, 4))) for seed in range(6)}
    answers: dict[int, list[tuple[int, str]]] = {}

    def ask(seed: int) -> None:
        answers[seed] = told(queue.caption(requests(seed, 4), deadline_s=60))

    callers = [threading.Thread(target=ask, args=(seed,)) for seed in range(6)]
    for caller in callers:
        caller.start()
    for caller in callers:
        caller.join()
    queue.close()
    assert answers == expected


def test_failure_reaches_every_caller(captioner: Captioner) -> None:
    queue = CaptionQueue(captioner)
    good = requests(1, 1)[0]
    bad = CaptionRequest(1, 0, good.time, good.box, good.mask, good.feature, np.zeros((1, 7), np.float16))
    with pytest.raises(RuntimeError):
        queue.caption([bad], deadline_s=60)
    assert told(queue.caption([good], deadline_s=60)) == told(captioner.caption([good]))
    queue.close()
