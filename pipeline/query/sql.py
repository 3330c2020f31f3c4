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

MEMORY = "512MB"
"""What DuckDB may hold at once, to sort and to join; the rows that it is given and gives come a few thousand at a time."""

MOST_ROW_BYTES = 16 << 20
"""A row with every mask and vector of a table takes a few kilobytes. One of this size is already a hundred screens of a table."""

_ROWS = 2048
_BATCH_BYTES = 8 << 20  # of values of Python at once, which take several times as much
_SETTINGS = (
    f"memory_limit = '{MEMORY}'",
    "threads = 2",
    "enable_progress_bar = false",  # which would be drawn among the rows
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
    try:
        for name, table in tables.items():
            connection.register(name, table)
        for setting in (f"TimeZone = '{getattr(zone, 'key', None) or 'UTC'}'", *_SETTINGS):
            connection.execute(f"SET {setting}")
        names, reader = _asked(connection, statement, most)
    except (duckdb.Error, pa.ArrowException, MemoryError) as error:
        connection.close()
        raise _refused(error, tables) from None
    except UserError:
        connection.close()
        raise
    return SqlRows(names, _rows(reader, tables, connection))


def _asked(connection: Any, statement: str, most: int | None) -> tuple[tuple[str, ...], pa.RecordBatchReader]:
    """Names of the columns, and the rows."""
    import duckdb

    try:
        statement.encode()
    except UnicodeEncodeError:
        raise UserError("--sql: the statement is not UTF-8") from None
    statements = connection.extract_statements(statement)
    if len(statements) != 1 or statements[0].type != duckdb.StatementType.SELECT:
        raise UserError("--sql takes one SELECT: the tables are " + ", ".join(TABLES))
    found = connection.sql(statement)
    names = tuple(found.columns)
    if twice := next((one for one in names if names.count(one) > 1), None):
        raise UserError(f"--sql: two columns are called {twice!r}; name them apart with AS")
    return names, (found if most is None else found.limit(most)).to_arrow_reader(_ROWS)


def _rows(
    reader: pa.RecordBatchReader, tables: dict[str, StoredDataset], connection: Any
) -> Iterator[tuple[Any, ...]]:
    import duckdb

    try:
        for batch in reader:
            for part in _parts(batch):
                columns = [column.to_pylist() for column in part.columns]
                yield from zip(*columns, strict=True)
    except UserError:
        raise
    except OverflowError:
        raise UserError(
            "--sql: a date outside the years 1 to 9999; ask for it as text, by CAST(... AS VARCHAR)"
        ) from None
    except (duckdb.Error, pa.ArrowException, ValueError, OSError, MemoryError) as error:
        raise _refused(error, tables) from None
    finally:
        reader.close()
        connection.close()


def _parts(batch: pa.RecordBatch) -> Iterator[pa.RecordBatch]:
    """The rows of `batch`, so many at a time as may be values of Python at once. Raises `UserError` for a row that is too large."""
    rows = max(1, batch.num_rows * _BATCH_BYTES // max(batch.nbytes, 1))
    for start in range(0, batch.num_rows, rows):
        part = batch.slice(start, rows)
        if part.nbytes > MOST_ROW_BYTES:
            largest = max(part.slice(row, 1).nbytes for row in range(part.num_rows))
            if largest > MOST_ROW_BYTES:
                raise UserError(
                    f"--sql: a row of {largest / 1e6:.0f} MB; one may take {MOST_ROW_BYTES / 1e6:.0f} MB: ask for parts of "
                    "its values, or for rows in place of lists"
                )
        yield part


def _refused(error: Exception, tables: dict[str, StoredDataset]) -> Exception:
    """What was wrong with the statement, in a line; or what a table of the store has raised meanwhile."""
    failure = next((table.failure for table in tables.values() if table.failure is not None), None)
    if failure is not None:
        return failure
    import duckdb

    said = str(error).strip().split("\n\n")[0].split("\nLINE ")[0]
    if isinstance(error, MemoryError | duckdb.OutOfMemoryException) or said.startswith("Out of Memory Error"):
        return UserError(
            f"--sql: this needs more than {MEMORY} at once; ask for less time, or fewer columns, at a time"
        )
    if said.startswith("Nanosecond resolution"):
        said = "Python's times have microseconds; ask for this one as TIMESTAMP or VARCHAR (CAST)"
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
