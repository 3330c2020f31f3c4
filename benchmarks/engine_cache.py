"""How long an engine takes to build, and to find again: `python -m benchmarks.engine_cache [--backend tensorrt openvino]`.

For each stage of the shipped model: building into an empty cache, then the median of finding it there with its weights
digested, its files checked and, where this machine can run it, loaded.
"""

from __future__ import annotations

import argparse
import tempfile
import time
from pathlib import Path
from statistics import median

import sca
from benchmarks.side_by_side import describe_machine
from engines.backends import backend_named
from engines.cache import EngineCache
from engines.devices import Precision, choose_precision, probe
from engines.workshop import BuildPolicy, Workshop
from sca.stages.vision import model_stages

ROUNDS = 5


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--backend", nargs="+", default=["tensorrt", "openvino"])
    parser.add_argument("--model", default="demo")
    arguments = parser.parse_args()
    model, device = sca.load(arguments.model).model, probe("cpu")
    print(describe_machine(), flush=True)
    print(f"{'stage':16} {'back end':10} {'precision':10} {'cold build s':>12} {'found again s':>14}")
    for backend in arguments.backend:
        compiler = backend_named(backend)
        precision = choose_precision("auto", backend, device).precision
        for stage in model_stages(model, 64):
            with tempfile.TemporaryDirectory() as folder:
                cache = EngineCache(Path(folder))
                begun = time.perf_counter()
                Workshop(cache, device, quiet).build(stage, backend, precision, policy=BuildPolicy.IF_NEEDED)
                cold = time.perf_counter() - begun
                again = []
                for _ in range(ROUNDS):
                    begun = time.perf_counter()
                    found = Workshop(cache, device, quiet).build(
                        stage, backend, Precision(precision), policy=BuildPolicy.NEVER
                    )
                    if compiler.unavailable(device) is None:
                        compiler.load(stage, Precision(precision), device, cache.folder(found.key))
                    again.append(time.perf_counter() - begun)
            print(
                f"{stage.name:16} {backend:10} {precision:10} {cold:12.1f} {median(again):14.3f}", flush=True
            )


def quiet(line: str) -> None:
    """Progress is not looked at here."""


if __name__ == "__main__":
    main()
