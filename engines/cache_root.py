"""Where compiled engines are kept."""

from __future__ import annotations

import os
from pathlib import Path

import platformdirs

ENVIRONMENT_VARIABLE = "SCA_ENGINE_CACHE"


def default_root() -> Path:
    """`$SCA_ENGINE_CACHE`, or the user's cache folder."""
    chosen = os.environ.get(ENVIRONMENT_VARIABLE)
    return Path(chosen) if chosen else Path(platformdirs.user_cache_dir("segment-caption-stream")) / "engines"
