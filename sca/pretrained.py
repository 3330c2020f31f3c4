"""The model as users of transformers and accelerate know models: from_pretrained, save_pretrained, forward, generate."""

from __future__ import annotations

import os
import tempfile
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Self

import torch
import torch.nn.functional as F
from torch import Tensor
from transformers.utils import ModelOutput

from sca.checkpoints import is_shipped, load_released, load_released_tokenizer, load_shipped
from sca.checkpoints.assembling import assemble
from sca.checkpoints.released_layout import AnyTokenizer, save_released
from sca.decoding.reference import MAX_NEW_TOKENS, RELEASED_BEAMS, decode
from sca.errors import UserError
from sca.modeling import Sca as Modules
from sca.modeling import task_indices
from sca.modeling.mask_decoder import MaskDecoding
from sca.modeling.sca import IGNORED_LABEL
from sca.predictor import Predictor
from sca.registry import checked_dtype, model_directory

_CHUNK = 8  # prompts at a time, as the released code has it


@dataclass
class ScaOutput(ModelOutput):
    """What a forward pass gives for B images with M prompts each.

    loss: scalar, with labels; logits (B * M, L + 1, V): logits[:, :-1] predict labels[:, 1:]; iou_scores (B, M, K);
    pred_masks (B, M, K, 4g, 4g) logits; query_logits (B * M, Nr, C); projected_query_logits (B * M, Nt + Nr, H).
    """

    loss: Tensor | None = None
    logits: Tensor | None = None
    iou_scores: Tensor | None = None
    pred_masks: Tensor | None = None
    query_logits: Tensor | None = None
    projected_query_logits: Tensor | None = None


@dataclass
class ScaGeneration(ModelOutput):
    """What `generate` gives: sequences (B, M, 1, T) of new tokens, filled up with the end's id behind the end;
    iou_scores (B, M, K); pred_masks (B, M, K, 4g, 4g) logits.
    """

    sequences: Tensor | None = None
    iou_scores: Tensor | None = None
    pred_masks: Tensor | None = None


class Sca(Modules):
    """Segment and Caption Anything with the methods of a pretrained model. `tokenizer`: beside it, None if it has none.

    Prompts are in pixels of the model's input square, as `ScaProcessor` gives them.
    """

    tokenizer: AnyTokenizer | None = None

    @classmethod
    def from_parts(
        cls,
        *,
        sam: str | os.PathLike[str],
        language_model: str | os.PathLike[str],
        dtype: torch.dtype | str = torch.float32,
        **changes: Any,
    ) -> Self:
        """A new model of any SAM and any causal language model of transformers, with their weights, to be trained.

        sam: a segment_anything .pth, a directory in Hugging Face layout, or a hub repository; language_model: a directory
        or hub repository. changes: fields of `ScaConfig`. What joins the two is fresh; `released_trainable_parameters`
        names it. UserError names the file that does not fit.
        """
        wanted = checked_dtype(dtype)
        paths = [_part(sam, "SAM"), _part(language_model, "language model")]
        built, tokenizer = assemble(cls, *paths, dtype=wanted, **changes)
        return cls._with(built, tokenizer)

    @classmethod
    def from_pretrained(
        cls,
        name_or_path: str | os.PathLike[str],
        *,
        dtype: torch.dtype | str = torch.float32,
        revision: str | None = None,
    ) -> Self:
        """A model by name, directory or hub repository, see `sca.load`, on the CPU and in evaluation mode."""
        wanted = checked_dtype(dtype)
        directory = model_directory(name_or_path, revision=revision)
        if is_shipped(directory):
            shipped = load_shipped(directory, dtype=wanted, model_class=cls)
            return cls._with(shipped.model, shipped.tokenizer)
        model = load_released(directory, dtype=wanted, model_class=cls)
        from_hub = not Path(os.fspath(name_or_path)).expanduser().is_dir()
        return cls._with(model, load_released_tokenizer(directory, model.config, offline=not from_hub))

    @classmethod
    def _with(cls, model: Modules, tokenizer: AnyTokenizer) -> Self:
        assert isinstance(model, cls)
        model.tokenizer = tokenizer
        return model

    def save_pretrained(self, directory: str | os.PathLike[str], *, dtype: torch.dtype | None = None) -> None:
        """Write the model and its tokenizer in the released layout, which `from_pretrained` and the official code read."""
        save_released(self, Path(directory), tokenizer=self.tokenizer, dtype=dtype)

    def push_to_hub(
        self,
        repository: str,
        *,
        private: bool = False,
        token: str | None = None,
        commit_message: str = "Upload model",
        dtype: torch.dtype | None = None,
    ) -> str:
        """Save to a hub repository, which is made if need be; returns the commit's address."""
        from huggingface_hub import HfApi

        api = HfApi(token=token)
        with tempfile.TemporaryDirectory() as folder:
            self.save_pretrained(folder, dtype=dtype)
            api.create_repo(repository, private=private, exist_ok=True)
            return str(
                api.upload_folder(repo_id=repository, folder_path=folder, commit_message=commit_message)
            )

    def predictor(self, device: torch.device | str = "cpu") -> Predictor:
        """The model for use on pictures, prompts in their pixels. UserError without a tokenizer."""
        if self.tokenizer is None:
            raise UserError(
                "the model has no tokenizer: set model.tokenizer, or load it with from_pretrained"
            )
        return Predictor(self, self.tokenizer, device=device)

    def forward(
        self,
        pixel_values: Tensor,
        input_boxes: Tensor | None = None,
        input_points: Tensor | None = None,
        input_labels: Tensor | None = None,
        input_masks: Tensor | None = None,
        input_ids: Tensor | None = None,
        attention_mask: Tensor | None = None,
        labels: Tensor | None = None,
        task_type: Sequence[str] | None = None,
        multimask_output: bool = True,
        label_smoothing: float = 0.1,
    ) -> ScaOutput:
        """Masks of M prompts on each of B images and, with texts, the caption loss.

        pixel_values (B, 3, S, S); input_boxes (B, M, 4) xyxy; input_points (B, M, n, 2); input_labels (B, M, n);
        input_masks (B, 1, 4g, 4g); input_ids and attention_mask (B, M, L), right-padded, each text with its end;
        labels (B, M, L + 1): -100 in front and at padding, made of the ids if not given. task_type: "caption" or
        "recognition" an image; None is "caption".
        """
        count, decoding, caption_tokens = self._look(
            pixel_values, input_boxes, input_points, input_labels, input_masks, multimask_output
        )
        tasks = None if task_type is None else self._tasks(task_type).repeat_interleave(count)
        prefix = self.language_prefix(caption_tokens, tasks)
        loss = logits = None
        if input_ids is not None:
            mask = torch.ones_like(input_ids) if attention_mask is None else attention_mask
            found = self.caption_loss(
                prefix, input_ids.flatten(0, 1), mask.flatten(0, 1), label_smoothing=label_smoothing
            )
            loss, logits = found.loss, found.logits
            if labels is not None:
                loss = F.cross_entropy(
                    logits[:, :-1].flatten(0, 1),
                    labels.flatten(0, 1)[:, 1:].flatten(),
                    ignore_index=IGNORED_LABEL,
                    label_smoothing=label_smoothing,
                )
        return ScaOutput(
            loss=loss,
            logits=logits,
            iou_scores=decoding.iou.unflatten(0, (-1, count)),
            pred_masks=decoding.mask_logits.unflatten(0, (-1, count)),
            query_logits=caption_tokens,
            projected_query_logits=prefix,
        )

    @torch.no_grad()
    def generate(
        self,
        pixel_values: Tensor,
        input_boxes: Tensor | None = None,
        input_points: Tensor | None = None,
        input_labels: Tensor | None = None,
        input_masks: Tensor | None = None,
        task_type: Sequence[str] | None = None,
        num_beams: int = RELEASED_BEAMS,
        max_new_tokens: int = MAX_NEW_TOKENS,
        multimask_output: bool = True,
        generate_chunk_size: int = _CHUNK,
    ) -> ScaGeneration:
        """Captions and masks of M prompts on each of B images, `generate_chunk_size` prompts at a time.

        Prompts as in `forward`. Unlike the released code, no dummy BOS is in front of the sequences.
        """
        given = {"input_boxes": input_boxes, "input_points": input_points, "input_labels": input_labels}
        total = next((len(value[0]) for value in given.values() if value is not None), 0)
        pieces: list[tuple[Tensor, Tensor, Tensor]] = []
        image = self.encode_image(pixel_values.to(self.language_project.weight.dtype))
        tasks = None if task_type is None else self._tasks(task_type)
        for start in range(0, max(total, 1), generate_chunk_size):
            cut = {
                name: None if value is None else value[:, start : start + generate_chunk_size]
                for name, value in given.items()
            }
            count, decoding, tokens = self._look(
                image,
                cut["input_boxes"],
                cut["input_points"],
                cut["input_labels"],
                input_masks,
                multimask_output,
            )
            prefix = self.language_prefix(tokens, None if tasks is None else tasks.repeat_interleave(count))
            found = decode(self.language_model, prefix, beams=num_beams, max_new_tokens=max_new_tokens)
            ids, iou, masks = (
                part.unflatten(0, (-1, count))
                for part in (found.token_ids, decoding.iou, decoding.mask_logits)
            )
            pieces.append((ids, iou, masks))
        longest = max(ids.shape[-1] for ids, _, _ in pieces)
        ends = self.language_model.config.eos_token_id
        fill = (ends[0] if isinstance(ends, list) else ends) or 0
        filled = [F.pad(ids, (0, longest - ids.shape[-1]), value=fill) for ids, _, _ in pieces]
        return ScaGeneration(
            sequences=torch.cat(filled, dim=1).unsqueeze(2),
            iou_scores=torch.cat([iou for _, iou, _ in pieces], dim=1),
            pred_masks=torch.cat([masks for _, _, masks in pieces], dim=1),
        )

    def _look(
        self,
        pixels: Any,
        boxes: Tensor | None,
        points: Tensor | None,
        labels: Tensor | None,
        input_masks: Tensor | None,
        multimask: bool,
    ) -> tuple[int, MaskDecoding, Tensor]:
        """Prompts an image, what the mask decoder makes of them all, and their region tokens (B * M, Nr, C)."""
        asked = boxes if boxes is not None else points
        if asked is None:
            raise UserError("no prompt: give input_boxes or input_points")
        image = (
            self.encode_image(pixels.to(self.language_project.weight.dtype))
            if isinstance(pixels, Tensor)
            else pixels
        )
        flat = [None if value is None else value.flatten(0, 1) for value in (boxes, points, labels)]
        decoding = self.decode_masks(
            image, boxes=flat[0], points=flat[1], labels=flat[2], masks=input_masks, multimask=multimask
        )
        tokens = self.mix(image, decoding.tokens, decoding.image_features, flat[0])
        return asked.shape[1], decoding, tokens

    def _tasks(self, task_type: Sequence[str]) -> Tensor:
        return task_indices(task_type).to(self.language_project.weight.device)


def _part(name: str | os.PathLike[str], what: str) -> Path:
    """The file or directory of a part; a hub repository is fetched if it is not cached whole."""
    path = Path(os.fspath(name)).expanduser()
    if path.exists():
        return path
    text = os.fspath(name)
    if text.startswith((".", "/", "~")) or text.count("/") > 1:
        raise UserError(f"{text} does not exist: name a {what}'s directory, file or hub repository")
    from sca.hub import CachedRepository

    cached = CachedRepository(text)
    snapshot = cached.snapshot()
    return snapshot if snapshot is not None and not cached.missing() else cached.pull()
