"""`--sql`: one SELECT over a store, as table, JSON lines or CSV; whatever else it says reads and writes nothing."""

from __future__ import annotations

import csv
import io
import json
import subprocess
import sys
from pathlib import Path

import pytest
from typer.testing import CliRunner, Result

from pipeline.cli import app
from pipeline.core.errors import StoreRefused, UserError
from pipeline.store import CaptionStore
from tests.duration import by_day
from tests.store_samples import filled_store

pytest.importorskip("duckdb")

ROOT = Path(__file__).resolve().parents[2]


@pytest.fixture(scope="module")
def store(tmp_path_factory: pytest.TempPathFactory) -> CaptionStore:
    return filled_store(tmp_path_factory.mktemp("sql") / "a.zarr", 12)


def ask(store: CaptionStore, statement: str, *options: str) -> Result:
    return CliRunner().invoke(app, ["query", str(store.path), "--sql", statement, *options])


def test_rows_come_in_each_format_and_coverage_beside_them(store: CaptionStore) -> None:
    statement = (
        "SELECT track, text, t_start, mask, score FROM captions WHERE track >= 100 ORDER BY track LIMIT 2"
    )
    found = ask(store, statement, "--utc", "--format", "json")
    first, second = (json.loads(line) for line in found.stdout.splitlines())
    assert (first["track"], first["text"], first["score"]) == (100, "schöne Katze 0", 0.0)
    assert first["t_start"] == "2026-09-21T14:13:20.500000Z"
    assert first["mask"] == {"size": [480, 640], "counts": "\0"}
    assert second["track"] == 101
    assert "was watched (dropped)" in found.stderr
    table = list(csv.DictReader(io.StringIO(ask(store, statement, "--utc", "--format", "csv").stdout)))
    assert [row["track"] for row in table] == ["100", "101"]
    assert json.loads(table[0]["mask"]) == first["mask"]
    shown = ask(store, "SELECT track FROM captions ORDER BY ALL", "--limit", "3").stdout
    assert "3 rows, more beyond" in shown


def test_local_times_count_hours_of_the_machine(store: CaptionStore, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TZ", "Asia/Kolkata")
    found = ask(
        store, "SELECT hour(t_start) AS h, count(*) AS n FROM captions GROUP BY h", "--format", "json"
    )
    assert [json.loads(line) for line in found.stdout.splitlines()] == [{"h": 19, "n": 15}]


WRONG = [
        "SELECT * FROM read_csv('{secret}')", "SELECT * FROM '{secret}'", "SELECT * FROM read_text('{secret}')",
        "SELECT * FROM read_blob('{secret}')", "SELECT * FROM glob('/*')", "SELECT * FROM sniff_csv('{secret}')",
        "SELECT * FROM duckdb_extensions()", "SELECT * FROM parquet_scan('{secret}')", "SELECT * FROM read_json('{secret}')",
        "SELECT * FROM query('COPY captions TO ''{out}''')", "COPY captions TO '{out}'", "COPY (SELECT 1) TO '{out}'",
        "EXPORT DATABASE '{out}'", "ATTACH '{out}'", "INSTALL httpfs", "LOAD '{secret}'", "SET memory_limit = '90GB'",
        "RESET lock_configuration", "PRAGMA enable_profiling", "CREATE TABLE x AS SELECT 1", "DROP VIEW captions",
        "SELECT 1; COPY captions TO '{out}'", "", ";", "SELEC", "SELECT nosuch FROM captions", "SELECT * FROM store",
        "SELECT * FROM secret_of_python", "SELECT 1 AS a, 2 AS a", "SELECT 'a'::INTEGER", "CALL pragma_version()", "VACUUM",
        "SELECT error('\x1b[2J')", "SELECT '\x00", "SELECT getenv('HOME')", "IMPORT DATABASE '/'", "CREATE SECRET (TYPE s3)",
]  # fmt: skip


@pytest.mark.parametrize("statement", WRONG[:: by_day(6, otherwise=1)])
def test_whatever_is_no_select_over_the_tables_is_one_line_and_reads_and_writes_nothing(
    store: CaptionStore, tmp_path: Path, statement: str
) -> None:
    secret_of_python = store.captions()
    secret, out = tmp_path / "secret.csv", tmp_path / "out"
    secret.write_text("word\nconfidential\n")
    found = ask(store, statement.format(secret=secret, out=out))
    assert isinstance(found.exception, UserError), found.stdout
    assert "--sql" in str(found.exception)
    assert "confidential" not in str(found.exception) + found.stdout
    assert sorted(tmp_path.iterdir()) == [secret]
    assert len(secret_of_python)


def test_what_needs_too_much_memory_is_refused(store: CaptionStore, monkeypatch: pytest.MonkeyPatch) -> None:
    pytest.importorskip("duckdb")
    monkeypatch.setattr(
        "pipeline.query.sql._SETTINGS", ("memory_limit = '20MB'", "threads = 1", "temp_directory = ''")
    )
    found = ask(
        store, "SELECT list(i::VARCHAR || repeat('x', 500)) FROM range(200000) t(i)", "--format", "json"
    )
    assert isinstance(found.exception, UserError)
    assert "at once" in str(found.exception)


BOMBS = [
    "SELECT repeat('a', 2000000000)",
    "SELECT repeat('a', 1000000) FROM range(4096)",
    "SELECT range(100000000)",
    "SELECT list(NULL) FROM range(100000000)",
    "SELECT printf('%1000000000d', 1)",
    "WITH RECURSIVE t(n, s) AS (SELECT 1, 'a' UNION ALL SELECT n + 1, s || s FROM t WHERE n < 40) SELECT * FROM t",
    "SELECT count(*) FROM range(1000000000) a, range(1000000000) b",
    "SELECT * FROM range(200000000) ORDER BY random()",
]


@pytest.mark.promise("sql-bounded")
def test_no_statement_fills_the_memory(store: CaptionStore) -> None:
    # The kernel's own count: `ru_maxrss` begins with what the process that started this one had.
    asked = r"""
import re, sys
from pathlib import Path
from typer.testing import CliRunner
from pipeline.cli import app
from pipeline.core.leaving import ours_alone
with ours_alone():
    for statement in sys.argv[2:]:
        print(CliRunner().invoke(app, ["query", sys.argv[1], "--sql", statement, "--format", "json"]).exception)
print(int(re.search(r"VmHWM:\s+(\d+)", Path("/proc/self/status").read_text())[1]) // 1024)
"""
    statements = BOMBS[:: by_day(3, otherwise=1)]
    done = subprocess.run(
        [sys.executable, "-c", asked, str(store.path), *statements],
        cwd=ROOT, capture_output=True, text=True, check=True,
    )  # fmt: skip
    *told, most = done.stdout.splitlines()
    assert len(told) == len(statements), "something else than the answers is on standard output"
    assert all("needs more than" in one for one in told), told
    assert int(most) < 1024


@pytest.mark.promise("sql-bounded")
@pytest.mark.parametrize("output", ["json", "csv", "table"][:: by_day(3, otherwise=1)])
def test_a_row_that_nobody_could_read_is_refused(store: CaptionStore, output: str) -> None:
    found = ask(store, "SELECT 1, repeat('a', 20000000) FROM range(2)", "--format", output)
    assert isinstance(found.exception, UserError)
    assert str(found.exception).startswith("--sql: a row of 20 MB")
    # What is large only on the way to a row is none of its cells.
    on_the_way = "SELECT count(b) FROM range(3), (SELECT repeat('b', 20000000) AS b)"
    assert ask(store, on_the_way, "--format", output).exception is None


def test_a_long_cell_is_cut_in_a_table_alone(store: CaptionStore) -> None:
    shown = ask(store, "SELECT repeat('a', 1000000) AS a").stdout
    assert "1000000 characters" in "".join(shown.split("\n"))
    assert len(shown) < 5000
    assert len(ask(store, "SELECT repeat('a', 1000000) AS a", "--format", "csv").stdout) > 1_000_000


@pytest.mark.parametrize(
    ("statement", "told"),
    [
        ("SELECT 'infinity'::TIMESTAMP", "years 1 to 9999"),
        ("SELECT DATE '-4000-01-01'", "years 1 to 9999"),
        ("SELECT [TIMESTAMP '294247-01-10 04:00:54']", "years 1 to 9999"),
        ("SELECT '\udcff'", "UTF-8"),
    ],
)
def test_values_that_python_cannot_hold_are_told(store: CaptionStore, statement: str, told: str) -> None:
    found = ask(store, statement, "--format", "json")
    assert isinstance(found.exception, UserError), found.exception
    assert told in str(found.exception)


@pytest.mark.parametrize(
    "options",
    [("--track", "1"), ("--from", "1s"), ("--word", "dog"), ("--masks", "--format", "json"), ("--gaps",)],
)
def test_what_the_statement_says_itself_is_not_said_beside_it(
    store: CaptionStore, options: tuple[str, ...]
) -> None:
    found = ask(store, "SELECT 1", *options)
    assert "--sql says itself" in str(found.exception)


def test_damage_is_told_and_strict_refuses(tmp_path: Path) -> None:
    store = filled_store(tmp_path / "a.zarr", 6)
    damaged = sorted((store.path / "streams/cam/hot").iterdir())[-1]
    damaged.write_bytes(damaged.read_bytes()[:-30])
    found = ask(store, "SELECT count(*) AS n FROM captions", "--format", "json")
    assert found.exit_code == 3
    assert json.loads(found.stdout)["n"] > 0
    assert damaged.name in found.stderr
    found = ask(store, "SELECT count(*) FROM captions", "--strict")
    assert isinstance(found.exception, StoreRefused)


def test_a_missing_duckdb_is_one_line_with_the_remedy(
    store: CaptionStore, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("pipeline.commands.extras.find_spec", lambda name: None)
    found = ask(store, "SELECT 1")
    assert "pip install 'segment-caption-stream[sql]'" in str(found.exception)


def test_a_few_rows_need_no_pandas_and_leave_it_to_whoever_wants_it(store: CaptionStore) -> None:
    ask = """
import sys
from pipeline.cli import main
sys.argv = ["sca", "query", sys.argv[1], "--sql", "SELECT track FROM captions", "--limit", "1"]
try:
    main()
except SystemExit as end:
    assert not end.code and "duckdb" in sys.modules and "pandas" not in sys.modules
import pandas
"""
    subprocess.run([sys.executable, "-c", ask, str(store.path)], check=True, cwd=ROOT, timeout=300)
