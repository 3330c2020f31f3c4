"""What the program promises, and `docs/promises.md` made of it: each promise with the tests that are marked with its name.

A test, or a whole file of tests, says which promises it holds: `@pytest.mark.promise("name")`, `pytestmark = pytest.mark.promise("name")`.
`python -m tests.promises` writes the page.
"""

from __future__ import annotations

import ast
from collections import defaultdict
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from tests.mended_kinds import table

ROOT = Path(__file__).resolve().parent.parent
PAGE = ROOT / "docs" / "promises.md"


@dataclass(frozen=True, slots=True)
class Promise:
    """`since`: the day on which it was first tested."""

    topic: str
    text: str
    since: str


PROMISES = {
    "odd-surroundings": Promise(
        "Mistakes",
        "Standard streams that are closed, an environment that nobody means and numbers that no machine counts to end in no traceback, and nothing that is printed lands in another file",
        "2026-11-28",
    ),
    "prompts-bounded": Promise(
        "What is read",
        "Boxes, points and masks from a file are prompts within the picture, as COCO reads them, or one line: within 10 s and 1 GiB; fuzzed",
        "2026-11-28",
    ),
    "inputs-bounded": Promise(
        "What is read",
        "A pattern ends whatever links and folders there are, as Python would match it; FIFOs and devices are no films; a playlist without an end is what stands in it now",
        "2026-11-28",
    ),
    "segment-masks": Promise(
        "What is read",
        "A segment whose masks do not end where it tells is damaged, and never merged or archived",
        "2026-11-28",
    ),
    "sql-bounded": Promise(
        "What is read",
        "What a statement of `--sql` makes of a few bytes is refused within 1 GiB, a row takes 16 MB at most, and nothing but its rows stands on standard output",
        "2026-11-29",
    ),
    "like-bounded": Promise(
        "What is read",
        "`sca query --like` looks at its picture with the engines of the run: no torch, less than 1 GiB",
        "2026-11-29",
    ),
    "damaged-masks": Promise(
        "What is read",
        "A stored mask that is damaged is told and left out, by drawing, queries (exit 3) and exports; with `--strict` it is an error",
        "2026-11-28",
    ),
    "schema-1": Promise(
        "What is read",
        "A store of schema 1 answers as it did without being touched; a run on it goes on in schema 2, and neither merging nor archiving changes an answer",
        "2026-11-28",
    ),
    "masks-as-coco": Promise(
        "What is read",
        "What is stored as a mask is read as COCO reads it or refused, however hostile it is",
        "2026-11-28",
    ),
    "follow-once": Promise(
        "Stopping",
        "Who follows a store hears of each caption once and misses none, over merges, archives, restarts and `kill -9` of writer and reader; what retention deleted first is told",
        "2026-11-28",
    ),
    "outputs-regular": Promise(
        "Outputs",
        "An output replaces nothing but a regular file: devices, FIFOs and sockets are written to as what they are, a link's target is replaced and the link stays, modes and (for root) owners stay; disks and folders are refused",
        "2026-11-28",
    ),
    "outputs-elsewhere": Promise(
        "Outputs",
        "An output is neither the input nor inside the store",
        "2026-11-28",
    ),
    "stops-in-order": Promise(
        "Stopping",
        'Ctrl-C, SIGTERM (`kill`, `docker stop`) and SIGHUP end a run in order, on Ray too: "Stopped", last rows durable, no process left',
        "2026-11-28",
    ),
    "no-reader": Promise(
        "Stopping",
        "A run goes on when nobody reads what it says (`sca run CAM \\| head -1`)",
        "2026-11-28",
    ),
    "standard-output": Promise(
        "Outputs",
        "`-` and `/dev/stdout` stream, behind what a redirected file already holds",
        "2026-11-28",
    ),
    "tokenizer-code": Promise(
        "What is read",
        "A tokenizer that brings code is refused, and nobody is asked",
        "2026-11-28",
    ),
    "yaml-bounds": Promise(
        "What is read",
        "YAML is at most 256 KiB, 40 levels and 100,000 values with its aliases written out, and no key stands in one mapping twice; what is no regular file is not waited for",
        "2026-11-28",
    ),
    "list-files": Promise(
        "Secrets",
        "`${file:PATH}` of a stream list fills in only user, password or a query's value, from below the list's folder or `/run/secrets`",
        "2026-11-28",
    ),
    "password-file": Promise(
        "Secrets",
        "A password file is regular and at most 4 KiB",
        "2026-11-28",
    ),
    "pull": Promise(
        "What is read",
        "A pull that was killed goes on by Range; a file whose bytes are not those of its digest is not kept; nothing is written outside the model's folder",
        "2026-11-28",
    ),
    "shards-beside": Promise(
        "What is read",
        "An index of shards names files beside it only",
        "2026-11-28",
    ),
    "hostile-text": Promise(
        "Shown text",
        "Captions, names and messages that hold escape sequences, bidirectional marks or markup are shown in terminals and logs (`\\x1b[2J`), and change nothing there",
        "2026-11-28",
    ),
    "json-csv": Promise(
        "Shown text",
        "JSON is exact, and harmless where it is shown; a CSV cell that begins as a formula does begins with an apostrophe",
        "2026-11-28",
    ),
    "http-bounds": Promise(
        "Ports, folders and the death of Ray",
        "`/metrics` and `/healthz`: at most 16 connections, each for 10 s at most, half requests keep nobody out, and nothing that a stranger sends makes an error of ours or a line on the terminal; on loopback unless asked for, IPv6 too",
        "2026-11-28",
    ),
    "ray-own": Promise(
        "Ports, folders and the death of Ray",
        "A Ray of our own listens on loopback only, keeps its files in a folder of mode 0700 below the user's state directory, with a token of its own (0600), and takes it away; what killed runs left goes at the next start",
        "2026-11-28",
    ),
    "ray-death": Promise(
        "Ports, folders and the death of Ray",
        "The death of Ray itself (raylet or GCS) is told in one line within 30 s, and `/healthz` says 503 until it is healed: a run goes on with a new Ray of its own behind what is committed, or, where `restarts` or the cluster of somebody else do not allow that, ends with exit code 1; every committed row stays",
        "2026-11-28",
    ),
    "home-tmpdir": Promise(
        "Ports, folders and the death of Ray",
        "A run needs no home directory that can be written, and no short TMPDIR",
        "2026-11-28",
    ),
    "redirects": Promise(
        "Secrets",
        "A password goes to no host but the one it was given for: an RTSP redirect elsewhere is refused and told, one within the host followed four times at most; where an HTTP redirect or a playlist leads, nobody else is told it",
        "2026-11-28",
    ),
    "sent-once": Promise(
        "Secrets",
        "A password that was never accepted is sent once; one that was accepted before is tried again after 5, 15, 60 minutes",
        "2026-11-28",
    ),
    "steady-gaps": Promise(
        "Time",
        "Gaps are as long as the steady clock says: a wall clock that is set makes none",
        "2026-11-28",
    ),
    "list-variables": Promise(
        "Secrets",
        "`${NAME}` of a stream list fills in only variables that are for cameras by their name, or that `SCA_LIST_VARIABLES` names",
        "2026-11-28",
    ),
    "seven-of-eight": Promise(
        "Secrets",
        "Seven of eight new cameras are down: the eighth is watched, status says of each that it is not up, and they join when they answer; a password that is refused is not sent again",
        "2026-11-28",
    ),
    "pickles": Promise(
        "What is read",
        "RefCOCO's pickles are read without running anything they name",
        "2026-11-28",
    ),
    "segments-bounded": Promise(
        "What is read",
        "A segment from anywhere is read, is a gap, or is one error: its sizes are held against what is written, archives in it are not unpacked; within 10 s and 1 GiB, fuzzed",
        "2026-11-28",
    ),
    "checkpoints-bounded": Promise(
        "What is read",
        "A checkpoint folder from anywhere loads or is refused in one line that names the file: nothing in it is run, waited for or unpacked; fuzzed",
        "2026-11-28",
    ),
    "playlists-bounded": Promise(
        "What is read",
        "A playlist reads nothing but films, and playlists that name each other are not followed: within 10 s and 1 GiB, from a disk and from the web; fuzzed",
        "2026-11-28",
    ),
    "pictures-bounded": Promise(
        "What is read",
        "A picture that unpacks to more than 134 megapixels, or whose head lies, is refused before it is decoded, moving pictures of more than 36 (of films and cameras before one is decoded) and files of more than 10,000 pages are too; of a picture to look for, the first frame is taken and that is told; fuzzed under every ending",
        "2026-11-28",
    ),
    "archives-bounded": Promise(
        "What is read",
        "Damage to a day archive is named, and never read as zeros; whatever stands in place of its files, FIFOs and devices included, answers come within 10 s and 1 GiB; fuzzed",
        "2026-11-28",
    ),
    "beside-the-video": Promise(
        "What is read",
        "What lies beside a video is never run, by no process of a run",
        "2026-11-28",
    ),
    "settings-table": Promise(
        "Mistakes",
        "Every setting with every odd value, any stream list, any address, any typed time: taken, or refused in one line that names it; fuzzed",
        "2026-11-28",
    ),
    "before-loading": Promise(
        "Mistakes",
        "A mistake is one line and exit code 2, before a model loads",
        "2026-11-28",
    ),
    "machine-refuses": Promise(
        "Mistakes",
        "What the machine refuses (a full disk, a permission, a name that is too long, too many open files) is one line with the remedy and exit code 2",
        "2026-11-28",
    ),
    "ray-cannot": Promise(
        "Mistakes",
        "A cluster that does not answer, and a Ray that cannot start as it is set, are told within seconds",
        "2026-11-28",
    ),
    "no-password": Promise(
        "Secrets",
        "No password of an address gets into store, logs, metrics, titles of processes or output",
        "2026-11-28",
    ),
    "any-password": Promise(
        "Secrets",
        "Of no password in any part of an address does more than a harmless word survive (property over passwords)",
        "2026-11-28",
    ),
    "store-removed": Promise(
        "Stopping",
        "A store that is removed, moved or replaced while a run writes to it is told as that, ends the run, and is neither made anew nor mixed with what stands in its place",
        "2026-11-28",
    ),
    "kill": Promise(
        "Stopping",
        "`kill -9` at any moment loses no committed row and repeats none",
        "2026-11-28",
    ),
    "full-disk": Promise(
        "Stopping",
        "A full disk ends a run of films with the remedy, and a camera goes on when there is room again",
        "2026-11-28",
    ),
    "damaged-counted": Promise(
        "Time",
        "Each picture that is lost is counted: damaged ones, and those whose time stamps stand still or go back",
        "2026-11-28",
    ),
    "broadcast-once": Promise(
        "Time",
        "Nothing of a broadcast in segments (HLS, DASH) is shown twice when it is connected to again, a playlist that nobody continues is an outage, and a pause is told wherever segments are late, lost or leap",
        "2026-11-29",
    ),
    "order-of-rows": Promise(
        "Time",
        "No disturbance of clocks and time stamps reorders rows",
        "2026-11-28",
    ),
    "bare-machine": Promise(
        "Ports, folders and the death of Ray",
        "Works as a user without rights, with a home that cannot be written, 16 MiB of /dev/shm, 256 open files, a TMPDIR of 150 characters, no "
        "network but loopback, and no locale",
        "2026-11-28",
    ),
}


def promised(folder: Path = ROOT / "tests") -> dict[str, list[str]]:
    """The tests of each promise, by their names in pytest; read from the sources, so nothing of them is imported."""
    found: dict[str, list[str]] = defaultdict(list)
    for file in sorted(folder.rglob("*.py")):
        where = file.relative_to(folder.parent).as_posix()
        for path, name in _marks(ast.parse(file.read_text(encoding="utf-8")).body):
            found[name].append("::".join([where, *path]))
    return dict(found)


def _marks(body: Sequence[ast.stmt], path: tuple[str, ...] = ()) -> Iterator[tuple[tuple[str, ...], str]]:
    """Where a promise is named: the class and the function, none for the whole file."""
    for statement in body:
        if isinstance(statement, ast.Assign) and ast.unparse(statement.targets[0]) == "pytestmark":
            yield from ((path, name) for name in _named(statement.value))
        elif isinstance(statement, ast.FunctionDef | ast.ClassDef):
            inside = (*path, statement.name)
            for decorator in statement.decorator_list:
                yield from ((inside, name) for name in _named(decorator))
            if isinstance(statement, ast.ClassDef):
                yield from _marks(statement.body, inside)


def _named(expression: ast.expr) -> Iterator[str]:
    for part in ast.walk(expression):
        if isinstance(part, ast.Call) and ast.unparse(part.func) == "pytest.mark.promise":
            yield from (str(ast.literal_eval(argument)) for argument in part.args)


def page(tests: Mapping[str, Sequence[str]]) -> str:
    """`docs/promises.md`."""
    lines = [
        "# Promises",
        "",
        "What the program promises about what it reads, writes and serves, and the tests that hold it. Written by",
        "`python -m tests.promises` from the tests' marks; the suite checks that it is up to date.",
    ]
    for topic in dict.fromkeys(promise.topic for promise in PROMISES.values()):
        lines += ["", f"## {topic}", "", "| promise | test | since |", "|---|---|---|"]
        for name, promise in PROMISES.items():
            if promise.topic == topic:
                shown = ", ".join(f"`{test}`" for test in tests.get(name, ()))
                lines.append(f"| {promise.text} | {shown} | {promise.since} |")
    lines += [
        "",
        "## What once went wrong",
        "",
        "Each kind has a test that fails were it back.",
        "",
        *table(),
    ]
    return "\n".join(lines) + "\n"


if __name__ == "__main__":
    PAGE.write_text(page(promised()), encoding="utf-8")
