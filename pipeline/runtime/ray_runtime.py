"""A run on Ray: this process only hands references on; pixels and rows travel between the actors."""

from __future__ import annotations

from ray.exceptions import RayError

from pipeline.run_plan import RunPlan
from pipeline.runtime.failure import StageFailed
from pipeline.runtime.observer import RunObserver
from pipeline.runtime.progress import StopRequest, StreamProgress
from pipeline.runtime.ray_cluster import ray_session
from pipeline.runtime.ray_driver import Driver
from pipeline.runtime.remote_errors import plain


def run_on_ray(plan: RunPlan, observer: RunObserver, stop: StopRequest) -> list[StreamProgress]:
    """Run all streams of `plan` at once on Ray; returns where each stands.

    Stages and streams that die are started again as far as the restart policies go. Raises `ValueError` when an input
    or the store is at fault, `StageFailed` when a stage or a stream stays down.
    """
    with ray_session(plan.config.runtime) as has_gpu:
        try:
            return Driver(plan, observer, stop, has_gpu).run()
        except RayError as error:
            raise StageFailed(f"Ray {plain(error)}; run the same command to go on") from None
