"""The process that `engines.preparation.prepare` starts: builds all engines of a model, and says how it goes on stdout."""

from __future__ import annotations

import json
import os
import sys
from dataclasses import asdict

from engines.preparation import MARK, EngineRequest, Prepared, essentials_name, note_prepared


def main(argument: str) -> None:
    """Builds for the request in `argument` (JSON): marked lines of progress, then the result."""
    request = EngineRequest(**json.loads(argument))
    _say(f"loading model {request.model}")
    import torch

    import sca
    from engines.acceleration import obtain_engines
    from engines.cache import EngineCache
    from sca.compiled.essentials import essentials_of
    from sca.stages.names import LANGUAGE, vision_stages

    torch.set_num_threads(os.cpu_count() or 1)
    device = request.device
    if device == "auto":
        device = "cuda" if torch.cuda.is_available() else "cpu"
    cache = EngineCache()
    cache.sweep()
    predictor = sca.load(request.model, device=device)
    made = obtain_engines(predictor, request.backend, cache=cache, report=_say)
    parts = None
    wanted = [*vision_stages(predictor.config), *LANGUAGE]
    if [ready.stage for _, ready in made if ready.backend == "openvino"] == wanted:
        parts = essentials_of(predictor)
    beside = "" if parts is None else essentials_name(request)
    if parts is not None:
        (cache.root / beside).parent.mkdir(exist_ok=True)
        parts.write(cache.root / beside)
    prepared = Prepared(
        tuple(ready.summary() for _, ready in made),
        tuple(ready.manifest.key.folder for _, ready in made if ready.manifest is not None),
        beside,
    )
    note_prepared(cache.root, request, prepared)
    _say(asdict(prepared))


def _say(content: object) -> None:
    sys.stdout.write(f"{MARK}{json.dumps(content)}\n")
    sys.stdout.flush()


if __name__ == "__main__":
    try:
        main(sys.argv[1])
    except ValueError as error:
        sys.exit(str(error))
