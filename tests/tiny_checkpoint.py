"""A whole model in our checkpoint format, small and with random weights: its words mean nothing, all else is real."""

from __future__ import annotations

from pathlib import Path

from sca.checkpoints import save_shipped
from tests.tiny_models import region_token_config, tiny_model, word_tokenizer

# Random weights are sure of nothing: take every mask that is neither a dot nor the whole picture.
LENIENT = (
    "perception.min_area=0",
    "perception.max_area=1",
    "perception.min_predicted_iou=0",
    "perception.min_stability=0",
    "perception.probing.grid=5",
    "perception.probing.budget=4",
    "perception.probing.first_budget=12",
    "tracking.association.min_similarity=-1",
    # Every checkpoint is another one, whose engines would have to be built: tests/test_engines_*.py do that.
    "runtime.engine=eager",
)


# For runs of which only the rows matter, and not how they are found: a keyframe takes two thirds of the time.
QUICK = (*LENIENT, "perception.views=1")


def write_tiny_checkpoint(directory: Path) -> Path:
    """Write the checkpoint and return its directory."""
    save_shipped(tiny_model(region_token_config()), word_tokenizer(), directory)
    return directory
