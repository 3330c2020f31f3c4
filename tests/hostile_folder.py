"""A folder whose files are called like our packages and like the library's, as a folder of videos may hold them."""

from __future__ import annotations

from pathlib import Path

OURS = ("sca", "engines", "pipeline")
LIBRARIES = (
    "av", "cv2", "numpy", "pandas", "pyarrow", "ray", "scipy", "torch", "typing_extensions", "yaml", "zarr",
    "calendar", "csv", "queue", "random", "secrets", "signal", "socket", "statistics", "tempfile", "uuid",
)  # fmt: skip


def fill_hostile(folder: Path, *names: str) -> None:
    """Put a module of each name there that says it was imported, and ends the process."""
    for name in names:
        text = f"open({str(folder / (name + '.imported'))!r}, 'w').close()\nraise SystemExit('imported {name}')\n"
        (folder / f"{name}.py").write_text(text)


def imported_from(folder: Path) -> list[str]:
    """Names of the modules of `fill_hostile` that some process has imported."""
    return sorted(path.stem for path in folder.glob("*.imported"))
