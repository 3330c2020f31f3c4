"""Captions of published regions, in the layout in which the official code writes its predictions."""

from __future__ import annotations

import zlib
from collections.abc import Callable, Iterator, Mapping, Sequence
from copy import copy
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from sca.data.image_cache import read_rgb
from sca.data.published import ReferenceImage, ReferenceRegion
from sca.errors import MalformedFile, UserError
from sca.prompts import Prompts
from sca.run_lengths import MaskMalformed, decoded_mask
from sca.small_files import parsed_json, read_small

if TYPE_CHECKING:  # what is wrong with data is told before torch is imported
    from sca.predictor import Predictor

_LARGEST = 1 << 28  # bytes; five thousand regions have 3 MB

PROMPTS = ("box", "centre", "random", "anything")
PROTOCOLS: Mapping[str, tuple[str, str]] = {
    "densecap-test": ("vg", "every region of Visual Genome's densecap test split"),
    "grit": ("grit", "every region of GRiT's test file of Visual Genome"),
    "one-region": ("", "one region a picture, the first in the file"),
    "all-regions": ("", "every region of the split"),
}
"""Name to the kind of data that it needs ("" for any), and what it means."""


@dataclass(frozen=True, slots=True)
class Prediction:
    """What a model said of one region. `run`: how, in words; `mask_iou`: of its best mask with the region's, None without."""

    image_id: int | str
    region_id: int | str
    box: tuple[float, ...]
    references: tuple[str, ...]
    candidate: str
    iou_scores: tuple[float, ...]
    run: str = ""
    mask_iou: float | None = None


def check_protocol(protocol: str, kind: str, prompt: str) -> None:
    """UserError for an unknown protocol or prompt, and for data of another kind than the protocol's."""
    if protocol not in PROTOCOLS:
        raise UserError(f"unknown protocol {protocol!r}: use one of {', '.join(PROTOCOLS)}")
    if prompt not in PROMPTS:
        raise UserError(f"unknown prompt {prompt!r}: use one of {', '.join(PROMPTS)}")
    needed = PROTOCOLS[protocol][0]
    if needed and needed != kind:
        raise UserError(
            f"the protocol {protocol} is of {needed} data: give --data {needed}:DIR, or --protocol all-regions"
        )


def predict(
    predictor: Predictor,
    images: Sequence[ReferenceImage],
    *,
    protocol: str,
    prompt: str = "box",
    beams: int = 3,
    model: str = "",
    progress: Callable[[int, int], None] = lambda done, total: None,
) -> Iterator[Prediction]:
    """Caption the regions that the protocol asks for, from the prompt. Boxes are clamped to the picture, none is left out.

    prompt: the "box"; its "centre"; a "random" point in it (the same each time); or "anything": what the model finds by
    itself, for each region that which overlaps its box most. UserError names a picture that is missing.
    """
    predictor = copy(predictor)
    predictor.exact_pixels = True
    run = (
        f"{model}, {protocol}, {prompt} prompts, {beams} beams, {str(predictor.dtype).removeprefix('torch.')}"
    )
    absent = next((image.path for image in images if not image.path.is_file()), None)
    if absent is not None:
        raise UserError(f"{absent} does not exist: put the pictures of the data there")
    for number, image in enumerate(images):
        regions = image.regions[:1] if protocol == "one-region" else image.regions
        rgb = read_rgb(image.path)
        boxes = _clamped([region.box for region in regions], rgb.shape[1], rgb.shape[0])
        found = _anything if prompt == "anything" else _prompted
        for region, box, (text, scores, mask) in zip(
            regions, boxes, found(predictor, rgb, boxes, regions, prompt, beams), strict=True
        ):
            yield Prediction(
                image.id,
                region.id,
                tuple(float(value) for value in box),
                region.phrases,
                text,
                scores,
                run,
                _mask_iou(region, mask, rgb.shape[:2]),
            )
        progress(number + 1, len(images))


Said = tuple[str, tuple[float, ...], np.ndarray | None]


def _prompted(
    predictor: Predictor,
    rgb: np.ndarray,
    boxes: np.ndarray,
    regions: Sequence[ReferenceRegion],
    prompt: str,
    beams: int,
) -> Iterator[Said]:
    if prompt == "box":
        prompts = Prompts(boxes=boxes)
    elif prompt == "centre":
        prompts = Prompts(points=((boxes[:, :2] + boxes[:, 2:]) / 2)[:, None])
    else:
        shares = np.stack(
            [np.random.default_rng(zlib.crc32(str(region.id).encode())).random(2) for region in regions]
        )
        prompts = Prompts(points=(boxes[:, :2] + shares * (boxes[:, 2:] - boxes[:, :2]))[:, None])
    encoding = predictor.encode(rgb)
    start = 0
    for segmentation, features in predictor.prompted(encoding, prompts):
        own = regions[start : start + len(segmentation)]
        start += len(segmentation)
        wanted = any(region.mask is not None for region in own)
        masks = predictor.masks(encoding, segmentation).cpu().numpy() if wanted else [None] * len(own)
        captions = predictor.caption_all(features, beams=beams)
        for caption, scores, mask in zip(captions, segmentation.iou.tolist(), masks, strict=True):
            yield caption.text, tuple(scores), mask


def _anything(
    predictor: Predictor,
    rgb: np.ndarray,
    boxes: np.ndarray,
    regions: Sequence[ReferenceRegion],
    prompt: str,
    beams: int,
) -> Iterator[Said]:
    from sca.automatic import AutomaticMaskGenerator
    from sca.evaluation.proposals import box_ious

    records = AutomaticMaskGenerator(predictor, beams=beams).generate(rgb)
    if not records:
        yield from (("", (0.0,), None) for _ in regions)
        return
    found = np.array([record.bbox for record in records], dtype=np.float64)
    found[:, 2:] += found[:, :2] + 1
    for best in box_ious(boxes, found).argmax(axis=1):
        record = records[int(best)]
        assert record.caption is not None
        yield record.caption.text, (record.predicted_iou,), record.segmentation


def _clamped(boxes: Sequence[tuple[float, ...]], width: int, height: int) -> np.ndarray:
    limits = np.array([width, height, width, height], dtype=np.float64)
    return np.clip(np.asarray(boxes, dtype=np.float64).reshape(-1, 4), 0, limits)


def _mask_iou(region: ReferenceRegion, mask: np.ndarray | None, size: tuple[int, ...]) -> float | None:
    if region.mask is None or mask is None:
        return None
    try:
        wanted = decoded_mask(region.mask, (int(size[0]), int(size[1])))
        union = int((wanted | mask).sum())
    except MaskMalformed as error:
        raise MalformedFile(
            f"the mask of region {region.id} cannot be read ({error}): fetch the annotations again"
        ) from error
    return float((wanted & mask).sum()) / union if union else 0.0


def to_official(predictions: Sequence[Prediction]) -> list[dict[str, Any]]:
    """Predictions in the official layout. What it has no place for is in `metadata` under names of ours."""
    return [
        {
            "_id": number,
            "split": "inference",
            "references": list(own.references),
            "candidates": [own.candidate],
            "metadata": {
                "metadata_input_boxes": list(own.box),
                "metadata_image_id": own.image_id,
                "metadata_region_id": own.region_id,
                "metadata_run": own.run,
                "metadata_mask_iou": own.mask_iou,
            },
            "logits": {"iou_scores": list(own.iou_scores)},
        }
        for number, own in enumerate(predictions)
    ]


def read_predictions(path: Path) -> list[Prediction]:
    """A file of predictions, ours or of the official code. Of several candidates that with the highest IoU counts.

    UserError names the file and the entry that is none.
    """
    try:
        entries = parsed_json(read_small(path, _LARGEST))
    except FileNotFoundError as error:
        raise UserError(f"{path} does not exist: name the file that --predictions wrote") from error
    except (OSError, ValueError, RecursionError) as error:
        raise MalformedFile(f"{path} is not readable JSON ({error}): write it again") from error
    found = []
    if not isinstance(entries, list) or not entries:
        raise MalformedFile(f"{path} is no list of predictions: name the file that --predictions wrote")
    for number, entry in enumerate(entries):
        try:
            metadata: Mapping[str, Any] = entry.get("metadata") or {}
            scores = [float(score) for score in np.ravel((entry.get("logits") or {}).get("iou_scores") or [])]
            candidates = _texts(entry["candidates"], "candidates")
            best = int(np.argmax(scores)) if len(scores) == len(candidates) else 0
            found.append(
                Prediction(
                    image_id=_name(_of(metadata, "image_id")),
                    region_id=_name(_of(metadata, "region_id")),
                    box=tuple(float(v) for v in np.ravel(_of(metadata, "input_boxes") or [])),
                    references=tuple(_texts(entry["references"], "references")),
                    candidate=candidates[best],
                    iou_scores=tuple(scores),
                    run=str(_of(metadata, "run") or ""),
                    mask_iou=None if (share := _of(metadata, "mask_iou")) is None else float(share),
                )
            )
        except (KeyError, TypeError, ValueError, AttributeError, IndexError) as error:
            raise MalformedFile(
                f"{path}: entry {number} is no prediction ({error}): write it again"
            ) from error
    return found


def _texts(value: Any, what: str) -> list[str]:
    if not isinstance(value, list) or not all(isinstance(text, str) for text in value):
        raise TypeError(f"its {what} are no list of texts")
    return value


def _name(value: Any) -> int | str:
    """An image's or region's number or name; the official code puts some into a list of one."""
    while isinstance(value, list) and len(value) == 1:
        value = value[0]
    return value if isinstance(value, int) else str(value)


def _of(metadata: Mapping[str, Any], name: str) -> Any:
    return metadata.get(f"metadata_{name}", metadata.get(name))
