"""Captions, names and messages that hold escape sequences, markup and formulas, as commands print them."""

from __future__ import annotations

import csv
import io
import json
import logging
import re
import sys
from dataclasses import replace
from pathlib import Path

import pytest
import typer
from rich.table import Table
from typer.testing import CliRunner

from pipeline.cli import main
from pipeline.commands.log_format import LogFormat, run_logs
from pipeline.commands.query import query
from pipeline.commands.terminal import PlainConsole
from pipeline.store import CaptionStore
from tests.store_samples import INFO, batch

pytestmark = pytest.mark.promise("hostile-text")

CAPTION = "=cmd|'/C calc'!A0 \x1b]0;title\x07\x1b[2J\u202edog[red]\n| forged | row"
# The colours that rich itself gives: everything else that begins with ESC would be the text's.
COLOURS = re.compile(r"\x1b\[[\d;]*m")


@pytest.fixture(scope="module")
def path(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("hostile") / "a.zarr"
    with CaptionStore.create(path).writer("cam", INFO) as writer:
        plain = batch(0)
        writer.commit(
            replace(plain, captions=tuple(replace(event, text=CAPTION) for event in plain.captions))
        )
    return path


def printed(path: Path, *arguments: str) -> str:
    app = typer.Typer()
    app.command()(query)
    result = CliRunner().invoke(app, [str(path), *arguments])
    assert result.exit_code == 0, result.output
    return result.output


def test_a_table_shows_what_a_terminal_would_obey(path: Path) -> None:
    output = printed(path)
    assert not re.search("[\x00-\x09\x0b-\x1f\x7f-\x9f\u202e]", output)
    # Folded over lines, it is all there: markup too.
    shown = "".join(output.split())
    assert r"\x1b]0;title\x07\x1b[2J\u202edog[red]\n|" in shown


def test_json_is_exact_and_csv_is_text(path: Path) -> None:
    lines = printed(path, "--format", "json").splitlines()
    assert [json.loads(line)["text"] for line in lines] == [CAPTION] * 2
    assert "\x1b" not in "".join(lines)
    rows = list(csv.DictReader(io.StringIO(printed(path, "--format", "csv"), newline="")))
    assert all(row["text"].startswith("'=cmd") and "\x1b" not in row["text"] for row in rows)


def test_a_coloured_terminal_gets_no_escapes_but_the_consoles_own() -> None:
    out = io.StringIO()
    console = PlainConsole(file=out, force_terminal=True, width=120)
    table = Table("[bold]\x1b[31mhead")
    table.add_row(CAPTION, style="cyan")
    console.print(table)
    console.print(f"Everything is in {CAPTION} :dog:")
    assert ":dog:" in out.getvalue()
    assert "[bold]" in out.getvalue()
    assert not re.search("[\x00-\x09\x0b-\x1f\x7f-\x9f\u202e]", COLOURS.sub("", out.getvalue()))


@pytest.mark.parametrize("form", list(LogFormat))
def test_logs_show_them_too_and_no_password_of_what_was_raised(
    form: LogFormat, capsys: pytest.CaptureFixture[str]
) -> None:
    out = io.StringIO()
    log = logging.getLogger("pipeline.test")
    with run_logs(form, PlainConsole(file=out, width=200)):
        try:
            raise OSError("cannot open rtsp://admin:hunter2@camera/live")
        except OSError:
            log.exception("%s is \x1b[2Jaway", "cam[red]")
    text = out.getvalue() + capsys.readouterr().err
    assert "cam[red]" in text
    assert "OSError" in text
    assert "hunter2" not in text
    assert "\x1b" not in text


def test_an_error_that_names_a_hostile_file_is_one_harmless_line(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    name = tmp_path / "\x1b]0;title\x07\u202egpj.zarr"
    monkeypatch.setattr(sys, "argv", ["sca", "query", str(name)])
    with pytest.raises(SystemExit) as ended:
        main()
    assert ended.value.code == 2
    (line,) = capsys.readouterr().err.splitlines()
    assert r"\x1b]0;title\x07\u202egpj.zarr" in line
