"""Reading a folder of reference tensors: weights, inputs and outputs of the released architecture."""

from __future__ import annotations

import json
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
import torch
from safetensors.torch import load_file
from torch import Tensor

from sca.checkpoints import load_released
from sca.modeling import Sca, task_indices
from sca.preprocessing import to_model_input

STRIDE = "_stride8"


@dataclass(frozen=True)
class ParityFixture:
    """One reference folder. Outputs that it stores only at every 8th row and column are compared there."""

    directory: Path

    @cached_property
    def model(self) -> Sca:
        return load_released(self.directory)

    @cached_property
    def inputs(self) -> dict[str, Tensor]:
        return load_file(self.directory / "inputs.safetensors")

    @cached_property
    def outputs(self) -> dict[str, Tensor]:
        return load_file(self.directory / "outputs.safetensors")

    @cached_property
    def meta(self) -> dict[str, Any]:
        return json.loads((self.directory / "meta.json").read_text())

    @cached_property
    def images(self) -> list[np.ndarray]:
        return [self.inputs[f"image_{i}"].numpy() for i in range(self.batch)]

    @property
    def batch(self) -> int:
        return len(self.inputs["original_sizes"])

    @property
    def cases(self) -> list[str]:
        return list(self.meta["cases"])

    @cached_property
    def pixels(self) -> Tensor:
        """The reference's own pixels where they are stored whole, else recomputed from the images."""
        if "pixel_values" in self.inputs:
            return self.inputs["pixel_values"]
        return to_model_input(self.images, self.model.config)[0]

    def has(self, key: str) -> bool:
        return key in self.outputs or key + STRIDE in self.outputs

    def difference(self, key: str, ours: Tensor, *, spatial_axes: tuple[int, int] = (-2, -1)) -> float:
        """Largest absolute difference to the reference `key`, which may be stored strided."""
        reference = self.outputs.get(key)
        if reference is None:
            reference = self.outputs[key + STRIDE]
            for axis in spatial_axes:
                ours = ours.index_select(axis, torch.arange(0, ours.shape[axis], 8))
        ours = ours.detach().float()
        assert ours.numel() == reference.numel(), (key, ours.shape, reference.shape)
        return float((ours.reshape(reference.shape) - reference.float()).abs().max())

    def prompts(self, case: str) -> dict[str, Tensor | None]:
        """Keyword prompts (B, M, ...) in model pixels of a case."""
        inputs = self.inputs
        boxes, points, labels, masks = None, None, None, None
        if case.startswith("boxes"):
            boxes = inputs["input_boxes"]
        if case == "boxes_mask":
            masks = inputs["input_masks"].float()
        if case == "points":
            points = inputs["input_points"]
        if case == "points_multi":
            points, labels = inputs["input_points_multi"], inputs["input_labels_multi"]
        if case == "boxes_points":
            points, labels = self._points_beside_boxes()
        return {"boxes": boxes, "points": points, "labels": labels, "masks": masks}

    def _points_beside_boxes(self) -> tuple[Tensor, Tensor | None]:
        """Which points the reference gave with the boxes, told by the number of prompt tokens it stored."""
        tokens = self.outputs["boxes_points.sparse_embeddings"].shape[-2]
        if tokens == self.inputs["input_points"].shape[-2] + 2:
            return self.inputs["input_points"], None
        return self.inputs["input_points_multi"], self.inputs["input_labels_multi"]

    def tasks(self, case: str) -> Tensor | None:
        """Task indices (B,) of a case, None for captions."""
        return task_indices(["recognition", "caption"]) if case == "boxes_mixed_task" else None
