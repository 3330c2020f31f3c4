"""SAM weights, from a segment-anything .pth or a Hugging Face SAM directory, into the SAM part of a model."""

from __future__ import annotations

from pathlib import Path

from torch import Tensor

from sca.checkpoints.key_names import IMAGE_POSITIONS, PROMPT_POSITIONS, SAM_PARTS, hugging_face_name
from sca.checkpoints.strict_loading import check, fill, resize_position_tables
from sca.checkpoints.tensor_files import read_tensors, read_weights
from sca.modeling import Sca

_REMEDY = "Use an unmodified SAM checkpoint of the size that the model's config names (vit_b, vit_l or vit_h)"
_PREPROCESSING = ("pixel_mean", "pixel_std")


def load_sam_weights(model: Sca, path: Path) -> None:
    """Fill image encoder, prompt encoder and mask decoder of `model`; the rest stays as it is.

    path: a segment-anything .pth file, or a directory in Hugging Face layout. Positions are interpolated if the model
    has another input side. ValueError lists every tensor that is missing, unexpected or of the wrong shape.
    """
    given = read_weights(path) if path.is_dir() else read_tensors(path)
    fill(model, sam_to_our_names(model, given, origin=str(path)))


def sam_to_our_names(model: Sca, given: dict[str, Tensor], *, origin: str) -> dict[str, Tensor]:
    """SAM tensors of either origin under the names of our model, checked strictly."""
    wanted = {name: value for name, value in model.state_dict().items() if name.startswith(SAM_PARTS)}
    given = {name: value for name, value in given.items() if name not in _PREPROCESSING}
    if any(name.startswith("vision_encoder.") for name in given):
        if IMAGE_POSITIONS in given:
            positions = given.pop(IMAGE_POSITIONS)
            given.setdefault(PROMPT_POSITIONS, positions)
        ours = {hugging_face_name(name, model.config): name for name in wanted}
        given = {ours.get(name, name): value for name, value in given.items()}
    resize_position_tables(given, wanted)
    check(origin, wanted, given, remedy=_REMEDY)
    return given
