"""The model's stages on OpenVINO (and ONNX Runtime) beside eager float32, on this CPU.

    python benchmarks/engines_cpu.py [--model demo] [--threads 2] [--prompts 16] [--repeats 15]

Each row is a stage; candidates take turns, the ratio is of medians. Engines are built in a temporary folder. A candidate
that the parity gate refuses is timed all the same and marked, because `sca run` will not take it.
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

import sca
from benchmarks.side_by_side import Times, describe_machine, print_row, time_in_turn
from engines.backends import backend_named
from engines.cache import EngineCache
from engines.devices import Precision, probe
from engines.probes import ModelProbes
from engines.workshop import BuildPolicy, Workshop
from sca.decoding.reference import decode
from sca.decoding.slots import SlotDecoder, StagedSteps
from sca.modeling import Sca
from sca.stages.language import language_stages, prefix_length
from sca.stages.spec import Stage
from sca.stages.vision import model_stages

KINDS = (
    ("openvino", Precision.FLOAT32),
    ("openvino", Precision.BFLOAT16),
    ("onnxruntime", Precision.FLOAT32),
)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--model", default="demo")
    parser.add_argument("--threads", type=int, default=os.cpu_count() or 1)
    parser.add_argument("--prompts", type=int, default=16)
    parser.add_argument("--repeats", type=int, default=15)
    options = parser.parse_args()
    torch.set_num_threads(options.threads)
    print(describe_machine(), flush=True)
    model = sca.load(options.model).model
    device, probes = probe("cpu"), ModelProbes(model)
    stages = (*model_stages(model, 64), *language_stages(model, 64))
    with tempfile.TemporaryDirectory() as folder:
        workshop = Workshop(EngineCache(Path(folder)), device, lambda line: None)
        steps: dict[str, dict[str, Callable[..., tuple[torch.Tensor, ...]]]] = {}
        for stage in stages:
            inputs = stage.example(**dict.fromkeys(("prompts", "rows"), options.prompts) | {"frames": 1})
            candidates: dict[str, Callable[[], object]] = {"eager float32": partial(stage.module, *inputs)}
            marks: dict[str, str] = {}
            for backend, precision in KINDS:
                if backend_named(backend).unavailable(device) or not _native(precision):
                    continue
                name = f"{backend} {precision}"
                manifest = workshop.build(stage, backend, precision, policy=BuildPolicy.IF_NEEDED)
                engine = backend_named(backend).load(
                    stage, precision, device, workshop.cache.folder(manifest.key)
                )
                made = workshop.verify(stage, manifest, probes.of(stage.name))
                marks[name] = "" if not made.report.failures() else f"refused: {made.report.failures()[0]}"
                candidates[name] = partial(engine, *inputs)
                steps.setdefault(name, {})[stage.name] = engine
            print(_title(stage, options.prompts))
            times = time_in_turn(candidates, repeats=options.repeats)
            _print_all(times, marks)
        _language(model, steps["openvino float32"], probes, options.repeats)


def _native(precision: Precision) -> bool:
    return precision is not Precision.BFLOAT16 or probe("cpu").native_bf16


def _title(stage: Stage, prompts: int) -> str:
    return (
        f"{stage.name}: one frame"
        if not {"prompts", "rows"} & stage.axes().keys()
        else f"{stage.name}: {prompts}"
    )


def _print_all(times: dict[str, Times], marks: dict[str, str]) -> None:
    baseline = times["eager float32"]
    for name, taken in times.items():
        print_row(name, taken, baseline if taken is not baseline else None, marks.get(name, ""))
    print(flush=True)


def _language(
    model: Sca, engines: dict[str, Callable[..., tuple[torch.Tensor, ...]]], probes: ModelProbes, repeats: int
) -> None:
    """Whole captions of real regions, greedy, with identical tokens."""
    prefixes = torch.cat([prefix for (prefix,) in probes.of("language-prefill").inputs])
    steps = StagedSteps(engines["language-prefill"], engines["language-step"])
    for count in (1, 8, 32):
        given = prefixes[:count]
        slots = SlotDecoder(model.language_model, prefix_length(model), steps=steps)
        with torch.inference_mode():
            same = decode(model.language_model, given).sequences() == slots.decode(given).sequences()
        print(f"captions of {len(given)} regions, greedy ({'identical' if same else 'DIFFERENT'} tokens)")
        times = time_in_turn(
            {
                "eager float32": partial(decode, model.language_model, given),
                "openvino float32": partial(slots.decode, given),
            },
            repeats=repeats,
        )
        _print_all(times, {})


if __name__ == "__main__":
    main()
