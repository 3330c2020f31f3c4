"""Anything mode: the official filters record for record, and what users see of it."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from safetensors.torch import load_file
from scipy import ndimage
from torch import Tensor

from sca.automatic import AutomaticMaskGenerator, AutomaticSettings, RegionRecord
from sca.model_pictures import resized_size
from sca.modeling import ImageFeatures
from sca.predictor import Caption, ImageEncoding, Predictor, Segmentation
from sca.preprocessing import scale_points
from tests.tiny_models import tiny_config, tiny_model, word_tokenizer

REFERENCE = Path(__file__).resolve().parents[3] / "shared" / "parity" / "anything_mode"
SIDE, LOW = 256, 64


class _DiscsPredictor(Predictor):
    """Masks, scores and captions by formula, as the official generator was run; the rest is the real predictor."""

    def __init__(self) -> None:
        super().__init__(tiny_model(tiny_config(image_size=SIDE)), word_tokenizer())
        self.captioned = 0

    def encode(self, rgb: np.ndarray) -> ImageEncoding:
        size = (rgb.shape[0], rgb.shape[1])
        return ImageEncoding(ImageFeatures(torch.zeros(1), None), size, resized_size(size, SIDE))

    def segment(self, encoding: ImageEncoding, **prompts: Any) -> Segmentation:
        points = torch.as_tensor(prompts["points"], dtype=torch.float64)
        model_points = scale_points(points, encoding.original_size, encoding.input_size)[:, 0]
        logits, iou = disc_predictions(model_points)
        return Segmentation(logits, iou, model_points, torch.zeros(len(points)), None)

    def region_features(
        self, encoding: ImageEncoding, segmentation: Segmentation, boxes: Any = None
    ) -> Tensor:
        return segmentation.tokens

    def caption(self, features: Tensor, **options: Any) -> list[Caption]:
        self.captioned += len(features)
        # As the reference rounds: ids are whole tenths of a pixel, offset by 100.
        ids = (torch.round(10 * features) + 100).to(torch.int64).tolist()
        return [Caption(f"{x} {y}", 0.0, 1.0) for x, y in ids]


def disc_predictions(points: Tensor) -> tuple[Tensor, Tensor]:
    """Three concentric discs around each point (P, 2): logits (P, 3, 64, 64) and IoU (P, 3)."""
    x, y = points[:, 0, None], points[:, 1, None]
    t = torch.sin(0.37 * x + 0.11 * y)
    cells = 4 * (torch.arange(LOW, dtype=torch.float64) + 0.5)
    distance = torch.hypot(cells[None, None, :] - x[..., None], cells[None, :, None] - y[..., None])
    radius = SIDE * torch.cat([0.08 + 0.03 * t, 0.18 + 0.05 * t, 0.36 + 0.08 * t], dim=1)
    slope = torch.cat([1.5 + t, torch.full_like(t, 2.0), 1.2 - 0.5 * t], dim=1)
    logits = (radius[..., None, None] - distance[:, None]) * slope[..., None, None]
    iou = torch.cat([0.90 + 0.06 * t, 0.93 - 0.08 * t, 0.87 + 0.10 * torch.cos(0.21 * y)], dim=1)
    return logits.float(), iou.float()


def _settings(params: dict[str, Any]) -> AutomaticSettings:
    return AutomaticSettings(
        points_per_side=params["points_per_side"],
        points_per_batch=params["points_per_batch"],
        pred_iou_thresh=params["pred_iou_thresh"],
        stability_score_thresh=params["stability_score_thresh"],
        stability_score_offset=params["stability_score_offset"],
        box_nms_thresh=params["box_nms_thresh"],
        crop_layers=params["crop_n_layers"],
        crop_nms_thresh=params["crop_nms_thresh"],
        crop_overlap_ratio=params["crop_overlap_ratio"],
        crop_points_downscale=params["crop_n_points_downscale_factor"],
        min_mask_region_area=params["min_mask_region_area"],
    )


@pytest.mark.skipif(not REFERENCE.is_dir(), reason=f"no official records at {REFERENCE}")
@pytest.mark.parametrize("case", ["single_crop", "two_layers"])
def test_official_records(case: str) -> None:
    reference = json.loads((REFERENCE / "records.json").read_text())[case]
    arrays = load_file(REFERENCE / "arrays.safetensors")
    predictor = _DiscsPredictor()
    generator = AutomaticMaskGenerator(predictor, _settings(reference["params"]))
    records = generator.generate(arrays["image"].numpy())
    assert len(records) == len(reference["records"])
    for i, (ours, theirs) in enumerate(zip(records, reference["records"], strict=True)):
        assert np.array_equal(ours.segmentation, arrays[f"{case}.mask_{i}"].numpy().astype(bool))
        assert ours.area == theirs["area"]
        assert list(ours.bbox) == theirs["bbox"]
        assert list(ours.crop_box) == theirs["crop_box"]
        assert ours.predicted_iou == pytest.approx(theirs["predicted_iou"], abs=1e-6)
        assert ours.stability_score == pytest.approx(theirs["stability_score"], abs=1e-6)
        assert list(ours.point) == pytest.approx(theirs["point_coords"][0])
        assert ours.caption is not None
        assert ours.caption.text == theirs["caption"]


@pytest.mark.skipif(not REFERENCE.is_dir(), reason=f"no official records at {REFERENCE}")
def test_the_stand_in_is_the_official_one() -> None:
    arrays = load_file(REFERENCE / "arrays.safetensors")
    logits, iou = disc_predictions(arrays["single_crop.points_model"].double())
    torch.testing.assert_close(logits, arrays["single_crop.low_res_masks"].float(), rtol=0, atol=1e-4)
    torch.testing.assert_close(iou, arrays["single_crop.iou"].float(), rtol=0, atol=1e-6)


def _image(height: int = 90, width: int = 120) -> np.ndarray:
    return np.random.default_rng(0).integers(0, 256, (height, width, 3), dtype=np.uint8)


def test_only_survivors_are_captioned() -> None:
    predictor = _DiscsPredictor()
    records = AutomaticMaskGenerator(predictor, AutomaticSettings(points_per_side=8)).generate(_image())
    points = {record.point for record in records}
    assert 0 < predictor.captioned == len(points) < 64


def test_without_captions() -> None:
    predictor = _DiscsPredictor()
    records = AutomaticMaskGenerator(predictor, AutomaticSettings(points_per_side=4)).generate(
        _image(), captions=False
    )
    assert records
    assert all(record.caption is None for record in records)
    assert predictor.captioned == 0


@pytest.mark.parametrize("crop_layers", [0, 1])
def test_nothing_passes(crop_layers: int) -> None:
    settings = AutomaticSettings(points_per_side=3, pred_iou_thresh=2.0, crop_layers=crop_layers)
    assert AutomaticMaskGenerator(_DiscsPredictor(), settings).generate(_image()) == []


def test_a_real_model_end_to_end() -> None:
    predictor = Predictor(tiny_model(), word_tokenizer())
    settings = AutomaticSettings(
        points_per_side=3,
        points_per_batch=4,
        pred_iou_thresh=-1e6,
        stability_score_thresh=0.0,
        box_nms_thresh=1.0,
    )
    image = _image()
    records = AutomaticMaskGenerator(predictor, settings, beams=1).generate(image)
    assert records
    encoding = predictor.encode(image)
    for record in records:
        assert record.segmentation.shape == image.shape[:2]
        assert record.area == record.segmentation.sum()
        segmentation = predictor.segment(encoding, points=[[record.point]])
        alone = predictor.caption(predictor.region_features(encoding, segmentation))[0]
        assert record.caption is not None
        assert record.caption.token_ids == alone.token_ids


def test_small_holes_and_islands_are_removed() -> None:
    """A disc can cut a corner off the background: that is a hole to fill."""

    def smallest_part(records: list[RegionRecord]) -> int:
        sizes = []
        for record in records:
            for pixels in (record.segmentation, ~record.segmentation):
                parts, _ = ndimage.label(pixels, structure=np.ones((3, 3)))
                sizes.append(np.bincount(parts.ravel())[1:].min())
        return min(sizes)

    area = 400
    settings = AutomaticSettings(points_per_side=4)
    assert smallest_part(AutomaticMaskGenerator(_DiscsPredictor(), settings).generate(_image())) < area
    settings = AutomaticSettings(points_per_side=4, min_mask_region_area=area)
    assert smallest_part(AutomaticMaskGenerator(_DiscsPredictor(), settings).generate(_image())) >= area


def test_settings_are_checked() -> None:
    with pytest.raises(ValueError, match="points_per_side"):
        AutomaticSettings(points_per_side=0)
    with pytest.raises(ValueError, match="crop_layers"):
        AutomaticSettings(crop_layers=-1)
