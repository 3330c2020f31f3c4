"""Which streams a run reads, each with its own settings: from the command line, or from a YAML list."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from pydantic import Field, ValidationError

from pipeline.core.errors import UserError
from pipeline.core.options import Options
from pipeline.core.redaction import check_list_blanks
from pipeline.core.restarts import RestartPolicy
from pipeline.settings.config import RunConfig, load_config
from sca.setting_errors import explain_settings
from sca.yaml_files import YamlFault, read_yaml

_SHARED = ("model", "runtime")
LIST_SUFFIXES = frozenset({".yaml", ".yml"})


class StreamEntry(Options):
    """One source of a stream list. What is not said comes from the command line."""

    uri: str = Field(
        repr=False,
        description="a file, folder, glob, or address; `${NAME}` is filled in where the name is one for cameras (CAMERA_PASSWORD) or "
        "stands in SCA_LIST_VARIABLES, `${file:PATH}` only as user, password or query value, from below this list's folder or "
        "/run/secrets",
    )
    name: str | None = Field(
        default=None, description="under which the stream is stored; none: made from the address"
    )
    track: int | None = Field(
        default=None,
        ge=1,
        description="short for the setting `sources.track`: which video track of a file, from 1",
    )
    preset: str | None = Field(
        default=None, description="in place of the command line's, for this stream alone"
    )
    settings: dict[str, Any] = Field(
        default_factory=dict, description="`group.key: value`, as `--set` takes them, for this stream alone"
    )
    policy: str | None = Field(default=None, description="short for the setting `flow.policy`")
    restart: RestartPolicy | None = Field(
        default=None, description="short for `restarts.policy` and, of a camera, `sources.reconnect`"
    )


class StreamList(Options):
    """The file that `sca run cams.yaml` reads."""

    streams: tuple[StreamEntry, ...] = Field(min_length=1)


@dataclass(frozen=True, slots=True)
class StreamRequest:
    """A source to read and how. `uri` may hold credentials. `name`: None for one made from the address.

    `searched`: the folder or pattern in which it was found: one that cannot be read is then left out, and told.
    """

    uri: str = field(repr=False)
    config: RunConfig
    name: str | None = None
    searched: str | None = None


def stream_requests(
    inputs: Sequence[str],
    *,
    preset: str = "default",
    settings: Sequence[str] = (),
    changes: Mapping[str, Any] | None = None,
) -> tuple[RunConfig, list[StreamRequest]]:
    """The settings of the run, and of each stream of `inputs`: sources, or YAML lists of them.

    Settings of the command line win over those of a list. Raises `UserError` with the remedy.
    """
    from pipeline.sources.inputs import find_inputs  # opens files to see what they are

    config = load_config(preset, settings, changes=changes)
    requests: list[StreamRequest] = []
    for uri in inputs:
        if "://" not in uri and Path(uri).suffix.lower() in LIST_SUFFIXES:
            for entry in read_stream_list(Path(uri)).streams:
                plain = entry.model_fields_set <= {"uri", "name"}
                own = config if plain else _own_config(entry, preset, settings, changes or {}, Path(uri))
                found = find_inputs([entry.uri])
                if entry.name is not None and len(found) > 1:
                    raise UserError(
                        f"{uri}: stream {entry.name!r} would be {len(found)} inputs; leave its name out"
                    )
                requests += [StreamRequest(one.uri, own, entry.name, one.searched) for one in found]
        else:
            requests += [StreamRequest(one.uri, config, None, one.searched) for one in find_inputs([uri])]
    return config, requests


def read_stream_list(path: Path) -> StreamList:
    """A checked stream list. Raises `UserError` that names the file and the nearest known key."""
    example = "write it as: streams: [{name: yard, uri: rtsp://camera/stream, preset: live}]"
    try:
        data = read_yaml(path)
    except FileNotFoundError:
        raise UserError(f"{path}: no such file; check the path") from None
    except YamlFault as error:
        raise UserError(
            f"{path}: not a readable YAML file{error.place} ({error.reason}); {example}"
        ) from None
    except OSError as error:
        raise UserError(f"{path}: not a readable YAML file ({error.strerror}); {example}") from None
    if isinstance(data, list):
        data = {"streams": data}
    if not isinstance(data, dict):
        raise UserError(f"{path}: not a list of streams; {example}")
    try:
        streams = StreamList.model_validate(data)
    except ValidationError as error:
        raise UserError(f"{path}: {explain_settings(error, StreamList)}; {example}") from None
    for number, entry in enumerate(streams.streams, 1):
        try:
            check_list_blanks(entry.uri, path.parent)
        except UserError as error:
            raise UserError(f"{path}: stream {entry.name or number}: {error}") from None
    return streams


def _own_config(
    entry: StreamEntry, preset: str, settings: Sequence[str], changes: Mapping[str, Any], path: Path
) -> RunConfig:
    own = dict(entry.settings)
    if entry.policy is not None:
        own["flow.policy"] = entry.policy
    if entry.restart is not None:
        own["restarts.policy"] = own["sources.reconnect"] = entry.restart.value
    if entry.track is not None:
        own["sources.track"] = entry.track
    for key in own:
        if key.split(".", 1)[0] in _SHARED:
            raise UserError(
                f"{path}: {key} holds for the whole run; give it on the command line with --set, not for one stream"
            )
    given = {setting.partition("=")[0].strip() for setting in settings}
    kept = {key: value for key, value in own.items() if key not in given}
    try:
        return load_config(entry.preset or preset, settings, changes={**kept, **changes})
    except ValueError as error:
        raise UserError(f"{path}: stream {entry.name or 'without a name'}: {error}") from None
