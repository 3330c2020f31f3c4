"""Every setting, set to what nobody means: it is taken, or refused in one line that names it; so are lists, names and times."""

from __future__ import annotations

import itertools
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, example, given, settings
from hypothesis import strategies as st
from pydantic import BaseModel

from pipeline.core.errors import UserError
from pipeline.query.typed_times import Recording, parse_window
from pipeline.settings.config import RunConfig, load_config
from pipeline.settings.stream_list import stream_requests
from pipeline.sources.addresses import plain_input
from sca.model_names import find_model
from tests.duration import by_day
from tests.videos import write_video

pytestmark = pytest.mark.promise("settings-table")

ODD: tuple[Any, ...] = (
    None, True, -1, 0, 2**31, 2**63, 10**400, -(10**400), 0.5, 1e308, float("inf"), float("-inf"), float("nan"),
    "", " ", "x", "\0", "\x1b[2J", "\u202e", "../../etc", "a" * 5000, "１", "1e400", "2026-02-31",
    [], [1], {}, {"x": 1}, {1: 2}, [[[[[]]]]], b"x", (),
)  # fmt: skip


def names(model: type[BaseModel], above: str = "") -> Iterator[str]:
    for name, field in model.model_fields.items():
        yield f"{above}{name}"
        if isinstance(field.annotation, type) and issubclass(field.annotation, BaseModel):
            yield from names(field.annotation, f"{above}{name}.")


SETTINGS = tuple(names(RunConfig))
TABLE = tuple(itertools.product(SETTINGS, ODD))


def refused(error: UserError, *words: str, quoted: str = "") -> None:
    """`quoted`: what was typed may stand in it as it was; the command line makes one line of it."""
    text = str(error).replace(quoted, "") if quoted else str(error)
    assert "\n" not in text
    assert len(text) < 2000 + 2 * len(quoted)
    assert all(word in text for word in words)


def test_settings_and_odd_values_are_taken_or_refused_by_name() -> None:
    assert len(SETTINGS) > 60
    # By day every setting and every value, in the long tests every pair of them.
    for number, (setting, value) in enumerate(TABLE):
        if number % by_day(17, 1):
            continue
        try:
            config = load_config(changes={setting: value})
        except UserError as error:
            refused(error, setting.split(".")[0])
        else:
            numbers = [one for one in leaves(config.model_dump()) if isinstance(one, int | float)]
            assert all(abs(one) <= 1e9 for one in numbers), (setting, value)


def leaves(value: Any) -> Iterator[Any]:
    inside = value.values() if isinstance(value, dict) else value if isinstance(value, list | tuple) else None
    if inside is None:
        yield value
    else:
        for one in inside:
            yield from leaves(one)


plain = st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=20)
nested = st.recursive(
    plain, lambda inner: st.lists(inner, max_size=3) | st.dictionaries(plain, inner, max_size=3), max_leaves=8
)


@settings(max_examples=by_day(60, 3000), suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(
    entry=st.dictionaries(
        st.sampled_from(("uri", "name", "track", "preset", "settings", "policy", "restart", "x")), nested
    )
)
@example(entry={"uri": "clip.mp4", "settings": {"keyframes": None}})
@example(entry={"uri": "clip.mp4", "settings": {"keyframes.interval_s": float("inf")}})
@example(entry={"uri": "clip.mp4", "preset": "a\0b"})
@example(entry={"uri": "clip.mp4", "name": "../../etc/x"})
@example(entry={"uri": "rtsp://[::1/x"})
def test_a_stream_list_of_anything_is_read_or_refused_in_one_line(
    entry: dict[str, Any], tmp_path_factory: pytest.TempPathFactory
) -> None:
    import yaml

    path = tmp_path_factory.mktemp("list") / "cams.yaml"
    path.write_text(yaml.safe_dump([entry]), encoding="utf-8")
    try:
        stream_requests([str(path)])
    except UserError as error:
        refused(error)


@settings(max_examples=by_day(40, 2000), suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(data=st.binary(max_size=200))
@example(data="streams: [{uri: x}]".encode("utf-16"))
@example(data=b"? [a, b]\n: 1")
@example(data=b"- &a {uri: *a}")
def test_any_bytes_are_a_stream_list_or_refused_in_one_line(data: bytes, tmp_path: Path) -> None:
    path = tmp_path / "cams.yaml"
    path.write_bytes(data)
    try:
        stream_requests([str(path)])
    except UserError as error:
        refused(error, "cams.yaml")


HOUR = 3600 * 10**9


@settings(max_examples=by_day(150, 5000))
@given(
    start=st.text(max_size=30) | st.text(alphabet="0123456789:.-+hmsTZd /", max_size=30),
    end=st.none() | st.text(alphabet="0123456789:.-+hmsTZd", max_size=30),
)
@example(start="1" * 10_000, end=None)
@example(start="1" * 10_000 + "h", end=None)
@example(start="9999-12-31", end="9999-12-31")
@example(start="0001-01-01", end=None)
@example(start="２４:００", end=None)
def test_any_time_is_read_or_refused_in_one_line(start: str, end: str | None) -> None:
    from zoneinfo import ZoneInfo

    begun = 1_700_000_000 * 10**9
    try:
        window = parse_window(start, end, Recording(begun, begun + HOUR, ZoneInfo("Europe/Berlin")))
    except UserError as error:
        refused(error, quoted=start)
    else:
        assert all(one is None or isinstance(one, int) for one in window)


@settings(max_examples=by_day(150, 5000))
@given(
    scheme=st.sampled_from(
        ("rtsp", "RTSP", "rtsps", "http", "https", "udp", "srt", "rtmp", "file", "gopher")
    ),
    rest=st.text(max_size=40) | st.text(alphabet="[]:@/?#%$0123456789.abc", max_size=30),
)
@example(scheme="rtsp", rest="[::1/x")
@example(scheme="file", rest="\n/0")
@example(scheme="rtsp", rest="a" * 5000)
@example(scheme="rtsp", rest="camera..lan/1")
@example(scheme="http", rest="127.0.0.1:99999/x")
@example(scheme="rtsp", rest="camera:0/1")
@example(scheme="rtsp", rest="/live")
def test_any_address_can_be_tried_or_is_refused_and_not_repeated(scheme: str, rest: str) -> None:
    from urllib.parse import urlsplit

    told = ""
    try:
        address = plain_input(f"{scheme}://{rest}")
    except UserError as error:
        refused(error, quoted=rest if scheme == "file" else "")
        told = str(error)
    else:
        if scheme.lower() != "file":
            parts = urlsplit(address)
            assert parts.port is None or 0 < parts.port < 65536
            (parts.hostname or "").encode("idna")
    assert scheme == "file" or len(rest) < 12 or rest not in told


@pytest.mark.parametrize(
    "address",
    [
        "rtsp://camera/live",
        "rtsp://viewer:${CAMERA_PASSWORD}@camera:554/live",
        "rtsp://${HOST}:${PORT}/live",
        "rtsp://[fe80::1%25eth0]:554/1",
        "udp://@239.0.0.1:1234",
        "udp://@:1234",
        "rtsp://cam_1/ch1",
        "http://камера.example/1",
    ],
)
def test_addresses_as_people_have_them_are_let_in(address: str) -> None:
    assert plain_input(address) == address


@pytest.mark.parametrize(
    "name", ["", "a" * 5000, "\0", "../../etc", "/dev/zero", "a/b\n/c", "\x1b[2J", "\udcff"]
)
def test_a_model_that_cannot_be_one_is_refused(
    name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    with pytest.raises(UserError, match="unknown model") as error:
        find_model(name)
    assert "\n" not in str(error.value)


def test_a_network_that_nothing_here_speaks_is_refused_before_anything_is_loaded(tmp_path: Path) -> None:
    from pipeline.sources import open_source

    with pytest.raises(UserError, match="built without this protocol"):
        open_source("srt://127.0.0.1:9/x")
    clip = write_video(tmp_path / "RTSP:.mp4", frames=2)
    assert plain_input(str(clip)) == str(clip)
