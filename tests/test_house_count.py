"""The numbers of the house are counted as the architecture says: rooms, floors, arrows, circles."""

from __future__ import annotations

from pathlib import Path

from benchmarks.house import Count, circles_of, count, imported


def test_floors_arrows_and_circles_of_a_small_house() -> None:
    house = {"roof": {"hall", "attic"}, "attic": {"hall"}, "hall": {"cellar"}, "cellar": set(), "shed": set()}
    assert count(house) == Count(floors=4, arrows=4, circles=0)
    round_about = house | {"cellar": {"hall"}}
    assert count(round_about) == Count(floors=3, arrows=5, circles=1)
    assert {"hall", "cellar"} in circles_of(round_about)
    assert count({}) == Count(0, 0, 0)


def test_imports_are_found_wherever_they_stand_and_names_of_files_are_files(tmp_path: Path) -> None:
    room = tmp_path / "pipeline/room"
    room.mkdir(parents=True)
    for name in ("__init__", "a", "b", "c"):
        (room / f"{name}.py").write_text("")
    user = tmp_path / "pipeline/user.py"
    user.write_text(
        "import os\nfrom pipeline.room import a, something\n\ndef later():\n    import pipeline.room.b\n    from . import c\n"
    )
    assert {path.name for path in imported(user, tmp_path)} == {"a.py", "__init__.py", "b.py"}
