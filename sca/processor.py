"""Pictures, prompts and texts as tensors of the model, and masks and ids back: a processor as transformers has them."""

from __future__ import annotations

import os
from collections.abc import Sequence
from typing import Any, Self

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor
from transformers.feature_extraction_utils import BatchFeature

from sca.checkpoint_files import read_json
from sca.checkpoints import load_released_tokenizer
from sca.checkpoints.released_layout import AnyTokenizer
from sca.config import ScaConfig
from sca.errors import UserError
from sca.model_pictures import Size
from sca.modeling.language_model import transformers_config
from sca.preprocessing import scale_boxes, scale_points, to_model_input
from sca.registry import model_directory

# 18 pieces of text and the end: what the released models were trained on.
MAX_TEXT_TOKENS = 18


class ScaProcessor:
    """Prepares what `Sca.forward` and `Sca.generate` take. Pixels are the reference's, bit for bit.

    `config`: the model's; `tokenizer`: only texts and `decode` need one.
    """

    def __init__(self, config: ScaConfig, tokenizer: AnyTokenizer | None = None) -> None:
        self.config, self.tokenizer = config, tokenizer

    @classmethod
    def from_pretrained(cls, name_or_path: str | os.PathLike[str], *, revision: str | None = None) -> Self:
        """The processor of a released checkpoint, by name, directory or hub repository. Reads no weights."""
        directory = model_directory(name_or_path, revision=revision)
        config = ScaConfig.from_released(read_json(directory / "config.json"))
        return cls(config, load_released_tokenizer(directory, config))

    def __call__(
        self,
        images: np.ndarray | Sequence[np.ndarray],
        *,
        input_boxes: Sequence[Any] | None = None,
        input_points: Sequence[Any] | None = None,
        input_labels: Sequence[Any] | None = None,
        text: Sequence[Sequence[str]] | None = None,
    ) -> BatchFeature:
        """B images uint8 (H, W, 3) with M prompts each, in their pixels, and M texts each.

        input_boxes: (M, 4) xyxy an image; input_points (M, n, 2); input_labels (M, n); text: M strings an image. Returns
        pixel_values (B, 3, S, S), original_sizes and reshaped_input_sizes (B, 2) as (h, w), prompts in pixels of the
        input square, and input_ids, attention_mask (B, M, L) and labels (B, M, L + 1) of the texts.
        """
        pictures = [images] if isinstance(images, np.ndarray) else list(images)
        pixels, inner = to_model_input(pictures, self.config)
        sizes: list[Size] = [(picture.shape[0], picture.shape[1]) for picture in pictures]
        found: dict[str, Any] = {
            "pixel_values": pixels,
            "original_sizes": torch.tensor(sizes),
            "reshaped_input_sizes": torch.tensor(inner),
        }
        pairs = list(zip(sizes, inner, strict=True))
        for name, given, scale in (
            ("input_boxes", input_boxes, scale_boxes),
            ("input_points", input_points, scale_points),
        ):
            if given is not None:
                per_image = [torch.as_tensor(np.asarray(value), dtype=torch.float64) for value in given]
                found[name] = _stacked(
                    name, [scale(value, *pair) for value, pair in zip(per_image, pairs, strict=True)]
                )
        if input_labels is not None:
            labels = [torch.as_tensor(np.asarray(value)) for value in input_labels]
            found["input_labels"] = _stacked("input_labels", labels)
        if text is not None:
            found |= self.tokenize(text)
        return BatchFeature(found)

    def tokenize(self, text: Sequence[Sequence[str]]) -> dict[str, Tensor]:
        """Ids of M texts for each of B images, cut to 18 tokens and ended; see `__call__`."""
        end = self._end
        rows = [[[*self._ids(one)[:MAX_TEXT_TOKENS], end] for one in texts] for texts in text]
        if len({len(row) for row in rows}) > 1:
            raise UserError(
                "images have different numbers of texts: give as many to each, or process them one by one"
            )
        longest = max((len(ids) for row in rows for ids in row), default=1)
        ids = torch.full((len(rows), len(rows[0]) if rows else 0, longest), end)
        mask = torch.zeros_like(ids)
        for i, row in enumerate(rows):
            for j, own in enumerate(row):
                ids[i, j, : len(own)], mask[i, j, : len(own)] = torch.tensor(own), 1
        labels = F.pad(ids.masked_fill(mask == 0, -100), (1, 0), value=-100)
        return {"input_ids": ids, "attention_mask": mask, "labels": labels}

    def batch_decode(self, sequences: Tensor) -> list[list[str]]:
        """Texts of the ids (B, M, 1, T) that `generate` gives."""
        return [[self.decode(ids[0].tolist()) for ids in row] for row in sequences]

    def decode(self, ids: Sequence[int]) -> str:
        """The text of some ids."""
        if self.tokenizer is None:
            raise UserError("the processor has no tokenizer: make it with from_pretrained")
        kept = [i for i in ids if i != self._end]
        return str(self.tokenizer.decode(kept, skip_special_tokens=True)).strip()

    def post_process_masks(
        self, masks: Tensor, original_sizes: Tensor, reshaped_input_sizes: Tensor, *, binarize: bool = True
    ) -> list[Tensor]:
        """Mask logits (B, M, K, 4g, 4g) at the images' own sizes: B tensors (M, K, H, W), bool unless not `binarize`."""
        side = self.config.image_size
        found = []
        for own, original, inner in zip(
            masks, original_sizes.tolist(), reshaped_input_sizes.tolist(), strict=True
        ):
            full = F.interpolate(own.float(), (side, side), mode="bilinear", align_corners=False)
            inside = full[..., : inner[0], : inner[1]]
            logits = F.interpolate(inside, tuple(original), mode="bilinear", align_corners=False)
            found.append(logits > 0 if binarize else logits)
        return found

    @property
    def _end(self) -> int:
        ids = transformers_config(self.config.language_model).eos_token_id
        found = ids[0] if isinstance(ids, list) else ids
        return int(found or 0)

    def _ids(self, text: str) -> list[int]:
        if self.tokenizer is None:
            raise UserError("the processor has no tokenizer: make it with from_pretrained")
        encoded: Any = self.tokenizer.encode(text)
        ids: list[int] = list(getattr(encoded, "ids", encoded))
        while ids and ids[-1] == self._end:
            ids.pop()
        return ids


def _stacked(name: str, values: list[Tensor]) -> Tensor:
    if len({value.shape for value in values}) > 1:
        raise UserError(
            f"{name} differ in number between images: give as many to each, or process them one by one"
        )
    return torch.stack(values)
