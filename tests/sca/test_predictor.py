"""The predictor: encode once, prompt many times, in pixels of the original image."""

from __future__ import annotations

import math
from dataclasses import replace

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

import sca.predictor as predictor_module
from sca.config import ScaConfig
from sca.model_pictures import resized_size
from sca.modeling.caption_judge import CaptionJudge, caption_evidence
from sca.predictor import Predictor
from sca.preprocessing import to_model_input
from tests.tiny_models import LLAMA, region_token_config, tiny_config, tiny_model, word_tokenizer

BOXES = [[5.0, 4.0, 60.0, 40.0], [20.5, 10.0, 90.0, 55.0], [0.0, 0.0, 30.0, 30.0]]
ARCHITECTURES = pytest.mark.parametrize(
    "config", [tiny_config(), tiny_config(LLAMA), region_token_config()], ids=["gpt2", "llama", "regions"]
)


def _predictor(config: ScaConfig | None = None, **options: object) -> Predictor:
    return Predictor(tiny_model(config), word_tokenizer(), **options)  # type: ignore[arg-type]


def _image(height: int = 60, width: int = 100, seed: int = 0) -> np.ndarray:
    return np.random.default_rng(seed).integers(0, 256, (height, width, 3), dtype=np.uint8)


@ARCHITECTURES
def test_prompting_together_equals_prompting_one_by_one(config: ScaConfig) -> None:
    predictor = _predictor(config)
    encoding = predictor.encode(_image())
    together = predictor.segment(encoding, boxes=BOXES)
    features = predictor.region_features(encoding, together)
    captions = predictor.caption(features)
    for i, box in enumerate(BOXES):
        alone = predictor.segment(encoding, boxes=[box])
        torch.testing.assert_close(
            together.low_res_logits[i : i + 1], alone.low_res_logits, rtol=1e-4, atol=1e-4
        )
        torch.testing.assert_close(
            features[i : i + 1], predictor.region_features(encoding, alone), rtol=1e-4, atol=1e-4
        )
        caption = predictor.caption(predictor.region_features(encoding, alone))[0]
        assert caption.token_ids == captions[i].token_ids


@ARCHITECTURES
def test_encoding_in_a_batch_equals_encoding_alone(config: ScaConfig) -> None:
    predictor = _predictor(config)
    images = [_image(60, 100), _image(128, 40, 1), _image(7, 9, 2)]
    for image, encoding in zip(images, predictor.encode_batch(images), strict=True):
        alone = predictor.encode(image)
        assert (encoding.original_size, encoding.input_size) == (alone.original_size, alone.input_size)
        torch.testing.assert_close(
            encoding.features.embedding, alone.features.embedding, rtol=1e-4, atol=1e-4
        )


@ARCHITECTURES
def test_selecting_keeps_what_captions_need(config: ScaConfig) -> None:
    predictor = _predictor(config)
    encoding = predictor.encode(_image())
    everything = predictor.segment(encoding, boxes=BOXES)
    chosen = everything.select([2, 0])
    features = predictor.region_features(encoding, everything)
    torch.testing.assert_close(
        predictor.region_features(encoding, chosen), features[[2, 0]], rtol=1e-4, atol=1e-4
    )
    assert len(everything.select(torch.tensor([False, True, False]))) == 1
    assert len(everything.select([])) == 0
    # A copy, so that the unselected prompts' memory can be freed.
    assert (
        chosen.image_features.untyped_storage().nbytes()
        < everything.image_features.untyped_storage().nbytes()
    )


@ARCHITECTURES
@pytest.mark.parametrize("beams", [1, 3])
def test_describe_is_the_steps_in_one(config: ScaConfig, beams: int) -> None:
    predictor = _predictor(config)
    image = _image()
    encoding = predictor.encode(image)
    features = predictor.region_features(encoding, predictor.segment(encoding, boxes=BOXES))
    captions = predictor.describe(image, BOXES, beams=beams)
    assert captions == predictor.caption(features, beams=beams)
    assert len({round(caption.logprob, 4) for caption in captions}) == len(BOXES)
    for caption in captions:
        assert 0 <= caption.score <= 1
        assert caption.logprob <= 0
        assert "<eos>" not in caption.text


@ARCHITECTURES
def test_no_prompts_give_no_regions(config: ScaConfig) -> None:
    predictor = _predictor(config)
    encoding = predictor.encode(_image())
    for prompts in ({"boxes": []}, {"boxes": np.zeros((0, 4))}, {"points": np.zeros((0, 1, 2))}):
        nothing = predictor.segment(encoding, **prompts)  # type: ignore[arg-type]
        assert len(nothing) == 0
        assert predictor.masks(encoding, nothing).shape == (0, 60, 100)
        assert predictor.caption(predictor.region_features(encoding, nothing)) == []
    assert predictor.encode_batch([]) == []


def test_masks_follow_the_image_size() -> None:
    predictor = _predictor()
    encoding = predictor.encode(_image(33, 71))
    segmentation = predictor.segment(encoding, boxes=BOXES[:1], multimask=True)
    best = int(segmentation.iou.argmax())
    masks = predictor.masks(encoding, segmentation)
    assert masks.shape == (1, 33, 71)
    assert masks.dtype == torch.bool
    logits = predictor.mask_logits(encoding, segmentation.low_res_logits)
    assert torch.equal(masks[0], logits[0, best] > 0)
    for index in range(3):
        assert torch.equal(predictor.masks(encoding, segmentation, index)[0], logits[0, index] > 0)
    assert predictor.masks(encoding, segmentation, size=(16, 35)).shape == (1, 16, 35)


def test_region_tokens_look_at_the_region() -> None:
    """With region tokens the box matters although the prompt is the same; the default box is the prompt's."""
    predictor = _predictor(region_token_config())
    encoding = predictor.encode(_image())
    segmentation = predictor.segment(encoding, boxes=BOXES[:1])
    default = predictor.region_features(encoding, segmentation)
    same = predictor.region_features(encoding, segmentation, boxes=BOXES[:1])
    other = predictor.region_features(encoding, segmentation, boxes=[[50.0, 30.0, 99.0, 59.0]])
    torch.testing.assert_close(default, same)
    assert float((default - other).abs().max()) > 1e-3
    from_point = predictor.segment(encoding, points=[[[30.0, 20.0]], [[70.0, 50.0]]])
    assert predictor.region_features(encoding, from_point).isfinite().all()
    with pytest.raises(ValueError, match="give one box each"):
        predictor.region_features(encoding, from_point, boxes=BOXES[:1])


def test_mask_prompts_change_the_result() -> None:
    predictor = _predictor()
    encoding = predictor.encode(_image())
    first = predictor.segment(encoding, boxes=BOXES, multimask=False)
    again = predictor.segment(encoding, boxes=BOXES, mask_input=first.low_res_logits, multimask=False)
    assert again.low_res_logits.shape == first.low_res_logits.shape
    assert float((again.low_res_logits - first.low_res_logits).abs().max()) > 1e-3
    alone = predictor.segment(
        encoding, boxes=BOXES[1:2], mask_input=first.low_res_logits[1:2], multimask=False
    )
    torch.testing.assert_close(again.low_res_logits[1:2], alone.low_res_logits, rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize(
    ("prompts", "message"),
    [
        ({}, "no prompt"),
        ({"labels": [[1]]}, "no prompt"),
        ({"boxes": [[1.0, 2.0, 3.0]]}, r"boxes must be finite numbers of shape \(P, 4\)"),
        ({"boxes": [[1.0, 2.0, 3.0, float("nan")]]}, "boxes must be finite"),
        ({"points": [[1.0, 2.0]]}, r"points must be finite numbers of shape \(P, n, 2\)"),
        ({"boxes": BOXES, "labels": [[1]]}, "labels without points"),
        ({"points": [[[1.0, 2.0]]], "labels": [[1, 1]]}, "one label per point"),
        ({"points": [[[1.0, 2.0]]], "boxes": BOXES}, "one group per box"),
    ],
)
def test_bad_prompts(prompts: dict[str, object], message: str) -> None:
    predictor = _predictor()
    encoding = predictor.encode(_image())
    with pytest.raises(ValueError, match=message):
        predictor.segment(encoding, **prompts)  # type: ignore[arg-type]


@pytest.mark.parametrize(
    "image",
    [
        np.zeros((4, 4), dtype=np.uint8),
        np.zeros((4, 4, 4), dtype=np.uint8),
        np.zeros((4, 4, 3), dtype=np.float32),
        np.zeros((0, 4, 3), dtype=np.uint8),
        [[1]],
    ],
)
def test_bad_images(image: object) -> None:
    with pytest.raises(ValueError, match="image"):
        _predictor().encode(image)  # type: ignore[arg-type]


@given(st.integers(1, 5000), st.integers(1, 5000))
def test_the_longer_side_fills_the_input(height: int, width: int) -> None:
    new_height, new_width = resized_size((height, width), 1024)
    assert max(new_height, new_width) == 1024
    assert min(new_height, new_width) >= 1
    exact = min(height, width) * 1024 / max(height, width)
    assert abs(min(new_height, new_width) - exact) <= 0.5 + 1e-9 or min(new_height, new_width) == 1


@pytest.mark.parametrize("resize", ["pil-bilinear", "area"])
def test_padding_is_the_mean_colour(resize: str) -> None:
    """A uniform image stays uniform whatever the resize, and padding is zero after normalisation."""
    config = tiny_config(resize=resize)
    image = np.full((50, 100, 3), 77, dtype=np.uint8)
    pixels, sizes = to_model_input([image, image[:, :20]], config)
    assert sizes == [(64, 128), (128, 51)]
    expected = (77 / 255 - torch.tensor(config.pixel_mean)) / torch.tensor(config.pixel_std)
    torch.testing.assert_close(pixels[0, :, :64], expected[:, None, None].expand(3, 64, 128))
    assert not pixels[0, :, 64:].any()
    assert not pixels[1, :, :, 51:].any()


@ARCHITECTURES
def test_a_judge_gives_the_scores_and_changes_nothing_else(config: ScaConfig) -> None:
    image, model = _image(), tiny_model(config)
    torch.manual_seed(3)
    judge = CaptionJudge(int(model.language_model.config.hidden_size))
    plain = Predictor(model, word_tokenizer()).describe(image, BOXES)
    judged = Predictor(model, word_tokenizer(), judge=judge).describe(image, BOXES)
    unjudged = [replace(caption, score=0.0, word_logprobs=()) for caption in judged]
    assert [replace(caption, score=0.0) for caption in plain] == unjudged
    for caption in judged:  # each token was written in some word, or ends the caption
        assert len(caption.word_logprobs) == len(caption.text.split())
        assert all(logprob <= 0 for logprob in caption.word_logprobs)
        assert sum(caption.word_logprobs) >= caption.logprob * len(caption.token_ids) - 1e-4
    assert [caption.score for caption in plain] == pytest.approx([math.exp(c.logprob) for c in plain])
    assert all(0 < caption.score < 1 for caption in judged)
    assert len({caption.score for caption in judged}) == len(BOXES), "every region got the same score"


@ARCHITECTURES
def test_a_judge_does_not_depend_on_the_other_captions_of_its_batch(config: ScaConfig) -> None:
    """Captions of different lengths: the evidence of one is not touched by the padding that another needs."""
    model = tiny_model(config).eval()
    language_model = model.language_model
    prefix = torch.randn(3, 4, language_model.config.hidden_size, generator=torch.Generator().manual_seed(0))
    captions = [[4, 1], [4, 5, 6, 7, 1], [1]]
    with torch.inference_mode():
        together = caption_evidence(language_model, prefix, captions, [-1.0, -0.5, -2.0])
        for i, caption in enumerate(captions):
            alone = caption_evidence(language_model, prefix[i : i + 1], [caption], [[-1.0, -0.5, -2.0][i]])
            torch.testing.assert_close(together[i : i + 1], alone, rtol=1e-4, atol=1e-5)


@ARCHITECTURES
def test_many_pictures_and_many_prompts_are_described_as_one_by_one(
    config: ScaConfig, monkeypatch: pytest.MonkeyPatch
) -> None:
    predictor = _predictor(config)
    images = [_image(60, 100), _image(50, 70, 1)]
    boxes = [BOXES * 3, BOXES[:1]]
    alone = [predictor.describe(image, own) for image, own in zip(images, boxes, strict=True)]
    for prompts, sequences in ((2, 64), (16, 4)):
        monkeypatch.setitem(predictor_module._PROMPTS, "cpu", prompts)
        monkeypatch.setattr(predictor_module, "_SEQUENCES", sequences)
        together = predictor.describe(images, boxes)
        assert [[c.token_ids for c in own] for own in together] == [
            [c.token_ids for c in own] for own in alone
        ]
    assert predictor.describe([], []) == []
    assert predictor.describe(images, [[], BOXES[:2]])[0] == []
    with pytest.raises(ValueError, match="one entry an image"):
        predictor.describe(images, [BOXES])


def test_points_masks_and_tasks_are_described() -> None:
    predictor = _predictor()
    image = _image()
    masks = np.zeros((2, 60, 100), bool)
    masks[0, 5:30, 10:50] = masks[1, 20:60, 40:90] = True
    named = predictor.describe(image, [[10, 5, 50, 30], [40, 20, 90, 60]])
    shaped = predictor.describe(image, masks=masks)
    assert [c.logprob for c in shaped] != [c.logprob for c in named]
    assert len(predictor.describe(image, points=[[[30, 20], [40, 30]]], labels=[[1, 0]])) == 1
    recognised = predictor.describe(image, BOXES, task="recognition")
    assert [c.logprob for c in recognised] != [c.logprob for c in predictor.describe(image, BOXES)]
    for prompts, message in (
        ({}, "no prompt"),
        ({"masks": masks[:, :9]}, r"give \(P, H, W\) of its size"),
        ({"masks": masks & False}, "mask 0 is empty"),
        ({"masks": masks, "boxes": BOXES}, "masks stand alone"),
        ({"boxes": BOXES, "task": "captoin"}, "unknown task"),
    ):
        with pytest.raises(ValueError, match=message):
            predictor.describe(image, **prompts)
