"""Before a run: the model's engines are there, and its streams say what computes them."""

from __future__ import annotations

import logging
from collections.abc import Callable
from dataclasses import replace

from engines.preparation import EngineRequest, PreparationFailed, find_prepared, prepare
from pipeline.run_plan import RunPlan

log = logging.getLogger(__name__)
EAGER = "eager"


def with_engines(plan: RunPlan, report: Callable[[str], None]) -> RunPlan:
    """The plan, with engines built for this machine if they are wanted and missing.

    `report` takes lines of progress, none if there is nothing to build. Where nothing can be built, the run computes
    eagerly and says why. On a cluster elsewhere (`runtime.address`) each node builds for itself.
    """
    runtime = plan.config.runtime
    if runtime.engine == EAGER:
        return _noted(plan, "all stages: eager")
    if runtime.address:
        return plan
    request = EngineRequest(plan.config.model, runtime.device, runtime.engine)
    prepared = find_prepared(request)
    if prepared is None:
        try:
            prepared = prepare(request, report)
        except PreparationFailed as error:
            log.warning("engines could not be built, the model is computed eagerly: %s", error)
            report(f"not built, going on without: {error}")
            eager = plan.config.model_copy(update={"runtime": runtime.model_copy(update={"engine": EAGER})})
            return _noted(replace(plan, config=eager), f"all stages: eager ({error})")
    for line in prepared.origin:
        log.info("%s", line)
    return _noted(plan, "; ".join(prepared.origin))


def _noted(plan: RunPlan, engines: str) -> RunPlan:
    streams = tuple(replace(stream, info=replace(stream.info, engines=engines)) for stream in plan.streams)
    return replace(plan, streams=streams)
