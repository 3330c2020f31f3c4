"""Checkpoints of four origins, read strictly: released SCA, Hugging Face SAM, segment-anything .pth, and our own."""

from sca.checkpoints.released import load_released
from sca.checkpoints.released_tokenizer import load_released_tokenizer
from sca.checkpoints.sam import load_sam_weights
from sca.checkpoints.shipped import ShippedCheckpoint, is_shipped, load_shipped, save_shipped

__all__ = [
    "ShippedCheckpoint",
    "is_shipped",
    "load_released",
    "load_released_tokenizer",
    "load_sam_weights",
    "load_shipped",
    "save_shipped",
]
