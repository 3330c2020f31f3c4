"""SAM's mask upscaling as matrix products over image tokens: the same masks without transposed convolutions."""

from __future__ import annotations

import torch
from segment_anything.modeling import MaskDecoder
from torch import Tensor, nn
from torch.nn import functional as F


class TokenUpscaling(nn.Module):
    """What `MaskDecoder.output_upscaling` and the product with the mask kernels give, from the same weights.

    A transposed convolution of kernel 2 and stride 2 is a linear map of each cell to its four sub-cells. So the cells
    stay a token axis through both of them, the norm and the activations, and only the finished logits are put in their
    places: K values per pixel to move instead of C / 8. Some compilers also lack transposed convolutions in bfloat16.
    Takes copies of the decoder's weights.
    """

    @torch.no_grad()
    def __init__(self, decoder: MaskDecoder) -> None:
        super().__init__()
        first, norm, _, second, _ = decoder.output_upscaling
        self.first = _sub_cells(first)
        self.norm = nn.LayerNorm(norm.weight.shape[0], eps=norm.eps)
        self.norm.load_state_dict({"weight": norm.weight, "bias": norm.bias})
        self.second = _sub_cells(second)

    def forward(self, image_tokens: Tensor, kernels: Tensor, side: int) -> Tensor:
        """image_tokens (P, g * g, C) and kernels (P, K, C / 8) to mask logits (P, K, 4g, 4g), g = side."""
        cells = F.gelu(self.norm(self.first(image_tokens).unflatten(-1, (4, -1))))
        pixels = F.gelu(self.second(cells).unflatten(-1, (4, -1))).flatten(1, 3)
        logits = kernels @ pixels.transpose(1, 2)
        # (row, column, sub-row, sub-column, its sub-row, its sub-column) of every value
        placed = logits.unflatten(2, (side, side, 2, 2, 2, 2)).permute(0, 1, 2, 4, 6, 3, 5, 7)
        return placed.flatten(5, 7).flatten(2, 4)


def _sub_cells(conv: nn.ConvTranspose2d) -> nn.Linear:
    """A transposed convolution, kernel 2 and stride 2, as a linear map to (sub-row, sub-column, channel)."""
    assert conv.kernel_size == (2, 2)
    assert conv.stride == (2, 2)
    assert conv.bias is not None
    linear = nn.Linear(conv.in_channels, 4 * conv.out_channels)
    linear.weight.copy_(conv.weight.permute(2, 3, 1, 0).flatten(0, 2))
    linear.bias.copy_(conv.bias.repeat(4))
    return linear.to(conv.weight.device)
