"""What a run is going to do, checked before anything heavy starts."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path

from pipeline.core.errors import UserError
from pipeline.core.frame import ClockSource
from pipeline.core.records import ResumePoint
from pipeline.settings.config import RunConfig
from pipeline.settings.stream_list import StreamRequest
from pipeline.sources import DecodedFrame, Source, SourceInfo, SourceKind, expand_inputs, open_source
from pipeline.sources.identity import address_fingerprint, same_content, stream_name
from pipeline.store import CaptionStore, StreamInfo


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
class RunPlan:
    """Streams to read into one store. `config`: the run's settings; each stream has its own beside them."""

    store: Path
    streams: tuple[StreamPlan, ...]
    config: RunConfig


def plan_run(
    inputs: Sequence[str] | Sequence[StreamRequest],
    config: RunConfig,
    *,
    store: Path | None = None,
    start_ns: int | None = None,
    name: str | None = None,
) -> RunPlan:
    """Open every input once, find out what is stored already, and decide where to go on.

    `inputs`: addresses that share `config`, or requests with settings of their own. `store`: by default the input's
    name with `.zarr` in the current directory. `name`: of the stream, for a single input. Raises `UserError` for
    inputs that cannot be read, a store that cannot be written, two inputs of one name, and another video under a
    known name.
    """
    requests = _requests(inputs, config, name)
    names = [request.name or stream_name(request.uri) for request in requests]
    doubled = [stream for stream, count in Counter(names).items() if count > 1]
    if doubled:
        raise UserError(f"two inputs would both be stream {doubled[0]!r}; run them apart, with --name")
    path = store or Path(f"{names[0] if len(names) == 1 else 'captions'}.zarr")
    known: dict[str, StreamInfo] = {}
    exists = (path / "zarr.json").exists()
    if exists:
        known = CaptionStore.open(path).streams()
    streams = [
        _plan_stream(request.uri, stream, request.config, path, known.get(stream), start_ns)
        for request, stream in zip(requests, names, strict=True)
    ]
    CaptionStore.create(path)
    return RunPlan(path, tuple(streams), config)


def _requests(
    inputs: Sequence[str] | Sequence[StreamRequest], config: RunConfig, name: str | None
) -> list[StreamRequest]:
    requests: list[StreamRequest] = []
    for given in inputs:
        if isinstance(given, StreamRequest):
            requests.append(given)
        else:
            requests += [StreamRequest(uri, config) for uri in expand_inputs([given])]
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


def check_same_stream(
    stream: str, store: Path, known: StreamInfo, now: SourceInfo, start_ns: int | None
) -> None:
    """Raise `UserError` unless `now` is what the store holds as `stream`, with the same clock."""
    if known.fingerprint and not same_content(known.fingerprint, now.fingerprint):
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
    uri: str, stream: str, config: RunConfig, store: Path, known: StreamInfo | None, start_ns: int | None
) -> StreamPlan:
    # A camera that was recorded before need not answer now: the run waits for it.
    seen = None if known is None else _seen_before(uri, stream, known)
    source = open_source(uri, stream=stream, start_ns=start_ns, options=config.sources, known=seen)
    try:
        resume = ResumePoint()
        if known is not None:
            check_same_stream(stream, store, known, source.info, start_ns)
            resume = CaptionStore.open(store).resume(stream)
            if not source.info.live:
                start_ns = known.start_wall_ns
        elif not source.info.live:
            start_ns = source.info.start_wall_ns
        complete = resume.pts_ns >= 0 and not source.info.live and not _anything_left(source, resume)
        return StreamPlan(
            uri, config, start_ns, source.info, _stream_info(source.info, config, start_ns), resume, complete
        )
    finally:
        source.close()


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
    source.resume_after(resume)
    return any(isinstance(event, DecodedFrame) for event in source)


def _stream_info(source: SourceInfo, config: RunConfig, start_ns: int | None) -> StreamInfo:
    return StreamInfo(
        uri=source.address,
        clock=ClockSource.ARRIVAL if source.live else ClockSource.FILE,
        start_wall_ns=source.start_wall_ns if start_ns is None else start_ns,
        width=source.width,
        height=source.height,
        fps=source.nominal_fps or 0.0,
        model=config.model,
        fingerprint=source.fingerprint,
    )
