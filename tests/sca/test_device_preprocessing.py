"""What the device makes of a frame is what the CPU's libraries make of it, up to one grey level."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch

from engines.probes import reference_frames
from pipeline.sources import DecodedFrame, open_source
from pipeline.sources.source import SourceOptions
from sca.preprocessing import area_weights, to_model_input, to_model_input_on
from tests.tiny_models import tiny_config
from tests.videos import write_video

CPU = torch.device("cpu")


@pytest.mark.parametrize("method", ["pil-bilinear", "area"])
@pytest.mark.parametrize("size", [(427, 640), (301, 211), (128, 96), (60, 90), (1, 37)])
def test_a_frame_is_prepared_on_the_device_as_by_the_libraries(method: str, size: tuple[int, int]) -> None:
    config = replace(tiny_config(), resize=method)
    photograph = reference_frames()[0]
    frame = np.ascontiguousarray(np.resize(photograph[: size[0], : size[1]], (*size, 3)))
    expected, sizes = to_model_input([frame], config)
    got, got_sizes = to_model_input_on([frame], config, CPU)
    assert got_sizes == sizes
    level = 1 / 255 / min(config.pixel_std)
    assert float((got - expected).abs().max()) <= 1.01 * level
    assert float((got - expected).abs().mean()) <= 0.1 * level


def test_frames_of_several_sizes_share_a_batch_and_padding_is_zero() -> None:
    config = tiny_config()
    frames = [np.full((50, 100, 3), 255, np.uint8), np.full((100, 50, 3), 255, np.uint8)]
    pixels, sizes = to_model_input_on(frames, config, CPU)
    side = config.image_size
    assert sizes == [(side // 2, side), (side, side // 2)]
    assert float(pixels[0, :, side // 2 :].abs().max()) == 0
    assert float(pixels[1, :, :, side // 2 :].abs().max()) == 0
    assert float(pixels[0, :, : side // 2].min()) > 0


@pytest.mark.parametrize(("source", "target"), [(10, 10), (10, 5), (10, 3), (1080, 320)])
def test_every_source_pixel_counts_the_same(source: int, target: int) -> None:
    weights = area_weights(source, target, CPU)
    torch.testing.assert_close(weights.sum(1), torch.ones(target))
    torch.testing.assert_close(weights.sum(0), torch.full((source,), target / source))


def test_a_wrong_picture_is_refused_there_too() -> None:
    with pytest.raises(ValueError, match="uint8"):
        to_model_input_on([np.zeros((4, 4, 3), np.float32)], tiny_config(), CPU)


def test_a_file_can_be_decoded_by_the_gpu_or_says_why_not(tmp_path: Path) -> None:
    """Without a GPU the wish ends in one clear line; with one the times are those of the CPU's decoder."""
    video = write_video(tmp_path / "clip.mp4", frames=12)
    options = SourceOptions(decoder="nvdec")
    if not torch.cuda.is_available():
        with pytest.raises(ValueError, match="no NVIDIA GPU that decodes"):
            open_source(str(video), options=options)
        return
    found = []
    for each in (SourceOptions(), options):
        source = open_source(str(video), options=each)
        found.append([event.time.pts_ns for event in source if isinstance(event, DecodedFrame)])
        source.close()
    assert found[0] == found[1]
