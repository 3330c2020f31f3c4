"""The model against stored reference outputs: every intermediate quantity, loss, gradient and decoded id.

SCA_PARITY_DIRS names folders of references (separated by commas or colons). Without it the folder that the repository
ships is checked, and those of the official implementation if they lie beside the checkout.
"""

from __future__ import annotations

import os
import re
from pathlib import Path

import pytest
import torch
from torch import Tensor

from sca.checkpoints.sam import hugging_face_name
from sca.decoding.reference import RELEASED_BEAMS, decode
from sca.modeling import ImageFeatures, Sca
from sca.predictor import Predictor
from sca.preprocessing import scale_boxes, scale_points, to_model_input
from tests.parity_fixture import STRIDE, ParityFixture

ROOT = Path(__file__).resolve().parents[2]
BESIDE = ROOT.parent / "shared" / "parity"
FEATURES, LOGITS = 1e-4, 1e-3


def _directories() -> list[Path]:
    named = os.environ.get("SCA_PARITY_DIRS", "")
    if named:
        return [Path(part).resolve() for part in re.split(r"[,:]", named) if part]
    references = sorted(BESIDE.glob("*/outputs.safetensors")) if BESIDE.is_dir() else []
    return [ROOT / "tests" / "fixtures" / "parity_snapshot", *(path.parent for path in references)]


@pytest.fixture(scope="module", params=_directories(), ids=lambda path: path.name)
def fixture(request: pytest.FixtureRequest) -> ParityFixture:
    assert (request.param / "outputs.safetensors").is_file(), f"{request.param} holds no reference outputs"
    return ParityFixture(request.param)


@pytest.fixture(scope="module")
def image(fixture: ParityFixture) -> ImageFeatures:
    with torch.no_grad():
        return fixture.model.encode_image(fixture.pixels)


class _CaseOutputs:
    """Everything the model computes for one case, collected in one pass."""

    def __init__(self, fixture: ParityFixture, image: ImageFeatures, case: str) -> None:
        model = fixture.model
        prompts = fixture.prompts(case)
        flat = {key: None if value is None else value.flatten(0, 1) for key, value in prompts.items()}
        flat["masks"] = prompts["masks"]
        points = None if flat["points"] is None else (flat["points"], flat["labels"])
        self.sparse, self.dense = model.prompt_encoder(points, flat["boxes"], flat["masks"])
        self.multi = model.decode_masks(image, **flat, multimask=True)
        self.single = model.decode_masks(image, **flat, multimask=False)
        mixed: list[Tensor] = []
        hook = model.mixer.transformer.register_forward_hook(lambda _, __, out: mixed.append(out[0]))
        self.caption_tokens = model.mix(image, self.multi.tokens, self.multi.image_features)
        hook.remove()
        self.mixer_tokens = mixed[0]
        self.projected = model.language_project(self.caption_tokens)
        tasks = fixture.tasks(case)
        count = len(self.caption_tokens) // fixture.batch
        self.prefix = model.language_prefix(
            self.caption_tokens, None if tasks is None else tasks.repeat_interleave(count)
        )


@pytest.fixture(scope="module")
def computed(fixture: ParityFixture, image: ImageFeatures) -> dict[str, _CaseOutputs]:
    with torch.no_grad():
        return {case: _CaseOutputs(fixture, image, case) for case in fixture.cases}


def _compare(fixture: ParityFixture, tolerance: float, ours: dict[str, Tensor]) -> int:
    """Compare what the folder holds of `ours`; returns how many quantities that were."""
    present = {key: value for key, value in ours.items() if fixture.has(key)}
    off = {
        key: difference
        for key, value in present.items()
        if not (difference := fixture.difference(key, value)) <= tolerance
    }
    assert not off, off
    return len(present)


def test_preprocessing(fixture: ParityFixture) -> None:
    pixels, sizes = to_model_input(fixture.images, fixture.model.config)
    assert sizes == [tuple(size) for size in fixture.inputs["reshaped_input_sizes"].tolist()]
    key = "pixel_values" if "pixel_values" in fixture.inputs else "pixel_values" + STRIDE
    ours = pixels if key == "pixel_values" else pixels[..., ::8, ::8]
    assert float((ours - fixture.inputs[key]).abs().max()) <= FEATURES


def test_prompt_coordinates(fixture: ParityFixture) -> None:
    inputs = fixture.inputs
    compared = 0
    for i in range(fixture.batch):
        source, target = (
            tuple(inputs[key][i].tolist()) for key in ("original_sizes", "reshaped_input_sizes")
        )
        for raw, scaled, scale in (
            ("raw_boxes", "input_boxes", scale_boxes),
            ("raw_points", "input_points", scale_points),
            ("raw_points_multi", "input_points_multi", scale_points),
        ):
            if raw in inputs:
                ours = scale(inputs[raw][i].double(), source, target).reshape(inputs[scaled][i].shape)
                # The reference rounds raw coordinates to float32 first.
                torch.testing.assert_close(ours, inputs[scaled][i].double(), rtol=1e-7, atol=0)
                compared += 1
    assert compared >= fixture.batch


def test_image_encoder(fixture: ParityFixture, image: ImageFeatures) -> None:
    model = fixture.model
    outputs: dict[str, Tensor] = {}

    def keep(name: str, value: Tensor) -> None:
        outputs[name] = value

    encoder = model.image_encoder
    hooks = [encoder.patch_embed.register_forward_hook(lambda _, __, out: keep("vision.patch_embed", out))]
    for i, block in enumerate(encoder.blocks):
        hooks.append(
            block.register_forward_hook(lambda _, __, out, i=i: keep(f"vision.layer{i}", out))  # type: ignore[misc]
        )
    with torch.no_grad():
        embedding = model.encode_image(fixture.pixels).embedding
    for hook in hooks:
        hook.remove()
    # Inner activations are stored NHWC.
    for name, value in outputs.items():
        if fixture.has(name):
            assert fixture.difference(name, value, spatial_axes=(1, 2)) <= FEATURES, name
    with torch.no_grad():
        count = _compare(fixture, FEATURES, {"image_embeddings": embedding, "image_pe": model.image_pe()})
    assert count == 2
    torch.testing.assert_close(image.embedding, embedding)


def test_regions(fixture: ParityFixture, computed: dict[str, _CaseOutputs]) -> None:
    for case, ours in computed.items():
        count = _compare(
            fixture,
            FEATURES,
            {
                f"{case}.sparse_embeddings": ours.sparse,
                f"{case}.dense_embeddings": ours.dense,
                f"{case}.sam_decoder_tokens_out": ours.multi.tokens,
                f"{case}.pred_masks": ours.multi.mask_logits,
                f"{case}.iou_scores": ours.multi.iou,
                f"{case}.pred_masks_single": ours.single.mask_logits,
                f"{case}.iou_scores_single": ours.single.iou,
                f"{case}.mixer_tokens_out": ours.mixer_tokens,
                f"{case}.query_tokens": ours.caption_tokens,
                f"{case}.projected_query_tokens": ours.projected,
                f"{case}.lm_prefix": ours.prefix,
            },
        )
        assert count >= (1 if case == "boxes_mixed_task" else 8), f"{case}: only {count} quantities stored"


def test_teacher_forcing(fixture: ParityFixture, image: ImageFeatures) -> None:
    inputs, model = fixture.inputs, fixture.model
    for case in fixture.cases:
        losses = {}
        for key, smoothing in (("loss", 0.1), ("loss_no_smoothing", 0.0)):
            with torch.no_grad():
                result = model.forward_training(
                    image,
                    inputs["input_ids"],
                    inputs["attention_mask"],
                    tasks=fixture.tasks(case),
                    label_smoothing=smoothing,
                    **fixture.prompts(case),
                )
            losses[f"{case}.{key}"] = result.loss
        assert torch.equal(result.labels, inputs["labels"].flatten(0, 1))
        assert fixture.difference(f"{case}.logits", result.logits) <= LOGITS, case
        assert _compare(fixture, FEATURES, losses) >= 1


def _their_gradients(model: Sca) -> dict[str, Tensor]:
    return {
        hugging_face_name(name, model.config): parameter.grad
        for name, parameter in model.released_trainable_parameters().items()
        if parameter.grad is not None
    }


def test_trainable_parameters(fixture: ParityFixture) -> None:
    model = fixture.model
    ours = {hugging_face_name(name, model.config) for name in model.released_trainable_parameters()}
    assert ours == set(fixture.meta["trainable_parameters"])


def test_gradients(fixture: ParityFixture) -> None:
    """d loss / d parameter of the box case. Key biases are left out: their true gradient is zero."""
    model = fixture.model
    model.zero_grad(set_to_none=True)
    result = model.forward_training(
        fixture.pixels,
        fixture.inputs["input_ids"],
        fixture.inputs["attention_mask"],
        **fixture.prompts("boxes"),
    )
    result.loss.backward()
    gradients = _their_gradients(model)
    names = [name for name in fixture.meta["grad_norms"] if not name.endswith("k_proj.bias")]
    assert names
    for name in names:
        assert float(gradients[name].norm()) == pytest.approx(fixture.meta["grad_norms"][name], rel=1e-3), (
            name
        )
    stored = [key for key in fixture.outputs if key.startswith("grad.") and not key.endswith("k_proj.bias")]
    for key in stored:
        assert fixture.difference(key, gradients[key.removeprefix("grad.")]) <= FEATURES, key
    model.zero_grad(set_to_none=True)


def _until(ids: list[int], end: int) -> list[int]:
    """What follows the first end is padding."""
    return ids[: ids.index(end) + 1] if end in ids else ids


@pytest.mark.parametrize(("key", "beams"), [("greedy_ids", 1), ("beam3_ids", RELEASED_BEAMS)])
def test_decoded_ids(fixture: ParityFixture, computed: dict[str, _CaseOutputs], key: str, beams: int) -> None:
    """Stored ids begin with a BOS column that no model produced."""
    compared = 0
    for case, ours in computed.items():
        if f"{case}.{key}" not in fixture.outputs:
            continue
        wanted = fixture.outputs[f"{case}.{key}"].flatten(0, -2)[:, 1:]
        with torch.no_grad():
            decoded = decode(fixture.model.language_model, ours.prefix, beams=beams)
        assert decoded.sequences() == [
            _until(ids, fixture.meta["eos_token_id"]) for ids in wanted.tolist()
        ], case
        compared += 1
    assert compared >= 1


def test_masks_in_the_original_image(fixture: ParityFixture) -> None:
    """Through the predictor: raw image and raw boxes in, full-resolution masks out."""
    predictor = Predictor(fixture.model, _NoTokenizer())
    compared = 0
    for i, rgb in enumerate(fixture.images):
        encoding = predictor.encode(rgb)
        segmentation = predictor.segment(encoding, boxes=fixture.inputs["raw_boxes"][i].reshape(-1, 4))
        logits = predictor.mask_logits(encoding, segmentation.low_res_logits)
        key = f"boxes.post_masks_logits_{i}"
        if key in fixture.outputs:
            assert fixture.difference(key, logits) <= FEATURES
            compared += 1
        key = f"boxes.post_masks_area_{i}"
        if key in fixture.outputs:
            areas = (logits > 0).sum(dim=(2, 3))
            # Pixels whose logit is within the tolerance of zero may fall on either side.
            slack = (logits.abs() <= FEATURES).sum(dim=(2, 3))
            assert bool(((areas - fixture.outputs[key].reshape(areas.shape)).abs() <= slack).all())
            compared += 1
    if not compared:
        assert not any(key.startswith("boxes.post_masks") for key in fixture.outputs)


def test_norm_eps(fixture: ParityFixture) -> None:
    """Random weights cannot tell these apart, so they are compared as settings."""
    wanted = fixture.meta["norm_eps"]
    ours = {}
    for name, module in fixture.model.named_modules():
        eps = getattr(module, "eps", getattr(module, "variance_epsilon", None))
        if eps is not None:
            ours[hugging_face_name(name + ".weight", fixture.model.config).removesuffix(".weight")] = eps
    assert {name: ours.get(name) for name in wanted} == wanted


class _NoTokenizer:
    def decode(self, ids: list[int], skip_special_tokens: bool = True) -> str:
        raise AssertionError("masks need no text")
