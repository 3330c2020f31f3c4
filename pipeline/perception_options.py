"""How a keyframe is searched for regions."""

from __future__ import annotations

from pydantic import Field

from pipeline.options import Options


class ProbeOptions(Options):
    """Where to look for regions that no track accounts for. Points form a `grid` x `grid` raster."""

    grid: int = Field(default=12, ge=1, le=64)
    budget: int = Field(default=8, ge=0, description="points tried in a keyframe")
    first_budget: int = Field(default=32, ge=0, description="points tried in the first keyframe of a scene")
    change_weight: float = Field(
        default=4.0, ge=0, description="how much sooner a changed place is tried again"
    )
    large_region: float = Field(
        default=0.2, ge=0, le=1, description="larger regions may hide others: probe inside"
    )


class PerceptionOptions(Options):
    """Which masks count as regions. Areas are shares of the picture."""

    probing: ProbeOptions = ProbeOptions()
    max_track_prompts: int = Field(default=32, ge=0, description="live tracks looked for in a keyframe")
    max_motion_prompts: int = Field(
        default=12, ge=0, description="moving places tried in a keyframe, while the camera stands still"
    )
    max_regions: int = Field(default=40, ge=1)
    min_predicted_iou: float | None = Field(
        default=None, ge=0, le=1, description="none: what suits the model"
    )
    min_stability: float | None = Field(default=None, ge=0, le=1, description="none: what suits the model")
    min_area: float = Field(default=0.001, ge=0, le=1)
    max_area: float = Field(default=0.9, ge=0, le=1)
    same_region_iou: float = Field(
        default=0.55, gt=0, le=1, description="masks that overlap more are one region"
    )
    same_box_iou: float = Field(default=0.8, gt=0, le=1, description="and so are masks with nearly one box")
