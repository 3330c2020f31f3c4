"""`sca query --sql`: what a SELECT over the tables of a store gives."""

from __future__ import annotations

import contextlib
import itertools
import os
import resource
import sys
from collections.abc import Iterator
from datetime import tzinfo

from rich.table import Table

from pipeline.commands.damage_exit import leave_with_damage
from pipeline.commands.extras import require
from pipeline.commands.terminal import PlainConsole, quiet_pipe, say
from pipeline.core.leaving import process_is_ours
from pipeline.core.shown_text import json_text, shown
from pipeline.export.csv import table_csv_lines
from pipeline.store import CaptionStore

SHOWN_ROWS = 1000
"""Of a table without --limit: its columns are as wide as their widest cell, so all rows are held."""

PIPED_WIDTH = 140
LONGEST_CELL = 2000
"""Characters of a cell in a table, which is laid out anew for each; JSON and CSV have the whole."""

_MORE_BYTES = 768 << 20


def query_sql(path: str, statement: str, zone: tzinfo, output: str, limit: int | None, strict: bool) -> None:
    """Print what a statement gives as a table, JSON lines or CSV. Raises `UserError` for one that is no SELECT, or a wrong one."""
    require("query --sql", "sql")
    with _without_pandas():
        import pyarrow.dataset  # noqa: F401
    from pipeline.query.sql import ask_sql, plain_value, shown_value

    with _bounded_memory(), CaptionStore.open(path, strict=strict) as store:
        if strict:
            store.verify()
        most = SHOWN_ROWS if limit is None and output == "table" else limit
        found = ask_sql(store, statement, zone, None if most is None else most + 1)
        with quiet_pipe():
            if output == "table":
                assert most is not None
                rows = list(itertools.islice(found.rows, most + 1))
                _print_table(
                    found.names,
                    [[_short(shown_value(cell)) for cell in row] for row in rows[:most]],
                    len(rows) > most,
                )
            elif output == "json":
                for row in itertools.islice(found.rows, limit):
                    document = {name: plain_value(cell) for name, cell in zip(found.names, row, strict=True)}
                    sys.stdout.write(json_text(document) + "\n")
            else:
                kept = itertools.islice(found.rows, limit)
                lines = table_csv_lines(
                    found.names, ([_cell(plain_value(cell)) for cell in row] for row in kept)
                )
                sys.stdout.writelines(lines)
        for name in store.streams():
            share = store.coverage(stream=name)
            if share < 1:
                reasons = ", ".join(sorted({str(reason) for _, reason in store.unwatched(name)})) or "no rows"
                say(f"{name}: {share:.1%} of what was recorded was watched ({reasons})", error=True)
        leave_with_damage(store.damage())


@contextlib.contextmanager
def _bounded_memory() -> Iterator[None]:
    """What a statement makes of a few bytes (`repeat('a', 2000000000)`) is refused by the machine before it fills it.

    DuckDB's own limit does not count the values of the rows that it works on, nor Arrow and Python theirs.
    """
    try:
        with open("/proc/self/statm") as file:
            held = int(file.read().split()[5]) * resource.getpagesize()
        soft, hard = resource.getrlimit(resource.RLIMIT_DATA)
    except (OSError, ValueError, IndexError):  # no Linux
        yield
        return
    wanted = held + _MORE_BYTES
    if not process_is_ours() or (soft != resource.RLIM_INFINITY and soft < wanted):
        yield
        return
    resource.setrlimit(resource.RLIMIT_DATA, (wanted, hard))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_DATA, (soft, hard))


class _NoPandas:
    """A finder of modules to which pandas is not installed."""

    def find_spec(self, name: str, *_: object) -> None:
        if name == "pandas":
            raise ModuleNotFoundError("No module named 'pandas'", name=name)


@contextlib.contextmanager
def _without_pandas() -> Iterator[None]:
    """Arrow's data sets import pandas, a second and 70 MB, to see whether one value is of it. None of ours is.

    Arrow looks once in a process, so this is for one that ends with this command.
    """
    if "pandas" in sys.modules or not process_is_ours():
        yield
        return
    os.environ.setdefault(
        "ARROW_DEFAULT_MEMORY_POOL", "system"
    )  # another one holds 5 MB before its first use
    finder = _NoPandas()
    sys.meta_path.insert(0, finder)
    try:
        yield
    finally:
        sys.meta_path.remove(finder)


def _cell(value: object) -> object:
    return json_text(value) if isinstance(value, list | dict) else value


def _short(cell: str) -> str:
    return cell if len(cell) <= LONGEST_CELL else f"{cell[:LONGEST_CELL]}... ({len(cell)} characters)"


def _print_table(names: tuple[str, ...], rows: list[list[str]], more: bool) -> None:
    table = Table(*(shown(name) for name in names), box=None, pad_edge=False)
    for row in rows:
        table.add_row(*(shown(cell) for cell in row))
    console = PlainConsole(
        file=sys.stdout, width=None if sys.stdout.isatty() else PIPED_WIDTH, highlight=False
    )
    console.print(table if rows else "No rows.")
    if more:
        console.print(f"{len(rows)} rows, more beyond; say --limit, or --format csv")
