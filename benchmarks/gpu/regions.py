"""Mask decoder and mixer for many prompts on one image: ours beside the straightforward form, in the same precision.

    python -m benchmarks.gpu.regions [--prompts 64] [--device cuda] [--small]

Random weights of the released shapes (12 mixer layers). The two of ours are timed together, as a frame needs them.
"""

from __future__ import annotations

from functools import partial

import torch

from benchmarks.gpu.setting import Straightforward, compiled, measure_rooflines, parse, random_model
from benchmarks.side_by_side import print_row, time_in_turn
from sca.stages.vision import mask_decoder_stage, mixer_stage


def main() -> None:
    setting, options = parse(
        __doc__ or "", lambda parser: parser.add_argument("--prompts", type=int, default=64)
    )
    measure_rooflines(setting)
    count = 8 if setting.small else options.prompts
    model = random_model(setting, "vit_b")
    decoder, mixer = mask_decoder_stage(model, count), mixer_stage(model, count)
    embedding, sparse, dense = decoder.example(prompts=count, device=setting.device)
    with torch.inference_mode():
        _, _, tokens, features = decoder.module(embedding, sparse, dense)
    plain = Straightforward(model, setting.precision)
    baseline = f"straightforward, eager {setting.precision}"
    candidates = {baseline: partial(plain.regions, embedding, sparse, dense)}
    first = compiled(decoder, setting, (embedding, sparse, dense))
    second = compiled(mixer, setting, (tokens, features))
    for name in first.keys() & second.keys():
        candidates[name] = partial(_both, first[name], second[name])
    print(f"{count} prompts, image of {model.config.grid_size} x {model.config.grid_size} tokens")
    times = time_in_turn(candidates, repeats=setting.repeats, warm_up=3, device=setting.device)
    for name in sorted(times, key=lambda name: name != baseline):
        print_row(name, times[name], times[baseline], f"{count / times[name].median:.0f} regions/s")


def _both(decode, mix) -> None:  # type: ignore[no-untyped-def]
    decode()
    mix()


if __name__ == "__main__":
    main()
