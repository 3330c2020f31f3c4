"""SQL over a store, by DuckDB: one SELECT at a time, which can neither read nor write a file, load an extension, nor change a setting."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from datetime import date, datetime, time, timedelta, tzinfo
from typing import Any

import pyarrow as pa

from pipeline.core.errors import UserError
from pipeline.store import CaptionStore
from pipeline.store.store_tables import TABLES, stored_table
from pipeline.store.stored_dataset import StoredDataset

MEMORY = "1GB"
"""What DuckDB may hold at once, to sort and to join; the rows that it is given and gives come a few thousand at a time."""

_ROWS = 4096
_SETTINGS = (
    f"memory_limit = '{MEMORY}'",
    "threads = 2",
    "temp_directory = ''",
    "enable_external_access = false",
    "python_enable_replacements = false",
    "autoinstall_known_extensions = false",
    "autoload_known_extensions = false",
    "allow_community_extensions = false",
    "lock_configuration = true",
)


@dataclass(frozen=True, slots=True)
class SqlRows:
    """What a statement gives: names of its columns, and rows in its order, read as they are taken."""

    names: tuple[str, ...]
    rows: Iterator[tuple[Any, ...]]


def ask_sql(store: CaptionStore, statement: str, zone: tzinfo, most: int | None = None) -> SqlRows:
    """What one SELECT over the tables of a store gives (`pipeline.store.store_tables.TABLES`). `zone`: of times without an offset.
    `most`: no more rows than these are looked for.

    Raises `UserError` for anything else, also while rows are taken; what a stored table raises stays what it is.
    """
    import duckdb

    connection = duckdb.connect(":memory:")
    tables = {name: stored_table(store, name, "us") for name in TABLES}
    for name, table in tables.items():
        connection.register(name, table)
    name = getattr(zone, "key", None) or "UTC"
    for setting in (f"TimeZone = '{name}'", *_SETTINGS):
        connection.execute(f"SET {setting}")
    try:
        statements = connection.extract_statements(statement)
    except duckdb.Error as error:
        raise _refused(error, tables) from None
    if len(statements) != 1 or statements[0].type != duckdb.StatementType.SELECT:
        raise UserError("--sql takes one SELECT: the tables are " + ", ".join(TABLES))
    try:
        found = connection.sql(statement)
        names = tuple(found.columns)
        if twice := next((one for one in names if names.count(one) > 1), None):
            raise UserError(f"--sql: two columns are called {twice!r}; name them apart with AS")
        reader = (found if most is None else found.limit(most)).to_arrow_reader(_ROWS)
    except (duckdb.Error, pa.ArrowException) as error:
        raise _refused(error, tables) from None
    return SqlRows(names, _rows(reader, tables, connection))


def _rows(
    reader: pa.RecordBatchReader, tables: dict[str, StoredDataset], connection: Any
) -> Iterator[tuple[Any, ...]]:
    import duckdb

    try:
        for batch in reader:
            columns = [column.to_pylist() for column in batch.columns]
            yield from zip(*columns, strict=True)
    except (duckdb.Error, pa.ArrowException, ValueError, OSError) as error:
        raise _refused(error, tables) from None
    finally:
        reader.close()
        connection.close()


def _refused(error: Exception, tables: dict[str, StoredDataset]) -> Exception:
    """What was wrong with the statement, in a line; or what a table of the store has raised meanwhile."""
    failure = next((table.failure for table in tables.values() if table.failure is not None), None)
    if failure is not None:
        return failure
    import duckdb

    said = str(error).strip().split("\n\n")[0].split("\nLINE ")[0]
    if isinstance(error, duckdb.OutOfMemoryException):
        return UserError(
            f"--sql: this needs more than {MEMORY} at once; ask for less time, or fewer columns, at a time"
        )
    return UserError(f"--sql: {' '.join(said.split())}")


def plain_value(value: Any) -> Any:
    """A value of SQL as JSON has it: moments in ISO 8601, bytes as text where they are that, else as hexadecimal digits."""
    if isinstance(value, float):
        return value if value == value and abs(value) != float("inf") else None
    if value is None or isinstance(value, bool | int | str):
        return value
    if isinstance(value, dict):
        return {str(key): plain_value(one) for key, one in value.items()}
    if isinstance(value, list | tuple):
        return [plain_value(one) for one in value]
    if isinstance(value, bytes):
        return value.decode("ascii") if value.isascii() else value.hex()
    if isinstance(value, datetime):
        return value.isoformat().replace("+00:00", "Z")
    if isinstance(value, date | time):
        return value.isoformat()
    if isinstance(value, timedelta):
        return value.total_seconds()
    return str(value)


def shown_value(value: Any) -> str:
    """The same in a table or a cell of CSV."""
    plain = plain_value(value)
    if isinstance(plain, float):
        return f"{plain:.6g}"
    return "" if plain is None else str(plain)
