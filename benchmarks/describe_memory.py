"""What `Predictor.describe` needs in memory for many boxes: a ViT-B with the released mixer and GPT-2, weights at random.

    python benchmarks/describe_memory.py [--boxes 1 16 128]

Each number is of a process of its own: how far its resident memory rose above what it was with the model loaded. What one box
needs is the image encoder's; what more boxes need beyond it is theirs. "at once" computes all prompts and sequences in one go, as was done before; "some at a time" is what
`describe` does.
"""

from __future__ import annotations

import argparse
import json
import re
import subprocess
import sys
import time
from pathlib import Path

SIZE = (768, 1024)


def memory(name: str) -> int:
    """A line of this process' status, in KiB."""
    found = re.search(rf"{name}:\s+(\d+) kB", Path("/proc/self/status").read_text())
    assert found
    return int(found[1])


def measure(boxes: int, at_once: bool, image_size: int) -> dict[str, float]:
    import numpy as np
    import torch
    from tokenizers import Tokenizer, models

    import sca.predictor as module
    from sca.config import LanguageModelConfig, MixerConfig, ScaConfig, VitEncoderConfig
    from sca.modeling import build

    torch.manual_seed(0)
    config = ScaConfig(
        image_size=image_size,
        encoder=VitEncoderConfig.named("vit_b"),
        mixer=MixerConfig(depth=12, num_caption_tokens=8),
        language_model=LanguageModelConfig("gpt2", {}),
        num_task_tokens=6,
    )
    predictor = module.Predictor(build(config), Tokenizer(models.WordLevel({"a": 0}, unk_token="a")))
    if at_once:
        module._PROMPTS["cpu"] = module._SEQUENCES = 1 << 30
    rng = np.random.default_rng(0)
    picture = rng.integers(0, 256, (*SIZE, 3), dtype=np.uint8)
    corners = rng.uniform(0, 0.7, (boxes, 2)) * SIZE[::-1]
    wanted = np.concatenate([corners, corners + rng.uniform(20, 200, (boxes, 2))], axis=1)
    before = memory("VmRSS")
    Path("/proc/self/clear_refs").write_text("5")  # the peak begins anew
    start = time.perf_counter()
    assert len(predictor.describe(picture, wanted)) == boxes
    return {
        "boxes": boxes,
        "at_once": at_once,
        "rise_gib": (memory("VmHWM") - before) / 2**20,
        "seconds": time.perf_counter() - start,
    }


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--boxes", type=int, nargs="+", default=[1, 16, 128])
    parser.add_argument("--image-size", type=int, default=1024)
    parser.add_argument("--one", help=argparse.SUPPRESS)
    asked = parser.parse_args()
    if asked.one:
        boxes, at_once = json.loads(asked.one)
        print(json.dumps(measure(boxes, at_once, asked.image_size)))
        return
    print("| boxes | how | memory above the loaded model, GiB | seconds |\n| --- | --- | --- | --- |")
    for boxes in asked.boxes:
        for at_once in (True, False) if boxes > 1 else (False,):
            words = [sys.executable, __file__, "--one", json.dumps([boxes, at_once]), "--image-size", str(asked.image_size)]  # fmt: skip
            found = json.loads(subprocess.run(words, check=True, capture_output=True, text=True).stdout)
            how = "at once" if at_once else "some at a time"
            print(f"| {boxes} | {how} | {found['rise_gib']:.2f} | {found['seconds']:.0f} |", flush=True)


if __name__ == "__main__":
    main()
