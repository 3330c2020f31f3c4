"""Modules that compute the same as SAM's in another way: equal to the last digits, whatever the shapes."""

from __future__ import annotations

import pytest
import torch

from engines.typed_module import fold_batch_norms
from sca.config import MaskDecoderConfig, MixerConfig, ScaConfig, TimmEncoderConfig, VitEncoderConfig
from sca.modeling.image_encoder import VitEncoder
from sca.modeling.mask_decoder import MaskDecoder
from sca.modeling.timm_encoder import TimmEncoder
from sca.stages.fused_vit import FusedVit, RelativePosition
from sca.stages.vision import TokenUpscaling


def small_vit(image_size: int, **changes: object) -> VitEncoder:
    torch.manual_seed(0)
    settings: dict[str, object] = {
        "embed_dim": 48,
        "depth": 3,
        "num_heads": 3,
        "mlp_dim": 96,
        "window_size": 5,
        "global_attn_indexes": (1,),
        "out_channels": 32,
    }
    encoder = VitEncoder(VitEncoderConfig(**(settings | changes)), image_size).eval()  # type: ignore[arg-type]
    with torch.no_grad():
        for name, parameter in encoder.named_parameters():
            if "rel_pos" in name or "bias" in name:  # zero in a fresh model, which would hide an error
                parameter.normal_()
    return encoder


@pytest.mark.parametrize("relative_position", ["bias", "concatenated"])
@pytest.mark.parametrize("image_size", [160, 192])  # ten cells: two windows; twelve: padded to fifteen
@torch.inference_mode()
def test_the_fused_vit_is_sams_vit(relative_position: RelativePosition, image_size: int) -> None:
    encoder = small_vit(image_size)
    pixels = torch.randn(2, 3, image_size, image_size)
    torch.testing.assert_close(
        FusedVit(encoder, image_size, relative_position)(pixels), encoder(pixels), atol=1e-4, rtol=1e-4
    )


@torch.inference_mode()
def test_the_fused_vit_follows_its_encoder_to_another_input_side() -> None:
    encoder, pixels = small_vit(160), torch.randn(1, 3, 224, 224)
    torch.testing.assert_close(FusedVit(encoder, 224)(pixels), encoder(pixels), atol=1e-4, rtol=1e-4)


@torch.inference_mode()
def test_the_fused_vit_does_without_relative_positions() -> None:
    encoder, pixels = small_vit(160, use_rel_pos=False), torch.randn(1, 3, 160, 160)
    torch.testing.assert_close(FusedVit(encoder, 160)(pixels), encoder(pixels), atol=1e-4, rtol=1e-4)


@pytest.mark.parametrize("prompts", [1, 5])
@torch.inference_mode()
def test_upscaling_by_matrix_products_gives_the_same_masks(prompts: int) -> None:
    torch.manual_seed(0)
    config = ScaConfig(
        image_size=96,
        encoder=TimmEncoderConfig(),
        mask_decoder=MaskDecoderConfig(mlp_dim=64),
        mixer=MixerConfig(depth=1, mlp_dim=64),
    )
    decoder = MaskDecoder(config).eval()
    tokens, features = torch.randn(prompts, 7, 256), torch.randn(prompts, 256, 6, 6)
    expected = decoder.predict_mask_logits(tokens, features, slice(None))
    kernels = torch.stack(
        [mlp(tokens[:, 1 + index]) for index, mlp in enumerate(decoder.output_hypernetworks_mlps)], dim=1
    )
    got = TokenUpscaling(decoder)(features.flatten(2).transpose(1, 2), kernels, 6)
    torch.testing.assert_close(got, expected, atol=1e-5, rtol=1e-5)


@torch.inference_mode()
def test_folding_all_batch_norms_of_the_backbone_changes_nothing() -> None:
    torch.manual_seed(0)
    encoder = TimmEncoder(TimmEncoderConfig()).eval()
    norms = [part for part in encoder.modules() if isinstance(part, torch.nn.BatchNorm2d)]
    for norm in norms:
        norm.running_mean.normal_(0, 0.1)  # type: ignore[union-attr]
        norm.running_var.uniform_(0.5, 1.5)  # type: ignore[union-attr]
    pixels = torch.randn(1, 3, 64, 64)
    expected = encoder(pixels)
    assert fold_batch_norms(encoder, (pixels,)) == len(norms)
    assert not any(isinstance(part, torch.nn.BatchNorm2d) for part in encoder.modules())
    torch.testing.assert_close(encoder(pixels), expected, atol=1e-4, rtol=1e-4)
