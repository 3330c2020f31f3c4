"""A model without torch gives what the model gives: every array twin beside its torch reference."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import example, given, settings
from hypothesis import strategies as st

from sca.compiled.essentials import Essentials, essentials_of
from sca.compiled.geometry import placed_masks
from sca.compiled.predictor import Batches, CompiledPredictor, LanguageEngines, VisionEngines
from sca.errors import UserError
from sca.model_pictures import resized_size
from sca.modeling.caption_judge import CaptionJudge
from sca.predictor import Predictor
from sca.regions import ImageEncoding, ImageFeatures, Segmentation
from sca.stages.language import language_stages
from sca.stages.names import BOX_PROPOSER, CAPTION_ENCODER, IMAGE_ENCODER, MASK_DECODER, MIXER
from sca.stages.vision import model_stages
from tests.tiny_models import (
    region_reader_config,
    region_token_config,
    tiny_config,
    tiny_model,
    word_tokenizer,
)

SIDES = st.integers(1, 90)


def on_arrays(module: torch.nn.Module) -> Callable[..., tuple[np.ndarray, ...]]:
    """A stage as an engine computes it, in the eager model's own precision."""

    @torch.inference_mode()
    def run(*inputs: np.ndarray) -> tuple[np.ndarray, ...]:
        return tuple(
            one.numpy() for one in module(*(torch.from_numpy(np.ascontiguousarray(one)) for one in inputs))
        )

    return run


def without_torch(predictor: Predictor, parts: Essentials, prompts: int = 5) -> CompiledPredictor:
    made = {stage.name: on_arrays(stage.module) for stage in model_stages(predictor.model, prompts)}
    vision = VisionEngines(
        *(made[name] for name in (IMAGE_ENCODER, MASK_DECODER, MIXER)),
        made.get(CAPTION_ENCODER),
        made.get(BOX_PROPOSER),
    )
    language = [on_arrays(stage.module) for stage in language_stages(predictor.model, prompts)]
    return CompiledPredictor(parts, vision, LanguageEngines(*language), Batches(prompts))


@pytest.fixture(scope="module", params=["regions", "plain"])
def pair(
    request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory
) -> tuple[Predictor, CompiledPredictor]:
    torch.manual_seed(3)
    model = tiny_model(region_token_config(proposals=True) if request.param == "regions" else tiny_config())
    width = int(model.language_model.config.hidden_size)
    judge = CaptionJudge(width, asks_fits=True) if request.param == "regions" else None
    predictor = Predictor(model, word_tokenizer(), judge=judge)
    parts = essentials_of(predictor)
    assert parts is not None
    path = tmp_path_factory.mktemp("parts") / "parts.safetensors"
    parts.write(path)
    return predictor, without_torch(predictor, Essentials.read(path))


def picture(height: int, width: int) -> np.ndarray:
    return np.random.default_rng(height * width).integers(0, 256, (height, width, 3), np.uint8)


def alike(ours: np.ndarray, reference: torch.Tensor) -> bool:
    return np.allclose(ours, reference.numpy(), atol=2e-4)


@settings(max_examples=8)
@given(st.integers(8, 70), st.integers(8, 70), st.integers(0, 7), st.booleans())
def test_a_picture_is_segmented_and_captioned_alike(
    pair: tuple[Predictor, CompiledPredictor], height: int, width: int, prompts: int, by_box: bool
) -> None:
    reference, light = pair
    rgb = picture(height, width)
    numbers = np.random.default_rng(prompts)
    points = numbers.uniform(0, 1, (prompts, 1, 2)) * (width, height)
    corners = np.sort(numbers.uniform(0, 1, (prompts, 2, 2)), axis=1) * (width, height)
    boxes = corners.reshape(prompts, 4)
    asked = {"boxes": boxes} if by_box else {"points": points}
    (theirs,), (ours,) = reference.encode_batch([rgb]), light.encode_batch([rgb])
    assert (ours.original_size, ours.input_size) == (theirs.original_size, theirs.input_size)
    proposed, expects = light.propose(ours), reference.propose(theirs)
    assert len(proposed.boxes) == len(expects.boxes)
    np.testing.assert_allclose(proposed.boxes, expects.boxes, atol=1e-2)
    expected, found = reference.segment(theirs, **asked), light.segment(ours, **asked)
    assert alike(found.low_res_logits, expected.low_res_logits)
    assert alike(found.iou, expected.iou)
    # From the same logits, so that no pixel hangs on the last digit of a stage.
    same = Segmentation(
        *(
            one.numpy()
            for one in (expected.low_res_logits, expected.iou, expected.tokens, expected.image_features)
        ),
        boxes,
    )
    wanted = reference.masks(theirs, expected).numpy()
    masks = [mask.whole(ours.original_size) for mask in light.placed_masks(ours, same)]
    assert len(masks) == len(wanted)
    assert (np.array(masks) != wanted).mean() < 0.002 if masks else True
    placed = [mask.whole(ours.original_size) for mask in reference.placed_masks(theirs, expected)]
    assert (np.array(placed) == wanted).all() if placed else True
    tokens = light.region_features(ours, same, boxes)
    features = reference.region_features(theirs, expected, boxes)
    assert alike(tokens, features)
    fits = expects.fits(boxes)
    for our, their in zip(
        light.caption(tokens, fits=fits), reference.caption(features, fits=fits), strict=True
    ):
        assert (our.text, our.token_ids) == (their.text, their.token_ids)
        assert our.logprob == pytest.approx(their.logprob, abs=1e-4)
        assert our.word_logprobs == pytest.approx(their.word_logprobs, abs=1e-3)
        assert our.score == pytest.approx(their.score, abs=1e-4)


@settings(max_examples=60)
@example(1, 3, 8, 0)
@given(SIDES, SIDES, st.integers(1, 60), st.integers(0, 2**16))
def test_masks_grow_to_pictures_as_torch_interpolates(height: int, width: int, side: int, seed: int) -> None:
    inner, grid = resized_size((height, width), side), max(side // 4, 1)
    logits = np.random.default_rng(seed).normal(-0.5, 1, (3, grid, grid)).astype(np.float32)
    full = torch.nn.functional.interpolate(torch.from_numpy(logits)[:, None], (side, side), mode="bilinear")
    inside = full[..., : inner[0], : inner[1]]
    wanted = torch.nn.functional.interpolate(inside, (height, width), mode="bilinear")[:, 0]
    masks = placed_masks(logits, side, inner, (height, width))
    found = np.array([mask.whole((height, width)) for mask in masks])
    sure = wanted.abs().numpy() > 1e-4
    assert (found == (wanted.numpy() > 0))[sure].all()


def test_an_empty_mask_stays_empty() -> None:
    (mask,) = placed_masks(np.full((1, 8, 8), -1.0, np.float32), 32, (32, 20), (50, 31))
    assert not mask.whole((50, 31)).any()


def test_captions_are_cut_into_batches(pair: tuple[Predictor, CompiledPredictor]) -> None:
    reference, light = pair
    shape = (13, reference.config.num_region_tokens, reference.config.width)
    features = np.random.default_rng(0).normal(size=shape).astype(np.float32)
    ours, theirs = light.caption(features), reference.caption(features)
    assert [one.token_ids for one in ours] == [one.token_ids for one in theirs]
    assert [one.score for one in ours] == pytest.approx([one.score for one in theirs], abs=1e-4)
    told = light.caption(features, fits=np.linspace(0, 1, 13, dtype=np.float32))
    assert [one.text for one in told] == [one.text for one in ours]
    assert light.caption(features[:0]) == []


def test_what_cannot_be_asked_is_told(pair: tuple[Predictor, CompiledPredictor]) -> None:
    _, light = pair
    (encoding,) = light.encode_batch([picture(20, 30)])
    with pytest.raises(UserError, match="points or boxes"):
        light.segment(encoding)
    with pytest.raises(UserError, match="finite"):
        light.segment(encoding, boxes=np.array([[0, 0, np.nan, 3]]))


@pytest.mark.parametrize("content", [b"", b"no tensors at all", b"\x02\0\0\0\0\0\0\0{}"])
def test_damaged_essentials_are_refused(tmp_path: Path, content: bytes) -> None:
    path = tmp_path / "parts.safetensors"
    path.write_bytes(content)
    with pytest.raises(UserError, match=r"parts\.safetensors is damaged"):
        Essentials.read(path)
    with pytest.raises(UserError, match=r"absent\.safetensors is damaged"):
        Essentials.read(tmp_path / "absent.safetensors")


def test_regions_on_a_device_and_on_arrays_are_selected_alike() -> None:
    rows = torch.arange(24.0).reshape(4, 6)
    features = ImageFeatures(rows, None)
    assert ImageEncoding(features, (1, 1), (1, 1)).features.region_map is None
    chosen = Segmentation(rows, rows, rows, rows, None)
    arrays = Segmentation(*(rows.numpy(),) * 4, None)
    for index in (np.array([2, 0]), [1], np.array([True, False, False, True]), []):
        assert np.array_equal(chosen.select(index).iou.numpy(), arrays.select(index).iou)


def test_the_caption_map_is_made_when_something_is_described_and_once() -> None:
    torch.manual_seed(5)
    model = tiny_model(region_reader_config())
    reference = Predictor(model, word_tokenizer())
    parts = essentials_of(reference)
    assert parts is not None
    light = without_torch(reference, parts)
    encoding = light.encode_batch([picture(50, 60)])[0]
    found = light.segment(encoding, boxes=np.array([[5.0, 5.0, 40.0, 40.0]]))
    light.region_features(encoding, found.select([]))
    assert encoding.captions is not None
    assert not encoding.captions.is_expected
    described = light.region_features(encoding, found)
    assert encoding.captions.is_expected
    assert encoding.captions.map() is encoding.captions.map()
    same = reference.encode(picture(50, 60))
    boxes = reference.segment(same, boxes=[[5.0, 5.0, 40.0, 40.0]])
    assert alike(described, reference.region_features(same, boxes))
