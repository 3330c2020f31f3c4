"""The model as pure modules: tensors in, tensors out, no files and no state between calls."""

from sca.config import ScaConfig
from sca.modeling.image_encoder import ImageFeatures
from sca.modeling.mask_decoder import MaskDecoding
from sca.modeling.sca import TASKS, CaptionLoss, Sca, task_indices


def build(config: ScaConfig) -> Sca:
    """A model of this shape with fresh weights, on the CPU, in evaluation mode."""
    return Sca(config).eval()


__all__ = ["TASKS", "CaptionLoss", "ImageFeatures", "MaskDecoding", "Sca", "build", "task_indices"]
