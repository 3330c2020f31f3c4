"""The modules against independent computations of the same thing."""

from __future__ import annotations

import pytest
import torch
from segment_anything.modeling import TwoWayTransformer
from torchvision.ops import roi_align

from sca.config import LanguageModelConfig
from sca.modeling import ImageFeatures, task_indices
from sca.modeling.mixer import pool_boxes
from sca.modeling.timm_encoder import TimmEncoder
from sca.modeling.two_way import SharedImageTwoWayTransformer
from tests.tiny_models import (
    GPT2,
    LLAMA,
    region_reader_config,
    region_token_config,
    stir,
    tiny_config,
    tiny_model,
)

FAMILIES = pytest.mark.parametrize("family", [GPT2, LLAMA], ids=["gpt2", "llama"])


@pytest.mark.parametrize(("images", "prompts"), [(1, 1), (1, 5), (2, 3), (4, 1)])
@torch.no_grad()
def test_two_way_transformer_equals_the_package(images: int, prompts: int) -> None:
    """The package repeats the image for every prompt; sharing it must not change anything."""
    torch.manual_seed(0)
    shape = {"depth": 3, "embedding_dim": 32, "num_heads": 4, "mlp_dim": 48, "attention_downsample_rate": 2}
    ours = SharedImageTwoWayTransformer(**shape, layer_norm_eps=1e-5, final_layer_norm_eps=1e-5)
    stir(ours)
    package = TwoWayTransformer(**shape)
    package.load_state_dict(ours.state_dict())
    image, pe = torch.randn(images, 32, 6, 6), torch.randn(1, 32, 6, 6)
    tokens = torch.randn(images * prompts, 7, 32)
    wanted = package(image.repeat_interleave(prompts, 0), pe.expand(images * prompts, -1, -1, -1), tokens)
    for mine, theirs in zip(ours(image, pe, tokens), wanted, strict=True):
        torch.testing.assert_close(mine, theirs, rtol=1e-4, atol=1e-5)


@torch.no_grad()
def test_region_tokens_are_roi_align() -> None:
    model = tiny_model(region_token_config())
    pooler = model.region_pooler
    assert pooler is not None
    image = model.encode_image(torch.randn(2, 3, 128, 128))
    assert image.region_map is not None
    assert image.region_map.shape == (2, 16, 16, 16)
    boxes = torch.tensor([[[3.0, 5, 60, 90], [20, 20, 28, 120]], [[0.5, 0, 127, 100], [64, 64, 100, 80]]])
    coarse = roi_align(image.embedding, list(boxes), 2, 1 / 16, sampling_ratio=2, aligned=True)
    fine = roi_align(image.region_map, list(boxes), 2, 1 / 8, sampling_ratio=2, aligned=True)
    pooled = torch.cat([coarse, fine], dim=1).flatten(2).transpose(1, 2)
    wanted = pooler.norm(pooler.project(pooled)) + pooler.position.weight
    torch.testing.assert_close(pooler(image.embedding, image.region_map, boxes), wanted, rtol=1e-4, atol=1e-4)


@torch.no_grad()
@pytest.mark.parametrize("own_backbone", [False, True])
def test_the_caption_map_may_be_pooled_before_or_after_it_is_projected(own_backbone: bool) -> None:
    """Why the reader can be trained on features that are pooled once."""
    model = tiny_model(region_reader_config(own_backbone))
    encoder, reader = model.image_encoder, model.region_reader
    assert isinstance(encoder, TimmEncoder)
    assert encoder.caption_map is not None
    assert reader is not None
    pixels = torch.randn(2, 3, 128, 128)
    boxes = torch.tensor([[[3.0, 5, 60, 90], [20, 20, 28, 120]], [[0.5, 0, 127, 100], [64, 64, 100, 80]]])
    sources = encoder.caption_map.stacked(
        encoder.caption_sources(pixels, encoder.backbone_maps(pixels)), 128 // 8
    )
    encoder.caption_map.measure(sources)
    _, caption_map = model.split_region_map(model.encode_image(pixels).region_map)
    assert caption_map is not None
    readings = reader.read(caption_map, boxes)
    early = encoder.caption_map.of_pooled(pool_boxes(sources, boxes, 2, 128))
    torch.testing.assert_close(readings.cells, early, rtol=1e-3, atol=2e-3)
    scene = encoder.caption_map.of_pooled(sources.mean(dim=(2, 3)))
    torch.testing.assert_close(readings.scene[::2], scene, rtol=1e-3, atol=2e-3)


@torch.no_grad()
def test_what_is_read_of_a_region_does_not_depend_on_the_others() -> None:
    model = tiny_model(region_reader_config()).eval()
    image = model.encode_image(torch.randn(1, 3, 128, 128))
    boxes = torch.tensor([[3.0, 5, 60, 90], [20, 20, 28, 120], [64, 64, 100, 80]])
    tokens = model.with_readings(torch.randn(3, 3, 32), image, boxes)
    assert tokens.shape == (3, model.config.num_region_tokens, 32)
    mixed = torch.randn(3, 3, 32)
    together = model.with_readings(mixed, image, boxes)
    alone = model.with_readings(mixed[1:2], image, boxes[1:2])
    torch.testing.assert_close(together[1:2], alone, rtol=1e-4, atol=1e-5)


@FAMILIES
@torch.no_grad()
def test_loss_is_that_of_the_language_model(family: LanguageModelConfig) -> None:
    model = tiny_model(tiny_config(family))
    prefix = torch.randn(3, 5, model.language_project.out_features)
    ids = torch.randint(0, 60, (3, 6))
    mask = torch.tensor([[1, 1, 1, 1, 1, 1], [1, 1, 1, 0, 0, 0], [1, 1, 0, 0, 0, 0]])
    ours = model.caption_loss(prefix, ids, mask, label_smoothing=0.0)
    embeds = torch.cat([prefix, model.language_model.get_input_embeddings()(ids)], dim=1)
    labels = torch.cat([torch.full((3, 5), -100), ids.masked_fill(mask == 0, -100)], dim=1)
    theirs = model.language_model(
        inputs_embeds=embeds, attention_mask=torch.cat([torch.ones(3, 5).long(), mask], dim=1), labels=labels
    )
    assert float(ours.loss) == pytest.approx(float(theirs.loss), rel=1e-5)
    smoothed = model.caption_loss(prefix, ids, mask, label_smoothing=0.1)
    assert float(smoothed.loss) != pytest.approx(float(ours.loss), rel=1e-4)


@torch.no_grad()
def test_rows_without_text_count_for_nothing() -> None:
    """Images with fewer regions are padded with rows whose attention mask is zero."""
    model = tiny_model()
    pixels = torch.randn(2, 3, 128, 128)
    boxes = torch.tensor([[[3.0, 5, 60, 90], [20, 20, 28, 120]], [[0.5, 0, 127, 100], [0, 0, 0, 0]]])
    ids = torch.randint(0, 60, (2, 2, 4))
    mask = torch.tensor([[[1, 1, 1, 1], [1, 1, 0, 0]], [[1, 1, 1, 0], [0, 0, 0, 0]]])
    padded = model.forward_training(pixels, ids, mask, boxes=boxes).loss
    other = ids.clone()
    other[1, 1] = 7
    assert model.forward_training(pixels, other, mask, boxes=boxes * 1.0).loss == padded
    first = model.forward_training(pixels[:1], ids[:1], mask[:1], boxes=boxes[:1]).loss
    second = model.forward_training(pixels[1:], ids[1:, :1], mask[1:, :1], boxes=boxes[1:, :1]).loss
    assert float(padded) == pytest.approx(float((first * 6 + second * 3) / 9), rel=1e-4)


@pytest.mark.parametrize("regions", [False, True])
def test_the_whole_model_is_trainable(regions: bool) -> None:
    model = tiny_model(region_token_config() if regions else tiny_config())
    assert all(parameter.requires_grad for parameter in model.parameters())
    boxes = torch.tensor([[[3.0, 5, 60, 90], [20, 20, 28, 120]]])
    ids, mask = torch.randint(0, 60, (1, 2, 4)), torch.ones(1, 2, 4, dtype=torch.int64)
    model.forward_training(torch.randn(1, 3, 128, 128), ids, mask, boxes=boxes).loss.backward()
    trained = model.released_trainable_parameters()
    assert all(parameter.grad is not None for parameter in trained.values())
    assert model.image_encoder.neck is not None
    assert any(parameter.grad is not None for parameter in model.image_encoder.parameters())
    assert not any(name.startswith(("image_encoder", "prompt_encoder", "mask_decoder")) for name in trained)


@torch.no_grad()
def test_tasks_choose_their_tokens() -> None:
    model = tiny_model()
    tokens = torch.randn(2, 3, 32)
    default = model.language_prefix(tokens)
    both = model.language_prefix(tokens, task_indices(["recognition", "caption"]))
    assert torch.equal(default[1], both[1])
    assert not torch.equal(default[0, :2], both[0, :2])
    assert torch.equal(default[:, 2:], both[:, 2:])
    with pytest.raises(ValueError, match="unknown task 'recognise'"):
        task_indices(["recognise"])


@torch.no_grad()
def test_half_precision_keeps_the_coordinates_exact() -> None:
    """Fourier phases reach 20 rad: in half precision a box would move by pixels."""
    model = tiny_model(tiny_config(image_size=1024))
    # What fp16 cannot hold of the frequencies themselves is no concern here.
    gaussian = model.prompt_encoder.pe_layer.positional_encoding_gaussian_matrix
    gaussian.copy_(gaussian.to(torch.bfloat16))
    boxes = torch.tensor([[801.3, 702.6, 990.9, 1003.2]])
    exact, _ = model.prompt_encoder(boxes=boxes)
    half, _ = model.prompt_encoder.to(torch.bfloat16)(boxes=boxes)
    torch.testing.assert_close(half.float(), exact, rtol=0.01, atol=0.01)


@torch.no_grad()
def test_region_tokens_need_boxes() -> None:
    model = tiny_model(region_token_config())
    image = ImageFeatures(torch.randn(1, 32, 8, 8), torch.randn(1, 16, 16, 16))
    decoding = model.decode_masks(image, points=torch.tensor([[[5.0, 5.0]]]))
    with pytest.raises(ValueError, match="give the boxes"):
        model.mix(image, decoding.tokens, decoding.image_features)
