"""A whole clip through our pipeline, beside the reference way at the same keyframes.

    python -m benchmarks.whole_pipeline_cpu CLIP [--model demo] [--threads 2] [--engine auto] [--reference-keyframes 5]

The reference way takes every keyframe by itself: a grid of 32 x 32 points through the automatic mask generator, then for
each region that is left the mixer and Hugging Face's `generate`, one region after the other, all in eager float32. It has
the same model, decoder, keyframes and thresholds. Because it takes long, it is timed on keyframes spread evenly over the
clip, and its time for all of them is reckoned from their mean.

Ours is `sca run --runtime inline`, from the first frame read to the last row committed, tracking and store included. Neither
counts loading the model. Memory is that of the process.
"""

from __future__ import annotations

import argparse
import os
import tempfile
import time
from dataclasses import replace
from pathlib import Path

os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")
os.environ.setdefault("OPENBLAS_NUM_THREADS", "1")  # as `sca run` has it

import numpy as np
import psutil
import torch

import sca
from benchmarks.side_by_side import describe_machine
from pipeline.core.clock import NS
from pipeline.keyframes.reader import KeyframeReader
from pipeline.runtime.inline import run_inline
from pipeline.runtime.model_loading import load_predictor
from pipeline.runtime.plan import plan_run
from pipeline.runtime.progress import RunObserver, StopRequest
from pipeline.settings.config import load_config
from pipeline.sources import open_source
from sca.automatic import AutomaticMaskGenerator
from sca.decoding.reference import MAX_NEW_TOKENS
from sca.predictor import Predictor

GRID = 32


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("clip")
    parser.add_argument("--model", default="demo")
    parser.add_argument("--threads", type=int, default=os.cpu_count() or 1)
    parser.add_argument("--engine", default="auto")
    parser.add_argument("--preset", default="default")
    parser.add_argument("--reference-keyframes", type=int, default=5)
    options = parser.parse_args()
    torch.set_num_threads(options.threads)
    print(describe_machine(), flush=True)
    predictor = sca.load(options.model)
    config = load_config(options.preset, [f"model={options.model}", f"runtime.engine={options.engine}"])
    fast = load_predictor(config, options.threads)
    for line in getattr(fast, "origin", ()):
        print(f"  {line}")

    source = open_source(options.clip, options=config.sources)
    length_s = (source.info.duration_ns or 0) / NS
    reader, keyframes = KeyframeReader(source, config.keyframes), []
    while True:
        step, frame = reader.step()
        if frame is not None:
            keyframes.append(frame.rgb)
        if step.ended:
            break
    reader.close()

    with tempfile.TemporaryDirectory() as folder:
        plan = plan_run([options.clip], config, store=Path(folder) / "run.zarr")
        run_inline(_first_second(plan.config, options.clip, Path(folder)), RunObserver(), StopRequest(), fast)
        started, ours_cpu = time.perf_counter(), time.process_time()
        (progress,) = run_inline(plan, RunObserver(), StopRequest(), fast)
        ours_s = time.perf_counter() - started

    ours_cpu_s = time.process_time() - ours_cpu

    chosen = np.linspace(0, len(keyframes) - 1, min(options.reference_keyframes, len(keyframes))).astype(int)
    taken, regions = [], []
    reference_cpu = time.process_time()
    for index in chosen:
        started = time.perf_counter()
        regions.append(reference_way(predictor, keyframes[index]))
        taken.append(time.perf_counter() - started)
    reference_s = float(np.mean(taken)) * len(keyframes)
    reference_cpu_s = (time.process_time() - reference_cpu) / len(chosen) * len(keyframes)

    print(f"{Path(options.clip).name}: {length_s:.1f} s of video, {len(keyframes)} keyframes")
    print(f"  {'':22} seconds  x real time  per keyframe  regions a keyframe  captions made")
    print(
        f"  {'reference way':22} {reference_s:7.1f}  {length_s / reference_s:11.2f}  {np.mean(taken) * 1e3:9.0f} ms"
        f"  {np.mean(regions):18.1f}  {np.mean(regions) * len(keyframes):13.0f}"
    )
    print(
        f"  {'ours':22} {ours_s:7.1f}  {length_s / ours_s:11.2f}  {ours_s / len(keyframes) * 1e3:9.0f} ms"
        f"  {progress.regions / max(progress.keyframes, 1):18.1f}  {progress.captions:13}"
    )
    print(
        f"  ours is {reference_s / ours_s:.1f} times as fast ({reference_cpu_s / ours_cpu_s:.1f} by processor time; reference timed on {len(chosen)} keyframes); "
        f"memory {psutil.Process().memory_info().rss / 2**20:.0f} MiB"
    )


def _first_second(config, clip: str, folder: Path):  # type: ignore[no-untyped-def]
    """A plan for a warm-up: the same clip, few keyframes."""
    slow = config.model_copy(
        update={"keyframes": config.keyframes.model_copy(update={"interval_s": 3.0, "max_interval_s": 6.0})}
    )
    return replace(plan_run([clip], slow, store=folder / "warm.zarr"), config=slow)


@torch.inference_mode()
def reference_way(predictor: Predictor, rgb: np.ndarray) -> int:
    """Every region of one picture, each with its caption; returns how many."""
    settings = replace(predictor.automatic, points_per_side=GRID)
    records = AutomaticMaskGenerator(predictor, settings).generate(rgb, captions=False)
    if not records:
        return 0
    encoding = predictor.encode(rgb)
    model = predictor.model
    for record in records:
        segmentation = predictor.segment(encoding, points=[[list(record.point)]])
        prefix = model.language_prefix(predictor.region_features(encoding, segmentation))
        model.language_model.generate(
            inputs_embeds=prefix,
            attention_mask=torch.ones(prefix.shape[:2], dtype=torch.int64),
            do_sample=False,
            max_new_tokens=MAX_NEW_TOKENS,
        )
    return len(records)


if __name__ == "__main__":
    main()
