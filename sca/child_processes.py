"""Processes that this program starts find its own code, and never what lies in the folder they are started in.

Python puts the working directory, or a script's folder, first on the path of modules: a `random.py` beside somebody's
video would be run in place of the library's.
"""

from __future__ import annotations

import os
import sys
from collections.abc import Mapping
from pathlib import Path

_ROOT = Path(__file__).resolve().parents[1]
_INSTALLED = ("site-packages", "dist-packages")


def code_root() -> Path | None:
    """The folder of our packages that a child must be told of; None where they are installed, as it finds them then."""
    return None if _ROOT.name in _INSTALLED else _ROOT


def child_environment(environment: Mapping[str, str] = os.environ) -> dict[str, str]:
    """What to add to a child's environment, so that it imports neither from its working directory nor from ours."""
    root = code_root()
    if root is None:
        return {"PYTHONSAFEPATH": "1"}
    before = environment.get("PYTHONPATH", "").split(os.pathsep)
    others = [folder for folder in before if folder and folder != str(root)]
    return {"PYTHONSAFEPATH": "1", "PYTHONPATH": os.pathsep.join([str(root), *others])}


def leave_working_directory() -> None:
    """Take the working directory off this process's path, unless our packages are imported from there.

    For `python -m`, which puts it first. The children of this process are kept from theirs as well.
    """
    here = os.getcwd()
    if not sys.flags.safe_path and sys.path and sys.path[0] in ("", here) and Path(here) != _ROOT:
        del sys.path[0]
    os.environ.update(child_environment())
