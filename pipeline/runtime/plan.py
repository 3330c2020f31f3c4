"""What a run is going to do, checked before anything heavy starts."""

from __future__ import annotations

import logging
import os
import threading
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import partial
from pathlib import Path

from pipeline.captioning.gate import FIRST_BUDGET
from pipeline.core.clock import iso_text
from pipeline.core.errors import SourceAway, SourceRefused, UserError
from pipeline.core.frame import ClockSource
from pipeline.core.records import ResumePoint
from pipeline.core.stream_names import alike
from pipeline.settings.config import RunConfig
from pipeline.settings.stream_list import StreamRequest
from pipeline.sources import DecodedFrame, Source, SourceInfo, SourceKind, find_inputs, open_source
from pipeline.sources.identity import address_fingerprint, goes_on, same_content, stream_names
from pipeline.sources.standing import STANDS_NS, StandingPictures
from pipeline.store import CaptionStore, StreamInfo, check_stream_id
from pipeline.store.durable_files import refusal
from pipeline.store.place import place_of
from pipeline.store.segment_name import AHEAD_NS

log = logging.getLogger(__name__)

_POLL_S = 0.2


@dataclass(frozen=True, slots=True)
class StreamPlan:
    """One stream of a run. `uri` may hold credentials: never print or store it; `source.address` is safe.

    `config`: its own settings. `start_ns`: wall clock of PTS 0, for files. `resume`: what the store holds already.
    `complete`: nothing is left.
    """

    uri: str = field(repr=False)
    config: RunConfig
    start_ns: int | None
    source: SourceInfo
    info: StreamInfo
    resume: ResumePoint
    complete: bool = False

    @property
    def stream(self) -> str:
        return self.source.stream


@dataclass(frozen=True, slots=True)
class AwayStream:
    """A new camera that did not let us in when the run was planned. `uri` may hold credentials; `why` does not."""

    uri: str = field(repr=False)
    stream: str
    config: RunConfig
    store: Path | str
    why: SourceAway

    def meet(self) -> StreamPlan:
        """Ask once more, for as long as that may take. Raises `SourceAway`, and `UserError` for what is wrong with it."""
        return _plan_stream(self.uri, self.stream, self.config, self.store, None, None)


@dataclass(frozen=True, slots=True)
class RunPlan:
    """Streams to read into one store. `config`: the run's settings; each stream has its own beside them.

    `away`: cameras that join when they answer.
    """

    store: Path | str
    streams: tuple[StreamPlan, ...]
    config: RunConfig
    away: tuple[AwayStream, ...] = ()


def plan_run(
    inputs: Sequence[str] | Sequence[StreamRequest],
    config: RunConfig,
    *,
    store: Path | str | None = None,
    start_ns: int | None = None,
    name: str | None = None,
) -> RunPlan:
    """Open every input once, find out what is stored already, and decide where to go on.

    `inputs`: addresses that share `config`, or requests with settings of their own. `store`: by default the input's
    name with `.zarr` in the current directory. `name`: of the stream, for a single input. One of several new cameras that
    does not answer keeps no other from being watched (on Ray; inline, its turn would not come). Raises `UserError` for
    inputs that cannot be read, a store that cannot be written, two inputs of one name, and another video under a
    known name.
    """
    requests = _requests(inputs, config, name)
    names = stream_names([request.uri for request in requests], [request.name for request in requests])
    for stream in names:
        check_stream_id(stream)
    path = store or Path(f"{names[0] if len(names) == 1 else 'captions'}.zarr")
    known: dict[str, StreamInfo] = {}
    if _is_there(path):
        known = CaptionStore.open(path).streams()
        if isinstance(path, Path):
            check_writable(path)
    for stream in names:
        check_not_alike(stream, known, path)
    streams: list[StreamPlan] = []
    away: list[AwayStream] = []
    refused: list[str] = []
    met = _meet_at_once(
        [
            partial(_plan_stream, request.uri, stream, request.config, path, known.get(stream), start_ns)
            for request, stream in zip(requests, names, strict=True)
        ],
        [len(requests) > 1 and "://" in request.uri for request in requests],
    )
    for request, stream, outcome in zip(requests, names, met, strict=True):
        try:
            streams.append(outcome())
        except SourceAway as error:
            if config.runtime.kind == "inline" or len(requests) == 1:
                raise
            away.append(AwayStream(request.uri, stream, request.config, path, error))
        except SourceRefused as error:
            # Whoever names a folder asks for what can be read in it; whoever names a file wants that one.
            if request.searched is None:
                raise
            refused.append(str(error))
            log.warning("left out: %s", error)
    if not streams and away:
        raise UserError("; ".join(str(one.why) for one in away))
    if not streams:
        raise SourceRefused(f"nothing of what was found can be read: {refused[0]}")
    for one in away:
        what = (
            "the others are watched, and it joins when it answers"
            if one.why.again
            else "the others are watched"
        )
        log.warning("%s: %s; %s", one.stream, one.why, what)
    CaptionStore.create(path)
    return RunPlan(path, tuple(streams), config, tuple(away))


def _meet_at_once(
    calls: Sequence[Callable[[], StreamPlan]], far: Sequence[bool]
) -> list[Callable[[], StreamPlan]]:
    """`calls`, of which those `far` away have been made already, all at once, since each may wait for its deadline."""
    outcomes: dict[int, StreamPlan | Exception] = {}

    def make(number: int) -> None:
        try:
            outcomes[number] = calls[number]()
        except Exception as error:
            outcomes[number] = error

    threads = [
        threading.Thread(target=make, args=(number,), name=f"meet-{number}", daemon=True)
        for number, is_far in enumerate(far)
        if is_far
    ]
    for thread in threads:
        thread.start()
    for thread in threads:
        while thread.is_alive():  # in slices, so that an interrupt gets through
            thread.join(_POLL_S)

    def told(number: int) -> StreamPlan:
        outcome = outcomes[number]
        if isinstance(outcome, Exception):
            raise outcome
        return outcome

    return [
        partial(told, number) if is_far else call
        for number, (call, is_far) in enumerate(zip(calls, far, strict=True))
    ]


def _requests(
    inputs: Sequence[str] | Sequence[StreamRequest], config: RunConfig, name: str | None
) -> list[StreamRequest]:
    requests: list[StreamRequest] = []
    for given in inputs:
        if isinstance(given, StreamRequest):
            requests.append(given)
        else:
            requests += [StreamRequest(one.uri, config, None, one.searched) for one in find_inputs([given])]
    if not requests:
        raise UserError(
            "no input; give a video file, a directory of images, a stream address or a camera number"
        )
    if name is None:
        return requests
    if len(requests) > 1:
        raise UserError(
            f"--name {name}: it names one stream, but there are {len(requests)} inputs; leave it out"
        )
    return [replace(requests[0], name=name)]


def _is_there(store: Path | str) -> bool:
    """Whether a store lies there already. Raises `StoreRefused` for an address that leads nowhere."""
    place = place_of(store)
    try:
        return place.exists("zarr.json")
    except OSError as error:
        raise refusal(error, place.where, "open") from error


def check_writable(store: Path) -> None:
    """Raise `UserError` when nothing can be written to a store that is there: on a medium that is read only, or somebody else's."""
    for folder in (store, store / "streams"):
        if folder.is_dir() and not os.access(folder, os.W_OK | os.X_OK):
            read_only = bool(os.statvfs(folder).f_flag & os.ST_RDONLY)
            why = "the file system is read-only" if read_only else "no permission"
            raise UserError(f"cannot write to {store}: {why}; choose another place with --store")


def check_not_alike(stream: str, known: Mapping[str, StreamInfo], store: Path | str) -> None:
    """Raise `UserError` when `stream` is new and `store` has one that some file systems take for the same name."""
    if stream in known:
        return
    for other in known:
        if alike(stream, other):
            raise UserError(
                f"{store}: it has a stream {other!r} already, which some file systems take for {stream!r}; choose "
                "another name with --name, or another store with --store"
            )


def check_same_stream(
    stream: str, store: Path | str, known: StreamInfo, now: SourceInfo, start_ns: int | None
) -> None:
    """Raise `UserError` unless `now` is what the store holds as `stream`, grown perhaps, with the same clock."""
    if known.fingerprint and not goes_on(known.fingerprint, now):
        raise UserError(
            f"{store}: its stream {stream!r} is another video ({known.uri}); "
            f"write {now.address} to another store with --store, or under another name with --name"
        )
    if start_ns is not None and start_ns != known.start_wall_ns:
        raise UserError(
            f"{store}: stream {stream!r} was begun with another start time; leave --start out to go on with it, "
            "or write to another store with --store"
        )


def _plan_stream(
    uri: str,
    stream: str,
    config: RunConfig,
    store: Path | str,
    known: StreamInfo | None,
    start_ns: int | None,
) -> StreamPlan:
    # A camera that was recorded before need not answer now: the run waits for it.
    seen = None if known is None else _seen_before(uri, stream, known)
    source = open_source(uri, stream=stream, start_ns=start_ns, options=config.sources, known=seen)
    if _are_photos(source.info):
        config = _each_by_itself(config)
    try:
        resume = ResumePoint()
        if known is not None:
            check_same_stream(stream, store, known, source.info, start_ns)
            resume = CaptionStore.open(store).resume(stream)
            if not source.info.live:
                start_ns = known.start_wall_ns
        elif not source.info.live:
            start_ns = source.info.start_wall_ns
        if start_ns is not None and not source.info.live:
            check_not_ahead(source.info, start_ns, time.time_ns())
        complete = resume.pts_ns >= 0 and not source.info.live and not _anything_left(source, resume)
        return StreamPlan(
            uri, config, start_ns, source.info, _stream_info(source.info, config, start_ns), resume, complete
        )
    finally:
        source.close()


def check_not_ahead(film: SourceInfo, start_ns: int, now_ns: int) -> None:
    """Raise `UserError` when a film would end later than any store keeps rows: more than a day ahead of `now_ns`."""
    end_ns = start_ns + (film.duration_ns or 0)
    if end_ns > now_ns + AHEAD_NS:
        raise UserError(
            f"{film.address}: begun at {iso_text(start_ns)} it would end more than a day ahead of this machine's clock; say with "
            "--start when it was taken, or set the clock"
        )


def _are_photos(source: SourceInfo) -> bool:
    """Whether it is a folder of pictures that stand, rather than the pictures of a film as files."""
    length_ns = source.duration_ns or 0
    return source.kind is SourceKind.IMAGES and length_ns >= STANDS_NS * (source.frames or 1)


def _each_by_itself(config: RunConfig) -> RunConfig:
    """The settings with which every photo gets its regions and captions, like the one before or not.

    There may be no second sight of what is in it, and none of its captions can wait for the next picture.
    """
    captions = {"max_per_keyframe": max(FIRST_BUDGET, config.captions.max_per_keyframe)}
    return config.model_copy(
        update={
            "tracking": config.tracking.model_copy(update={"confirm_hits": 1}),
            "captions": config.captions.model_copy(update=captions),
        }
    )


def _seen_before(uri: str, stream: str, known: StreamInfo) -> SourceInfo | None:
    """What the store tells of a network stream; None for anything else and for another stream."""
    if "://" not in uri or not same_content(known.fingerprint, address_fingerprint(uri)):
        return None
    return SourceInfo(
        stream=stream,
        address=known.uri,
        kind=SourceKind.LIVE,
        width=known.width,
        height=known.height,
        start_wall_ns=known.start_wall_ns,
        fingerprint=known.fingerprint,
        nominal_fps=known.fps or None,
    )


def _anything_left(source: Source, resume: ResumePoint) -> bool:
    left = StandingPictures(source)
    left.resume_after(resume)
    return any(isinstance(item, DecodedFrame) for item in left)


def _stream_info(source: SourceInfo, config: RunConfig, start_ns: int | None) -> StreamInfo:
    return StreamInfo(
        uri=source.address,
        clock=ClockSource.ARRIVAL if source.live else ClockSource.FILE,
        start_wall_ns=source.start_wall_ns if start_ns is None else start_ns,
        width=source.width,
        height=source.height,
        fps=source.nominal_fps or 0.0,
        pixel_aspect=source.pixel_aspect,
        model=config.model,
        fingerprint=source.fingerprint,
    )
