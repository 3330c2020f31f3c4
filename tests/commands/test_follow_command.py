"""`sca query --follow` as a process: rows as they come, a cursor that goes on, Ctrl-C, and mistakes."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest
from typer.testing import CliRunner

from pipeline.cli import app
from pipeline.core.errors import UserError
from pipeline.store import CaptionStore
from tests.store_samples import BY_HAND, INFO, batch, filled_store

ROOT = Path(__file__).resolve().parents[2]


def following(store: CaptionStore, *options: str) -> subprocess.Popen[str]:
    return subprocess.Popen(
        [sys.executable, "-m", "pipeline.cli", "query", str(store.path), "--follow", *options],
        cwd=store.path.parent,
        env={**os.environ, "PYTHONPATH": str(ROOT)},
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        preexec_fn=lambda: signal.signal(signal.SIGINT, signal.default_int_handler),
    )


def test_rows_come_as_they_are_stored_and_ctrl_c_leaves_a_cursor_to_go_on_with(tmp_path: Path) -> None:
    store = filled_store(tmp_path / "a.zarr", 5)
    cursor = tmp_path / "cursor.json"
    with store.writer("cam", INFO, compaction=BY_HAND) as writer:
        process = following(store, "--from", "0s", "--format", "json", "--cursor", str(cursor))
        assert process.stdout is not None
        told = [json.loads(process.stdout.readline()) for _ in range(6)]
        assert len({(row["track"], row["t_start"]) for row in told}) == 6
        writer.commit(batch(5))
        told += [json.loads(process.stdout.readline()) for _ in range(2)]
        assert told[-1]["text"] == "schöne Katze 5"
        process.send_signal(signal.SIGINT)
        rest, said = process.communicate(timeout=120)
        assert (process.returncode, rest) == (130, "")
        assert "Stopped after 8 captions." in said
        assert "(dropped)" in said
        writer.commit(batch(6))
        writer.compact()
    process = following(store, "--format", "json", "--cursor", str(cursor), "--limit", "1")
    out, said = process.communicate(timeout=120)
    assert [json.loads(line)["text"] for line in out.splitlines()] == ["schöne Katze 6"]
    assert process.returncode == 0, said


def test_printed_cursors_cover_what_stands_before_them(tmp_path: Path) -> None:
    store = filled_store(tmp_path / "a.zarr", 4)
    options = ["query", str(store.path), "--follow", "--from", "0s", "--format", "json", "--cursor"]
    found = CliRunner().invoke(app, [*options, "-", "--limit", "2"])
    lines = [json.loads(line) for line in found.stdout.splitlines()]
    assert [set(line) == {"cursor"} for line in lines] == [False, False, True]
    kept = tmp_path / "kept"
    kept.write_text(json.dumps(lines[2]["cursor"]))
    found = CliRunner().invoke(app, [*options, str(kept), "--limit", "3"])
    more = [json.loads(line) for line in found.stdout.splitlines()]
    assert len({(row["track"], row["t_start"]) for row in (*lines[:2], *more)}) == 5


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (("--follow", "--to", "3s"), "--follow has no end"),
        (("--follow", "--count-by", "text"), "--follow has no end"),
        (("--cursor", "x"), "--cursor goes with --follow"),
        (("--follow", "--cursor", "-"), "add --format json"),
        (("--follow", "--cursor", "{store}/cursor"), "inside the store"),
        (("--follow", "--cursor", "{store}/zarr.json"), "inside the store"),
        (("--follow", "--cursor", "{here}/bad"), "begin without it"),
        (("--follow", "--cursor", "{here}"), "this is a folder"),
    ],
)
def test_mistakes_are_one_line(tmp_path: Path, options: tuple[str, ...], message: str) -> None:
    store = filled_store(tmp_path / "a.zarr", 1)
    (tmp_path / "bad").write_text('{"cursor": 9}')
    typed = [option.format(store=store.path, here=tmp_path) for option in options]
    found = CliRunner().invoke(app, ["query", str(store.path), *typed])
    assert isinstance(found.exception, UserError)
    assert message in str(found.exception)


def test_a_cursor_file_that_was_emptied_does_not_begin_anew_in_silence(tmp_path: Path) -> None:
    store = filled_store(tmp_path / "a.zarr", 2)
    cursor = tmp_path / "cursor.json"
    cursor.write_text("\n")
    with pytest.raises(UserError, match=r"cursor\.json is empty"):
        CliRunner().invoke(
            app, ["query", str(store.path), "--follow", "--cursor", str(cursor)], catch_exceptions=False
        )
