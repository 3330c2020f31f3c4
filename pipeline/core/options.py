"""The base of every group of settings."""

from __future__ import annotations

from pydantic import BaseModel, ConfigDict

from sca.setting_errors import did_you_mean

__all__ = ["Options", "did_you_mean"]


class Options(BaseModel):
    """A frozen group of settings; unknown keys are errors."""

    model_config = ConfigDict(extra="forbid", frozen=True)
