"""A manifest of DASH: which pieces of which addresses are the film, in which order. Pure; whatever it says may be hostile."""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import dataclass
from fractions import Fraction
from urllib.parse import urljoin, urlsplit
from xml.etree import ElementTree as ET

from dateutil.parser import isoparse

from pipeline.core.clock import NS, to_ns

_DURATION = re.compile(r"P(?:(\d+)Y)?(?:(\d+)M)?(?:(\d+)D)?(?:T(?:(\d+)H)?(?:(\d+)M)?(?:(\d+(?:\.\d+)?)S)?)?")
_DAY_S = 86_400
_DURATION_PARTS_S = (365 * _DAY_S, 30 * _DAY_S, _DAY_S, 3600, 60, 1)
_NAME = re.compile(r"\$(?:(RepresentationID|Number|Bandwidth|Time)(?:%0(\d{1,2})d)?)?\$")
_BYTES = re.compile(r"(\d+)-(\d+)")
# Sets of pictures for the scrub bar of a player.
_TRICKS = ("trickmode", "thumbnail", "crop")


class BadManifest(ValueError):
    """The manifest cannot be read as a film; the text says why and what to do, without an address."""


@dataclass(frozen=True, slots=True)
class Piece:
    """What is fetched in one go: an address, or its bytes from `first` to `last`, both included."""

    url: str
    first: int = 0
    last: int | None = None


@dataclass(frozen=True, slots=True)
class Segment:
    """A part of the film. `begins_s`: on the clock of its period; `lasts_s`: seconds."""

    piece: Piece
    begins_s: Fraction
    lasts_s: Fraction


@dataclass(frozen=True, slots=True)
class _Run:
    """`count` segments in a row, None where no end is known; `begins`, `lasts`: ticks; `number`: of the first one."""

    begins: int
    lasts: int
    count: int | None
    number: int


class DashVideo:
    """The best video of a manifest. `period`: its name; `duration_s`: of the film, where told.

    `live`: it goes on; `refresh_s`: how often the manifest changes then. `whole`: the film is one file, and there are
    no segments. `init`: what goes before the first one. `listed`: every segment that is named is there already; else they
    come by the clock.
    """

    def __init__(
        self, root: ET.Element, period: ET.Element, adaptation: ET.Element, chosen: ET.Element, url: str
    ) -> None:
        self.live = root.get("type") == "dynamic"
        self.duration_s = _seconds(root.get("mediaPresentationDuration")) or _seconds(period.get("duration"))
        self.refresh_s = _seconds(root.get("minimumUpdatePeriod"))
        self._depth_s = _seconds(root.get("timeShiftBufferDepth"))
        self._start_s = _seconds(period.get("start")) or Fraction(0)
        self.period = period.get("id") or str(self._start_s)
        begun = root.get("availabilityStartTime")
        self._epoch_s = Fraction(to_ns(isoparse(begun)), NS) if begun else Fraction(0)
        self._chosen = chosen
        base = url
        for level in (root, period, adaptation, chosen):
            found = _child(level, "BaseURL")
            base = _joined(base, (found.text or "").strip()) if found is not None else base
        self._base = base
        levels = (chosen, adaptation, period)
        template = _merged(levels, "SegmentTemplate")
        pieces = _merged(levels, "SegmentList")
        said = template or pieces
        self.whole = None if said is not None else Piece(base)
        self.init: Piece | None = None
        self._media: str | None = None
        self._pieces: list[Piece] = []
        self._runs: list[_Run] = []
        self.listed = True
        if said is None:
            return
        self._timescale = _whole_number(said, "timescale", 1, least=1)
        self._early_s = _early(said)
        if template is not None:
            self._media = template.attributes.get("media")
            if self._media is None:
                raise BadManifest("its SegmentTemplate names no media")
            start = template.attributes.get("initialization")
            if start is not None:
                self.init = Piece(self._url(start, None))
        else:
            self._pieces = [
                _piece(base, one.get("media"), one.get("mediaRange")) for one in said.of("SegmentURL")
            ]
        if self.init is None and (start_at := said.one("Initialization")) is not None:
            self.init = _piece(base, start_at.get("sourceURL"), start_at.get("range"))
        self._runs = self._all_runs(said, period)

    def next(self, after_s: Fraction | None, now_s: Fraction) -> Segment | None:
        """The segment to be read behind the one that begins at `after_s`; None where it is not there yet, or never.

        `now_s`: seconds since 1970, for what comes by the clock. The first one of a stream that goes on is the last but
        one that is there: behind the newest nothing is in store. What has left the server is passed over.
        """
        latest = self._latest(now_s) if self.live else None
        found: tuple[int, int] | None
        if after_s is None and latest is not None:
            found = self._before(latest) or latest
        elif after_s is None:
            found = (0, 0) if self._runs else None
        else:
            found = self._after(after_s)
            if latest is not None and found is not None and self._depth_s and not self.listed:
                oldest = self._begins(*latest) - int(self._depth_s * self._timescale)
                if self._begins(*found) < oldest:
                    found = self._after(Fraction(oldest - 1, self._timescale))
        if found is None or (self.live and (latest is None or found > latest)):
            return None
        return self._segment(*found)

    def segments(self) -> Iterator[Segment]:
        """All of a film that is finished."""
        for place, run in enumerate(self._runs):
            number = 0
            while run.count is None or number < run.count:
                yield self._segment(place, number)
                number += 1

    def comes_at(self, after_s: Fraction) -> Fraction | None:
        """Seconds since 1970 at which the next segment will be there; None where only a new manifest says."""
        found = None if self.listed else self._after(after_s)
        if found is None:
            return None
        run, number = self._runs[found[0]], found[1]
        ends = run.begins + (number + 1) * run.lasts
        return self._epoch_s + self._start_s + Fraction(ends, self._timescale) - self._early_s

    def _all_runs(self, said: _Said, period: ET.Element) -> list[_Run]:
        number = _whole_number(said, "startNumber", 1)
        length_s = _seconds(period.get("duration")) or (
            self.duration_s - self._start_s if self.duration_s is not None else None
        )
        line = said.one("SegmentTimeline")
        if line is None:
            lasts = _whole_number(said, "duration", 0, least=0)
            if not lasts:
                if self._pieces:
                    return [_Run(0, 1, len(self._pieces), number)]
                raise BadManifest("its segments have neither a duration nor a timeline")
            count = None if length_s is None else max(1, -int(-length_s * self._timescale // lasts))
            if self._pieces:
                return [_Run(0, lasts, len(self._pieces), number)]
            self.listed = False
            return [_Run(0, lasts, count, number)]
        runs: list[_Run] = []
        at = 0
        steps = [one for one in line if _tag(one) == "S"]
        for place, step in enumerate(steps):
            at = int(step.get("t", at))
            lasts, more = int(step.get("d", 0)), int(step.get("r", 0))
            if lasts <= 0:
                raise BadManifest("a segment of its timeline has no length")
            if more < 0:
                until = int(steps[place + 1].get("t", at)) if place + 1 < len(steps) else None
                if until is None and length_s is not None:
                    offset = _whole_number(said, "presentationTimeOffset", 0)
                    until = int(length_s * self._timescale) + offset
                if until is None:
                    raise BadManifest("its timeline repeats a segment without an end")
                more = max(0, -((at - until) // lasts) - 1)
            runs.append(_Run(at, lasts, more + 1, number))
            number += more + 1
            at += (more + 1) * lasts
        return runs

    def _begins(self, place: int, number: int) -> int:
        return self._runs[place].begins + number * self._runs[place].lasts

    def _segment(self, place: int, number: int) -> Segment:
        run = self._runs[place]
        begins = self._begins(place, number)
        if self._media is None:
            index = run.number + number - self._runs[0].number
            if index >= len(self._pieces):
                raise BadManifest("its timeline has more segments than it names")
            piece = self._pieces[index]
        else:
            piece = Piece(self._url(self._media, (run.number + number, begins)))
        return Segment(piece, Fraction(begins, self._timescale), Fraction(run.lasts, self._timescale))

    def _after(self, after_s: Fraction) -> tuple[int, int] | None:
        after = after_s * self._timescale
        for place, run in enumerate(self._runs):
            number = 0 if after < run.begins else int((after - run.begins) // run.lasts) + 1
            if run.count is None or number < run.count:
                return place, number
        return None

    def _latest(self, now_s: Fraction) -> tuple[int, int] | None:
        if not self._runs:
            return None
        place, run = len(self._runs) - 1, self._runs[-1]
        if self.listed:
            assert run.count is not None
            return place, run.count - 1
        now = (now_s - self._epoch_s - self._start_s + self._early_s) * self._timescale
        number = int((now - run.begins) // run.lasts) - 1
        number = number if run.count is None else min(number, run.count - 1)
        return (place, number) if number >= 0 else None

    def _before(self, at: tuple[int, int]) -> tuple[int, int] | None:
        place, number = at
        if number:
            return place, number - 1
        return (place - 1, (self._runs[place - 1].count or 1) - 1) if place else None

    def _url(self, template: str, of: tuple[int, int] | None) -> str:
        """`template` filled in. `of`: number and time of the segment."""

        def value(match: re.Match[str]) -> str:
            name, width = match[1], int(match[2] or 0)
            if name is None:
                return "$"
            if name == "RepresentationID":
                return self._chosen.get("id", "")
            if name == "Bandwidth":
                return str(int(self._chosen.get("bandwidth", 0))).zfill(width)
            if of is None:
                raise BadManifest("its beginning is named by the number of a segment")
            return str(of[0] if name == "Number" else of[1]).zfill(width)

        return _joined(self._base, _NAME.sub(value, template))


def read_manifest(content: bytes, url: str, now_s: Fraction) -> DashVideo:
    """The video of the manifest `content` that came from `url`. Raises `BadManifest`.

    Of several periods of a stream that goes on, the last that has begun by `now_s` (seconds since 1970). Of several
    videos the largest, as of the tracks of a file.
    """
    try:
        text = content.decode("utf-8-sig")
        # Where nothing can be declared, no entity can grow, and none can name a file.
        if "<!DOCTYPE" in text or "<!ENTITY" in text:
            raise BadManifest("it declares entities, which no manifest needs")
        root = ET.fromstring(text)
        if _tag(root) != "MPD":
            raise BadManifest("it is no manifest of DASH")
        return _chosen(root, url, now_s)
    except BadManifest:
        raise
    except (ET.ParseError, ValueError, ArithmeticError, OverflowError, RecursionError):
        raise BadManifest("it cannot be read; is it whole?") from None


def _chosen(root: ET.Element, url: str, now_s: Fraction) -> DashVideo:
    periods = [one for one in root if _tag(one) == "Period"]
    if not periods:
        raise BadManifest("there is nothing in it yet")
    if root.get("type") == "dynamic":
        begun = root.get("availabilityStartTime")
        since = now_s - (Fraction(to_ns(isoparse(begun)), NS) if begun else 0)
        ready = [one for one in periods if (_seconds(one.get("start")) or 0) <= since]
        period = (ready or periods)[-1]
    elif len(periods) > 1:
        raise BadManifest(
            f"it is made of {len(periods)} periods, as where advertisements are put in; give the address of the film itself, "
            "or of the same film as HLS (.m3u8)"
        )
    else:
        (period,) = periods
    found = [
        (adaptation, one)
        for adaptation in period
        if _tag(adaptation) == "AdaptationSet" and not _is_trick(adaptation)
        for one in adaptation
        if _tag(one) == "Representation" and _is_video(adaptation, one)
    ]
    if not found:
        raise BadManifest("there is no video in it")
    open_ones = [pair for pair in found if all(_child(one, "ContentProtection") is None for one in pair)]
    if not open_ones:
        raise BadManifest("its video is encrypted, and only a player with its licence can show it")

    def area(pair: tuple[ET.Element, ET.Element]) -> tuple[int, int]:
        width, height = (int(pair[1].get(name) or pair[0].get(name) or 0) for name in ("width", "height"))
        return width * height, int(pair[1].get("bandwidth", 0))

    return DashVideo(root, period, *max(open_ones, key=area), url)


@dataclass(frozen=True, slots=True)
class _Said:
    """What is said of segments, at all levels: the innermost wins."""

    attributes: dict[str, str]
    elements: list[ET.Element]

    def of(self, name: str) -> list[ET.Element]:
        return next(
            (found for level in self.elements if (found := [one for one in level if _tag(one) == name])), []
        )

    def one(self, name: str) -> ET.Element | None:
        return next(iter(self.of(name)), None)


def _merged(levels: tuple[ET.Element, ...], name: str) -> _Said | None:
    elements = [found for level in levels if (found := _child(level, name)) is not None]
    attributes = {key: value for element in reversed(elements) for key, value in element.attrib.items()}
    return _Said(attributes, elements) if elements else None


def _tag(element: ET.Element) -> str:
    return element.tag.rpartition("}")[2] if isinstance(element.tag, str) else ""


def _child(element: ET.Element, name: str) -> ET.Element | None:
    return next((one for one in element if _tag(one) == name), None)


def _is_video(adaptation: ET.Element, representation: ET.Element) -> bool:
    said = [
        one.get(name) or ""
        for one in (representation, adaptation)
        for name in ("mimeType", "contentType", "codecs")
    ]
    if any(text.startswith("video") for text in said):
        return True
    other = any(text.startswith(("audio", "text", "image", "application")) for text in said)
    return not other and bool(representation.get("width") or adaptation.get("width"))


def _is_trick(adaptation: ET.Element) -> bool:
    return any(
        word in (one.get("schemeIdUri") or "")
        for one in adaptation
        if _tag(one) == "EssentialProperty"
        for word in _TRICKS
    )


def _whole_number(said: _Said, name: str, otherwise: int, least: int = 0) -> int:
    value = int(said.attributes.get(name, otherwise))
    if value < least:
        raise BadManifest(f"its {name} is {value}")
    return value


def _early(said: _Said) -> Fraction:
    text = said.attributes.get("availabilityTimeOffset", "0")
    return Fraction(0) if text == "INF" else Fraction(float(text))


def _seconds(text: str | None) -> Fraction | None:
    if text is None:
        return None
    match = _DURATION.fullmatch(text.strip())
    if match is None:
        raise BadManifest("one of its durations cannot be read")
    return sum(
        (Fraction(part) * unit for part, unit in zip(match.groups(), _DURATION_PARTS_S, strict=True) if part),
        Fraction(0),
    )


def _joined(base: str, reference: str) -> str:
    url = urljoin(base, reference)
    if urlsplit(url).scheme not in ("http", "https"):
        raise BadManifest("it names pieces that lie at no web address")
    return url


def _piece(base: str, reference: str | None, part: str | None) -> Piece:
    url = base if reference is None else _joined(base, reference)
    if part is None:
        return Piece(url)
    match = _BYTES.fullmatch(part.strip())
    if match is None:
        raise BadManifest("a range of bytes in it cannot be read")
    return Piece(url, int(match[1]), int(match[2]))
