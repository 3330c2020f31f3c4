"""The base of every group of settings."""

from __future__ import annotations

from typing import Any

from pydantic import BaseModel, ConfigDict, field_validator

from sca.setting_errors import did_you_mean

__all__ = ["Options", "did_you_mean"]


# As seconds it is thirty years, and in nanoseconds still what 64 bits hold.
_LARGEST = 1e9


class Options(BaseModel):
    """A frozen group of settings; unknown keys are errors, and so are numbers that no setting can mean."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    @field_validator("*", mode="after")
    @classmethod
    def _within_reason(cls, value: Any) -> Any:
        if isinstance(value, int | float) and not -_LARGEST <= value <= _LARGEST:
            raise ValueError(f"input should be a number of at most {_LARGEST:.0f}")
        return value
