"""Captions of many regions: our batched, cached decoders beside `generate` called for one region after the other.

    python benchmarks/decoding_cpu.py [--model demo | gpt2-small] [--regions 16 32] [--threads 2] [--repeats 5]

`gpt2-small` is GPT-2 of 124 M parameters with random weights, which write captions of full length. All candidates must give
the same tokens, or the benchmark ends with an error.
"""

from __future__ import annotations

import argparse
import os
import tempfile
from collections.abc import Callable
from functools import partial
from pathlib import Path

os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")

import torch
from torch import Tensor
from transformers import GPT2Config, GPT2LMHeadModel, PreTrainedModel

import sca
from benchmarks.side_by_side import describe_machine, print_row, time_in_turn
from engines.backends import backend_named
from engines.devices import Precision, probe
from engines.probes import ModelProbes
from sca.decoding.reference import MAX_NEW_TOKENS, decode, end_of_text_ids
from sca.decoding.slots import SlotDecoder, StagedSteps
from sca.stages.language import decoder_stages

RANDOM_PREFIX = 10


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--model", default="demo")
    parser.add_argument("--regions", type=int, nargs="+", default=[16, 32])
    parser.add_argument("--threads", type=int, default=os.cpu_count() or 1)
    parser.add_argument("--repeats", type=int, default=5)
    options = parser.parse_args()
    torch.set_num_threads(options.threads)
    print(describe_machine(), flush=True)
    model, prefixes = _language_model(options.model, max(options.regions))
    with tempfile.TemporaryDirectory() as folder:
        steps = _compiled(model, prefixes, Path(folder))
        for count in options.regions:
            _compare(options.model, model, prefixes[:count], steps, options.repeats)


def _compare(name: str, model: PreTrainedModel, given: Tensor, steps: StagedSteps, repeats: int) -> None:
    slots = SlotDecoder(model, given.shape[1], slots=len(given))
    compiled = SlotDecoder(model, given.shape[1], slots=len(given), steps=steps)
    candidates: dict[str, Callable[[], list[list[int]]]] = {
        "generate, region by region": partial(_generate_each, model, given),
        "generate, one batch": partial(_generate, model, given),
        "ours, eager, one batch": lambda: decode(model, given).sequences(),
        "ours, eager, slots": lambda: slots.decode(given).sequences(),
        "ours, OpenVINO float32, slots": lambda: compiled.decode(given).sequences(),
    }
    with torch.inference_mode():
        tokens = {candidate: run() for candidate, run in candidates.items()}
    expected = tokens["generate, region by region"]
    for candidate, got in tokens.items():
        if got != expected:
            raise SystemExit(f"{candidate} gives other tokens than `generate`")
    steps_made = max(len(ids) for ids in expected)
    print(f"{name}: {len(given)} regions, up to {steps_made} tokens, all tokens identical")
    times = time_in_turn(candidates, repeats=repeats)
    baseline = times["generate, region by region"]
    for candidate, taken in times.items():
        print_row(candidate, taken, baseline)
    print(flush=True)


def _generate_each(model: PreTrainedModel, given: Tensor) -> list[list[int]]:
    return [ids for prefix in given.split(1) for ids in _generate(model, prefix)]


def _generate(model: PreTrainedModel, given: Tensor) -> list[list[int]]:
    made = model.generate(
        inputs_embeds=given,
        attention_mask=torch.ones(given.shape[:2], dtype=torch.int64),
        do_sample=False,
        max_new_tokens=MAX_NEW_TOKENS,
    )
    ends = set(end_of_text_ids(model))
    rows = []
    for ids in made.tolist():
        end = next((place for place, token in enumerate(ids) if token in ends), len(ids) - 1)
        rows.append(ids[: end + 1])
    return rows


def _language_model(name: str, count: int) -> tuple[PreTrainedModel, Tensor]:
    """The language model, and prefixes (count, n, H): of real regions where it is a whole model's."""
    if name == "gpt2-small":
        torch.manual_seed(0)
        model = GPT2LMHeadModel(GPT2Config(pad_token_id=50256)).eval()
        model.generation_config.pad_token_id = 50256
        return model, torch.randn(count, RANDOM_PREFIX, 768) * 0.1
    whole = sca.load(name).model
    prefixes = torch.cat([prefix for (prefix,) in ModelProbes(whole).of("language-prefill").inputs])
    return whole.language_model, prefixes.repeat(-(-count // len(prefixes)), 1, 1)[:count]


def _compiled(model: PreTrainedModel, prefixes: Tensor, folder: Path) -> StagedSteps:
    backend, device = backend_named("openvino"), probe("cpu")
    engines = []
    for stage in decoder_stages(model, prefixes.shape[1], len(prefixes)):
        place = folder / stage.name
        place.mkdir()
        backend.build(stage, Precision.FLOAT32, device, place, lambda line: None)
        engines.append(backend.load(stage, Precision.FLOAT32, device, place))
    return StagedSteps(*engines)


if __name__ == "__main__":
    main()
