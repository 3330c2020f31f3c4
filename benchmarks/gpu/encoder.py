"""The image encoder: ours beside segment_anything's, eager, in the same precision.

    python -m benchmarks.gpu.encoder [--size vit_h|vit_b] [--device cuda] [--small]

Random weights. FLOPs are those of our form (no work on window padding), so the share of the matmul roofline is of useful work.
"""

from __future__ import annotations

from functools import partial

import torch
from torch.utils.flop_counter import FlopCounterMode

from benchmarks.gpu.setting import compiled, in_precision_copy, measure_rooflines, parse, random_model
from benchmarks.side_by_side import print_row, time_in_turn
from sca.stages.vision import image_encoder_stage


def main() -> None:
    setting, options = parse(
        __doc__ or "",
        lambda parser: parser.add_argument("--size", default="vit_h", choices=["vit_b", "vit_l", "vit_h"]),
    )
    roofline = measure_rooflines(setting)
    model = random_model(setting, options.size)
    stage = image_encoder_stage(model, max_frames=1)
    (pixels,) = stage.example(device=setting.device)
    plain = in_precision_copy(model.image_encoder, setting.precision.dtype)
    baseline = f"segment_anything, eager {setting.precision}"
    candidates = {baseline: partial(plain, pixels.to(setting.precision.dtype))}
    candidates |= compiled(stage, setting, (pixels,))
    with torch.inference_mode(), FlopCounterMode(display=False) as counter:
        stage.module(pixels)
    flops = counter.get_total_flops()
    print(
        f"{'small' if setting.small else options.size}, {pixels.shape[-1]} pixels, {flops / 1e12:.3f} TFLOP"
    )
    times = time_in_turn(candidates, repeats=setting.repeats, warm_up=3, device=setting.device)
    for name, taken in times.items():
        share = flops / taken.median / roofline.flops
        print_row(
            name, taken, times[baseline], f"{1 / taken.median:.1f} frames/s, {share:.0%} of the matmul rate"
        )


if __name__ == "__main__":
    main()
