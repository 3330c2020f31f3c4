"""How the house is built: files, slivers, rooms, floors, arrows and circles of each part, as a table.

    python -m benchmarks.house            # the tree that this file lies in
    python -m benchmarks.house OTHER      # another tree, such as: git archive COMMIT | tar -x -C OTHER

A room is a folder, or a file that lies loose on the ground of its part. A floor is the longest chain of imports below a room (or
file), itself included; an arrow is one importing another of the same part, at its top or later. A circle is a set that
import each other round about; it counts as one for the floors. Empty files do not count.
"""

from __future__ import annotations

import argparse
import ast
from collections import defaultdict
from collections.abc import Hashable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TypeVar

PARTS = ("sca", "engines", "pipeline")
SLIVER = 60
Node = TypeVar("Node", bound=Hashable)


@dataclass(frozen=True, slots=True)
class Count:
    """Of a graph of imports: its floors, arrows and circles."""

    floors: int
    arrows: int
    circles: int


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("tree", nargs="?", type=Path, default=Path(__file__).resolve().parent.parent)
    tree = parser.parse_args().tree
    print(
        "| part | files | under 60 lines | loose | rooms | floors | arrows | circles | of files: floors | arrows | circles |"
    )
    print("|---|---|---|---|---|---|---|---|---|---|---|")
    for part in PARTS:
        ground = tree / part
        files = [path for path in ground.rglob("*.py") if path.read_text().strip()]
        imports = {
            path: {other for other in imported(path, tree) if other in files} - {path} for path in files
        }
        room_of = {path: path if path.parent == ground else path.parent for path in files}
        rooms: dict[Path, set[Path]] = {room: set() for room in room_of.values()}
        for path, others in imports.items():
            rooms[room_of[path]] |= {room_of[other] for other in others} - {room_of[path]}
        modules = [path for path in files if path.name != "__init__.py"]
        short = sum(len(path.read_text().splitlines()) < SLIVER for path in modules)
        loose = sum(path.parent == ground for path in modules)
        cells = [part, len(modules), short, loose, len(rooms)]
        for counted in (count(rooms), count(imports)):
            cells += [counted.floors, counted.arrows, counted.circles]
        print("| " + " | ".join(str(cell) for cell in cells) + " |")


def imported(path: Path, tree: Path) -> set[Path]:
    """The files of `tree` that a file imports; `from a import b` is the file `a/b.py` where there is one."""
    found: set[Path] = set()
    for node in ast.walk(ast.parse(path.read_text())):
        names: list[str] = []
        if isinstance(node, ast.Import):
            names = [alias.name for alias in node.names]
        elif isinstance(node, ast.ImportFrom) and node.module and node.level == 0:
            for alias in node.names:
                inside = file_of(f"{node.module}.{alias.name}", tree)
                names.append(f"{node.module}.{alias.name}" if inside else node.module)
        found |= {file for name in names if (file := file_of(name, tree)) is not None}
    return found


def file_of(module: str, tree: Path) -> Path | None:
    path = tree / module.replace(".", "/")
    return next((file for file in (path.with_suffix(".py"), path / "__init__.py") if file.exists()), None)


def count(imports: Mapping[Node, set[Node]]) -> Count:
    """Floors, arrows and circles of who imports whom."""
    groups = circles_of(imports)
    group_of = {node: number for number, group in enumerate(groups) for node in group}
    below: dict[int, set[int]] = defaultdict(set)
    for node, others in imports.items():
        below[group_of[node]] |= {group_of[other] for other in others} - {group_of[node]}
    heights: dict[int, int] = {}

    def height(group: int) -> int:
        if group not in heights:
            heights[group] = 1 + max((height(other) for other in below[group]), default=0)
        return heights[group]

    floors = max((height(number) for number in range(len(groups))), default=0)
    return Count(
        floors, sum(len(others) for others in imports.values()), sum(len(group) > 1 for group in groups)
    )


def circles_of(imports: Mapping[Node, set[Node]]) -> list[set[Node]]:
    """Who can reach each other, as groups (Kosaraju's algorithm); one that is in no circle is a group alone."""
    order: list[Node] = []
    seen: set[Node] = set()

    def leave(node: Node) -> None:
        seen.add(node)
        for other in imports[node]:
            if other not in seen:
                leave(other)
        order.append(node)

    for node in imports:
        if node not in seen:
            leave(node)
    users: dict[Node, set[Node]] = defaultdict(set)
    for node, others in imports.items():
        for other in others:
            users[other].add(node)
    groups: list[set[Node]] = []
    placed: set[Node] = set()
    for node in reversed(order):
        if node in placed:
            continue
        group, waiting = set(), [node]
        while waiting:
            found = waiting.pop()
            if found not in placed:
                placed.add(found)
                group.add(found)
                waiting += users[found]
        groups.append(group)
    return groups


if __name__ == "__main__":
    main()
