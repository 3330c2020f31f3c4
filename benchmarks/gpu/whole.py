"""A stream whose every frame is encoded: 32 tracked regions, each captioned twice a second of video; ours beside the plain way.

    python -m benchmarks.gpu.whole [--frames 120] [--regions 32] [--device cuda] [--small]

ViT-H, released decoder and mixer, GPT-2 large; random weights, so no parity gate is asked here. The plain way runs the same
stages one after the other, eager, in the same precision, with Hugging Face's `generate` for the captions that are due. Ours
takes the first compiler of `--backends` that is there, uploads the frame once and captions beside the next frames.
"""

from __future__ import annotations

import time
from collections.abc import Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from functools import partial

import numpy as np
import torch
from torch import Tensor

from benchmarks.gpu.decoding import generate, language_model
from benchmarks.gpu.setting import (
    Setting,
    Straightforward,
    compiled,
    in_precision_copy,
    measure_rooflines,
    parse,
    random_model,
)
from benchmarks.side_by_side import synchronize
from engines.acceleration import engine_stages
from engines.workshop import ReadyEngine
from sca.decoding.shared import SharedDecoding
from sca.decoding.slots import SlotDecoder
from sca.modeling import Sca
from sca.predictor import Predictor
from sca.preprocessing import to_model_input
from sca.stages.spec import Stage
from sca.stages.vision import model_stages

VIDEO_FPS = 30
CAPTIONS_HZ = 2


def main() -> None:
    def add(parser):  # type: ignore[no-untyped-def]
        parser.add_argument("--frames", type=int, default=120)
        parser.add_argument("--regions", type=int, default=32)

    setting, options = parse(__doc__ or "", add)
    measure_rooflines(setting)
    count, length = (4, 6) if setting.small else (options.regions, options.frames)
    model = random_model(setting, "vit_h")
    model.language_model = language_model("gpt2-large", setting)
    model.language_project = torch.nn.Linear(model.config.width, model.language_model.config.hidden_size)
    model.task_tokens = torch.nn.Embedding(
        2 * model.config.num_task_tokens, model.language_model.config.hidden_size
    )
    model.to(setting.device)
    rng = np.random.default_rng(0)
    side = (240, 320) if setting.small else (1080, 1920)
    frames = [rng.integers(0, 256, (*side, 3), dtype=np.uint8) for _ in range(4)]
    corners = rng.uniform(0, 0.6, (count, 2))
    boxes = np.concatenate([corners, corners + 0.3], axis=1) * [side[1], side[0], side[1], side[0]]
    due = [
        [
            region
            for region in range(count)
            if index % (VIDEO_FPS // CAPTIONS_HZ) == region % (VIDEO_FPS // CAPTIONS_HZ)
        ]
        for index in range(length)
    ]
    plain = Plain(model, setting)
    ours = Ours(model, setting, count)
    print(f"{length} frames, {count} regions, {sum(map(len, due))} captions")
    for runner in (plain, ours):  # warm-up: kernels are chosen, graphs captured
        runner.run(frames[:2], boxes, [[0, 1], [2]] * 2)
    rows = []
    for runner in (plain, ours):
        synchronize(setting.device)
        started = time.perf_counter()
        runner.run([frames[index % len(frames)] for index in range(length)], boxes, due)
        synchronize(setting.device)
        rows.append((runner.name, length / (time.perf_counter() - started)))
    for name, rate in rows:
        print(f"  {name:60} {rate:8.2f} frames/s {rate / rows[0][1]:6.2f}x")


class Plain:
    """One stage after the other."""

    def __init__(self, model: Sca, setting: Setting) -> None:
        self.name = f"plain, eager {setting.precision}"
        self._model, self._device, self._dtype = model, setting.device, setting.precision.dtype
        self._encoder = in_precision_copy(model.image_encoder, self._dtype)
        self._regions = Straightforward(model, setting.precision)

    @torch.inference_mode()
    def run(self, frames: Sequence[np.ndarray], boxes: np.ndarray, due: Sequence[list[int]]) -> None:
        model = self._model
        for frame, wanted in zip(frames, due, strict=False):
            pixels, _ = to_model_input([frame], model.config, self._device)
            embedding = self._encoder(pixels.to(self._dtype))
            scaled = torch.as_tensor(boxes, device=self._device, dtype=torch.float64)
            scaled = scaled * (model.config.image_size / max(frame.shape[:2]))
            sparse, dense = model.prompt_encoder(None, scaled, None)
            _, _, tokens = self._regions.regions(embedding, sparse, dense)
            if wanted:
                prefix = model.language_prefix(tokens[wanted].float())
                generate(model.language_model, prefix.to(self._dtype)).tolist()


class Ours:
    """Engines, slots, and captions beside the next frames."""

    def __init__(self, model: Sca, setting: Setting, count: int) -> None:
        self._setting = setting
        ready = {stage.name: self._engine(stage) for stage in model_stages(model, max(count, 4))}
        self.name = f"ours, {', '.join(one.backend for one in ready.values())}"
        prefix = model.config.num_task_tokens + model.config.mixer.num_caption_tokens

        def make() -> SlotDecoder:
            return SlotDecoder(model.language_model, prefix, slots=count)

        stages = engine_stages(model, ready, max_prompts=max(count, 4))
        decoding = SharedDecoding(make, stages.decode_text)
        self._model = model
        self._decode = decoding
        self._predictor = Predictor(model, _NoWords(), device=setting.device, stages=stages)
        self._side = torch.cuda.Stream() if setting.on_gpu else None
        self._pool = ThreadPoolExecutor(1)

    def _engine(self, stage: Stage) -> ReadyEngine:
        inputs = stage.example(device=self._setting.device)
        found = compiled(stage, self._setting, inputs)
        name = list(found)[-1] if len(found) > 1 else next(iter(found))
        call = found[name]
        assert isinstance(call, partial)
        return ReadyEngine(call.func, stage.name, name.removeprefix("ours, "), self._setting.precision, None)

    @torch.inference_mode()
    def run(self, frames: Sequence[np.ndarray], boxes: np.ndarray, due: Sequence[list[int]]) -> None:
        under_way: list[Future[None]] = []
        for frame, wanted in zip(frames, due, strict=False):
            encoding = self._predictor.encode(frame)
            features = self._predictor.region_features(
                encoding, self._predictor.segment(encoding, boxes=boxes)
            )
            if wanted:
                ready = torch.cuda.current_stream().record_event() if self._side is not None else None
                under_way.append(self._pool.submit(self._caption, features[wanted], ready))
        for future in under_way:
            future.result()

    @torch.inference_mode()
    def _caption(self, features: Tensor, ready: torch.cuda.Event | None) -> None:
        with torch.cuda.stream(self._side):
            if ready is not None:
                ready.wait()
            self._decode(self._model.language_prefix(features)).token_ids.tolist()


class _NoWords:
    def decode(self, ids: list[int], /, *, skip_special_tokens: bool = True) -> str:
        return ""


if __name__ == "__main__":
    main()
