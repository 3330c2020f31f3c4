"""Playlists from anywhere: none makes FFmpeg read for ever, fill the memory or open what it should not."""

from __future__ import annotations

import resource
import time
from pathlib import Path

import pytest
from hypothesis import HealthCheck, example, given, settings
from hypothesis import strategies as st

from pipeline.core.errors import UserError
from pipeline.sources import container, open_source
from pipeline.sources.container import open_container
from pipeline.sources.picture import DecodedFrame
from pipeline.sources.playlists import MOST_PLAYLISTS, named_playlists
from tests.duration import by_day
from tests.media.films import Film, write_film
from tests.web_servers import Handler, serving

pytestmark = pytest.mark.promise("playlists-bounded", "inputs-bounded")

LONGEST_S = 10
FRAMES = 24
MOST_GROWTH_KIB = 1 << 20
VARIANT = "#EXT-X-STREAM-INF:BANDWIDTH=1\n"
HEAD = "#EXTM3U\n"
SEGMENT = "#EXT-X-TARGETDURATION:1\n#EXTINF:1,\n"
END = "#EXT-X-ENDLIST\n"


def borne(path: Path) -> str:
    """What is told of a file that is opened as a film; empty where it can be."""
    begun, before = time.monotonic(), resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    told = ""
    try:
        open_container(path).close()
    except UserError as error:
        told = str(error)
    assert "\n" not in told
    assert resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before < MOST_GROWTH_KIB
    assert time.monotonic() - begun < LONGEST_S
    return told


@pytest.mark.parametrize(
    "names",
    [
        "{variant}a.m3u8\n",
        "{variant}./../FOLDER/a.m3u8\n",
        "{variant}file:a.m3u8\n",
        "{variant}b.m3u8\n",
        '#EXT-X-MEDIA:TYPE=AUDIO,GROUP-ID="x",URI="a.m3u8"\n{variant}b.ts\n',
        "{variant}data:application/x-mpegurl,%23EXTM3U\n",
        "{variant}crypto:a.m3u8\n",
        "{many}",
    ],
)
def test_playlists_that_name_each_other_are_refused_before_they_are_followed(
    tmp_path: Path, names: str
) -> None:
    many = "".join(f"{VARIANT}v{number}.m3u8\n" for number in range(MOST_PLAYLISTS + 1))
    text = names.replace("FOLDER", tmp_path.name).format(variant=VARIANT, many=many)
    (tmp_path / "a.m3u8").write_text(HEAD + text)
    (tmp_path / "b.m3u8").write_text(HEAD + VARIANT + "a.m3u8\n")
    assert "playlist" in borne(tmp_path / "a.m3u8")


@pytest.mark.parametrize(
    "kept", ["/etc/hostname", "file:///etc/hostname", "concat:a.ts|b.ts", "http://127.0.0.1:1/a.ts"]
)
def test_a_playlist_reads_nothing_but_films(tmp_path: Path, kept: str) -> None:
    (tmp_path / "a.m3u8").write_text(HEAD + SEGMENT + kept + "\n" + END)
    assert "not a video" in borne(tmp_path / "a.m3u8")


def test_one_whose_segments_never_come_is_given_up(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(container, "_PLAYLIST_WITHIN_S", 0.5)
    (tmp_path / "a.m3u8").write_text(HEAD + SEGMENT + "nowhere.ts\n")
    assert "not a video" in borne(tmp_path / "a.m3u8")


line = st.sampled_from(
    (
        HEAD, VARIANT, SEGMENT, END, "a.m3u8\n", "b.ts\n", "/dev/zero\n", "#EXT-X-VERSION:99\n", "#EXT-X-MEDIA-SEQUENCE:-1\n",
        "#EXT-X-TARGETDURATION:1e400\n", "#EXT-X-BYTERANGE:99999999999999@9\n", '#EXT-X-MAP:URI="a.m3u8"\n',
        '#EXT-X-KEY:METHOD=AES-128,URI="/dev/zero"\n', '#EXT-X-MEDIA:TYPE=VIDEO,URI="a.m3u8"\n', "#EXT-X-DISCONTINUITY\n", "\0\n",
        "#" + "a" * 5000 + "\n",
    )
) | st.text(max_size=20)  # fmt: skip


@settings(max_examples=by_day(40, 2000), suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(lines=st.lists(line, max_size=12))
@example(lines=[VARIANT, "a.m3u8\n"])
@example(lines=[VARIANT, "\0a.m3u8\n"])
@example(lines=[SEGMENT, "a.m3u8\n", END])
def test_any_playlist_is_read_or_refused(tmp_path: Path, lines: list[str]) -> None:
    (tmp_path / "a.m3u8").write_text(HEAD + "".join(lines) + END, encoding="utf-8", newline="")
    borne(tmp_path / "a.m3u8")


@pytest.mark.parametrize("wait_s", [1, 10**6])
def test_one_without_an_end_is_what_stands_in_it_now(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, wait_s: int
) -> None:
    """All of it, not the last three segments as of a live one; and nobody waits for what may come."""
    monkeypatch.setattr(container, "_PLAYLIST_WITHIN_S", 1.0)
    write_film(Film(container="ts"), tmp_path / "b.ts")
    segments = f"#EXT-X-TARGETDURATION:{wait_s}\n" + "#EXTINF:1,\nb.ts\n" * 5
    (tmp_path / "a.m3u8").write_text(HEAD + segments)
    source = open_source(str(tmp_path / "a.m3u8"))
    assert any("#EXT-X-ENDLIST" in notice for notice in source.info.notices)
    assert sum(isinstance(one, DecodedFrame) for one in source) == 5 * FRAMES


def test_those_at_web_addresses_too(tmp_path: Path) -> None:
    asked: list[str] = []

    def answer(handler: Handler) -> None:
        asked.append(handler.path)
        handler.send("application/vnd.apple.mpegurl", (HEAD + VARIANT + "again.m3u8\n").encode())

    with serving(answer) as server, pytest.raises(UserError, match="names further ones") as error:
        open_source(f"{server}/live.m3u8")
    assert "\n" not in str(error.value)
    assert len(asked) < 10


def test_a_film_in_several_sizes_is_a_film(tmp_path: Path) -> None:
    write_film(Film(container="ts"), tmp_path / "b.ts")
    (tmp_path / "low.m3u8").write_text(HEAD + SEGMENT + "b.ts\n" + END)
    (tmp_path / "a.m3u8").write_text(HEAD + VARIANT + "low.m3u8\n")
    assert borne(tmp_path / "a.m3u8") == ""


def test_lines_end_as_ffmpeg_ends_them() -> None:
    text = (
        b"#EXTM3U\r#EXT-X-STREAM-INF:X\r\n#note\r\na.m3u8\0#EXTINF:1\nb.ts\n" + b'#EXT-X-MEDIA:URI="c.m3u8"'
    )
    assert named_playlists(text) == ["a.m3u8", "c.m3u8"]
