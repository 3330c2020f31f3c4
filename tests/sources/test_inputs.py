"""What is typed: every file its own stream, whatever its name; folders in full, or what is left out by name."""

from __future__ import annotations

import logging
import os
import shutil
from pathlib import Path

import av
import cv2
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from PIL import Image

from pipeline.core.errors import UserError
from pipeline.runtime.plan import plan_run
from pipeline.settings.config import load_config
from pipeline.sources import DecodedFrame, SourceKind, expand_inputs, open_source
from pipeline.sources.addresses import is_webcam, plain_input
from pipeline.store import CaptionStore
from tests.videos import picture, write_video


@pytest.fixture(scope="module")
def clip(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_video(tmp_path_factory.mktemp("clip") / "clip.mp4", frames=3)


@pytest.fixture
def here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    return tmp_path


def frames_of(uri: str) -> int:
    source = open_source(uri)
    try:
        return sum(isinstance(event, DecodedFrame) for event in source)
    finally:
        source.close()


def write_coded(path: Path, codec: str, pixels: str, frames: int = 3, form: str | None = None) -> Path:
    with av.open(str(path), "w", format=form) as container:
        stream = container.add_stream(codec, rate=25)
        stream.width, stream.height, stream.pix_fmt = 96, 64, pixels
        for index in range(frames):
            frame = av.VideoFrame.from_ndarray(picture(index, 96, 64), format="rgb24")
            container.mux(stream.encode(frame.reformat(format=pixels)))
        container.mux(stream.encode(None))
    return path


NAMES = [
    "10:30:00 yard.mp4",
    "rtsp:yard.mp4",
    "file:yard.mp4",
    "100% %d %03d.mp4",
    "take #2?.mp4",
    "-clip.mp4",
    "_clip.mp4",
    "clip[1].mp4",
    "clip[[]*.mp4",
    "clip{1}.mp4",
    "车库.mp4",
    "двор.mp4",
    "गाड़ी.mp4",
    "cafe\u0301.mp4",
    "20240501",
    "0",
    "...mp4",
    "~clip.mp4",
    "with\nline.mp4",
    "concat:a|b.mp4",
    "subfile,,start,0,end,9,,:x.mp4",
    "e" * 250 + ".mp4",
    os.fsdecode(b"latin-\xe9.mp4"),
]


@pytest.mark.parametrize("name", NAMES)
def test_a_film_is_read_whatever_its_name(name: str, clip: Path, here: Path) -> None:
    shutil.copy(clip, name)
    (uri,) = expand_inputs([name])
    assert frames_of(uri) == 3


def test_every_name_of_a_folder_is_a_stream_of_its_own_in_one_store(clip: Path, here: Path) -> None:
    Path("films").mkdir()
    shown = [name for name in NAMES if not name.startswith(".")]
    for name in shown:
        shutil.copy(clip, Path("films") / name)
    plan = plan_run(["films"], load_config(), store=here / "s.zarr")
    names = [stream.stream for stream in plan.streams]
    assert len(set(names)) == len(shown)
    assert {"10-30-00-yard", "车库", "двор", "20240501"} <= {n.removesuffix("-mp4") for n in names} | set(
        names
    )
    for stream in plan.streams:
        CaptionStore.open(plan.store).writer(stream.stream, stream.info).close()
    assert set(CaptionStore.open(plan.store).streams()) == set(names)


name_characters = st.characters(exclude_characters="/\0", exclude_categories=["Cs"])


@settings(max_examples=60, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(st.sets(st.text(name_characters, min_size=1, max_size=60), min_size=1, max_size=4))
def test_any_names_give_one_stable_stream_each(clip: Path, tmp_path: Path, stems: set[str]) -> None:
    folder = tmp_path / "f"
    folder.mkdir()
    try:
        files = {stem for stem in stems if len(stem.encode()) < 250}
        for stem in files:
            os.link(clip, folder / f"{stem}.mp4")
        if not files:
            return
        inputs = [str(folder / f"{stem}.mp4") for stem in sorted(files)]
        config = load_config()
        names = [s.stream for s in plan_run(inputs, config, store=tmp_path / "s.zarr").streams]
        again = [s.stream for s in plan_run(inputs[::-1], config, store=tmp_path / "s.zarr").streams]
        assert names == again[::-1]
        assert len(set(names)) == len(files)
    finally:
        shutil.rmtree(folder)
        shutil.rmtree(tmp_path / "s.zarr", ignore_errors=True)


def test_a_name_with_brackets_is_no_pattern_and_no_folder(clip: Path, here: Path) -> None:
    for name in ("clip[1].mp4", "clip[2].mp4", "clip1.mp4"):
        shutil.copy(clip, name)
    assert expand_inputs(["clip[1].mp4"]) == ["clip[1].mp4"]
    plan = plan_run(["clip[1].mp4", "clip[2].mp4"], load_config(), store=here / "s.zarr")
    assert [stream.stream for stream in plan.streams] == ["clip-1", "clip-2"]


def test_a_chosen_name_may_be_of_any_script_and_a_bad_one_is_refused_before_anything_is_made(
    clip: Path, here: Path
) -> None:
    config = load_config()
    assert plan_run([str(clip)], config, store=here / "s.zarr", name="車庫").streams[0].stream == "車庫"
    for bad in ("a/b", "..", "-x", "a b", "x" * 101, ""):
        with pytest.raises(UserError, match="stream name"):
            plan_run([str(clip)], config, store=here / "t.zarr", name=bad)
    assert not (here / "t.zarr").exists()


def test_a_name_that_some_file_systems_take_for_a_stored_one_is_refused(clip: Path, here: Path) -> None:
    config = load_config()
    plan = plan_run([str(clip)], config, store=here / "s.zarr", name="Yard")
    CaptionStore.open(plan.store).writer("Yard", plan.streams[0].info).close()
    with pytest.raises(UserError, match=r"'Yard' already.*'yard'.*--name"):
        plan_run([str(clip)], config, store=here / "s.zarr", name="yard")


@pytest.mark.parametrize(
    ("typed", "path"),
    [
        ("file:///a/b%20c.mp4", "/a/b c.mp4"),
        ("FILE://localhost/a/%E8%BD%A6.mp4", "/a/车.mp4"),
        ("file:/a/b.mp4", "/a/b.mp4"),
        ("file:///a/100%.mp4", "/a/100%.mp4"),
        ("RTSP://Cam/Live", "rtsp://Cam/Live"),
        ("HtTpS://cam/x", "https://cam/x"),
        ("/a/b.mp4", "/a/b.mp4"),
        ("0", "0"),
    ],
)
def test_what_was_typed_is_read_as_a_path_or_an_address(typed: str, path: str) -> None:
    assert plain_input(typed) == path
    assert plain_input(path) == path


def test_a_file_address_with_a_sign_of_its_own_is_found(clip: Path, here: Path) -> None:
    shutil.copy(clip, "50%25.mp4")
    assert plain_input(f"file://{here}/50%25.mp4") == f"{here}/50%25.mp4"
    shutil.copy(clip, "50%.mp4")
    assert plain_input(f"file://{here}/50%25.mp4") == f"{here}/50%.mp4"


@pytest.mark.parametrize(
    ("typed", "words"),
    [
        ("", "an input is empty.*unset"),
        ("  \t", "an input is empty"),
        ("rtps://u:hunter2@cam/x", r"rtps:// is no address.*did you mean 'rtsps'.*rtsp://"),
        ("ftp://u:hunter2@h/x.mp4", r"ftp:// is no address that can be read.*known: file://, http://"),
        ("rtsp:u:hunter2@cam/x", "begins with rtsp: and names no file: write rtsp://HOST"),
        ("file://server/share/a.mp4", "three slashes"),
        ("a\0b", "NUL"),
        ("://u:hunter2@cam", "no address: write SCHEME://HOST"),
        ("no/such/*.mp4", "nothing matches this pattern"),
    ],
)
def test_what_cannot_be_read_is_one_error_without_secrets(typed: str, words: str, here: Path) -> None:
    for way in (expand_inputs, lambda inputs: open_source(inputs[0])):
        if typed.endswith("*.mp4") and way is not expand_inputs:
            continue
        with pytest.raises(UserError, match=words) as error:
            way([typed])
        assert "hunter2" not in str(error.value)
        assert "\n" not in str(error.value)


def test_a_path_that_is_too_long_is_one_clear_error() -> None:
    with pytest.raises(UserError, match="no such file"):
        open_source("x" * 5000 + ".mp4")


def test_numbers_are_cameras_only_where_no_file_is_called_so(clip: Path, here: Path) -> None:
    assert [is_webcam(uri) for uri in ("0", "/dev/video1", "20240501", "²", "٣")] == [
        True,
        True,
        False,
        False,
        False,
    ]
    shutil.copy(clip, "7")
    assert not is_webcam(plain_input("7"))
    assert frames_of("7") == 3


def test_a_folder_gives_all_its_films_and_pictures_and_names_the_rest(
    here: Path, clip: Path, caplog: pytest.LogCaptureFixture
) -> None:
    folder = here / "mixed"
    (folder / "sub").mkdir(parents=True)
    shutil.copy(clip, folder / "a.MP4")
    write_coded(folder / "b.m2ts", "mpeg2video", "yuv420p", form="mpegts")
    write_coded(folder / "c.vob", "mpeg2video", "yuv420p", form="vob")
    write_coded(folder / "d.mxf", "mpeg2video", "yuv420p")
    write_coded(folder / "e.gif", "gif", "rgb8")
    shutil.copy(clip, folder / "no-ending")
    shutil.copy(clip, folder / "odd.xyz")
    pixels = cv2.cvtColor(picture(0, 96, 64), cv2.COLOR_RGB2BGR)
    for name in ("1.jpg", "2.bmp", "3.jp2", "4.avif", "5.webp", "6.gif", "7.tiff"):
        assert cv2.imwrite(str(folder / name), pixels)
    shutil.copy(folder / "1.jpg", folder / "8.jfif")
    Image.fromarray(picture(0, 96, 64)).save(folder / "9.tga")
    (folder / "notes.txt").write_text("hello")
    (folder / "strange.qqq").write_bytes(b"\1\2\3" * 99)
    (folder / ".DS_Store").write_bytes(b"x")
    with caplog.at_level(logging.WARNING):
        found = expand_inputs([str(folder)])
    assert [Path(one).name for one in found[:-1]] == [
        "a.MP4", "b.m2ts", "c.vob", "d.mxf", "e.gif", "no-ending", "odd.xyz",
    ]  # fmt: skip
    assert found[-1] == str(folder)
    assert frames_of(found[-1]) == 9
    (told,) = caplog.messages
    for name in ("notes.txt", "strange.qqq", ".DS_Store (hidden)", "sub (a folder"):
        assert name in told
    assert "jfif" not in told


def test_a_film_beside_its_poster_is_not_left_out(here: Path, clip: Path) -> None:
    shutil.copy(clip, here / "a.mp4")
    cv2.imwrite("poster.jpg", picture(0, 96, 64))
    assert expand_inputs(["."]) == ["a.mp4", "."]
    assert [s.stream for s in plan_run(["."], load_config(), store=here / "s.zarr").streams] == [
        "a",
        here.name,
    ]


def test_a_broken_film_in_a_folder_is_left_out_by_name_and_refused_when_named_itself(
    here: Path, clip: Path, caplog: pytest.LogCaptureFixture
) -> None:
    Path("films").mkdir()
    shutil.copy(clip, "films/good.mp4")
    Path("films/bad.mp4").write_bytes(clip.read_bytes()[:700])
    with caplog.at_level(logging.WARNING):
        plan = plan_run(["films"], load_config(), store=here / "s.zarr")
    assert [s.stream for s in plan.streams] == ["good"]
    assert any("left out: films/bad.mp4" in message for message in caplog.messages)
    with pytest.raises(UserError, match=r"films/bad\.mp4"):
        plan_run(["films/bad.mp4"], load_config(), store=here / "s.zarr")
    Path("films/good.mp4").unlink()
    with pytest.raises(UserError, match=r"nothing of what was found can be read: films/bad\.mp4"):
        plan_run(["films"], load_config(), store=here / "t.zarr")


def test_a_folder_without_films_says_what_is_in_it(here: Path) -> None:
    with pytest.raises(UserError, match="this folder is empty"):
        expand_inputs(["."])
    (here / "a.txt").write_text("x")
    with pytest.raises(UserError, match=r"no film and no picture in it \(a\.txt .*known endings: .*\.mkv"):
        expand_inputs(["."])


def test_a_picture_is_a_picture_whatever_its_ending_says(here: Path) -> None:
    cv2.imwrite("a.png", picture(0, 96, 64))
    os.rename("a.png", "photo.mp4")
    source = open_source("photo.mp4")
    assert source.info.kind is SourceKind.IMAGES
    source.close()


def test_a_film_is_a_film_whatever_its_ending_says(clip: Path, here: Path) -> None:
    shutil.copy(clip, "film.jpg")
    source = open_source("film.jpg")
    assert source.info.kind is SourceKind.FILE
    source.close()


def test_what_a_list_names_is_read_like_what_is_typed(clip: Path, here: Path) -> None:
    from pipeline.settings.stream_list import stream_requests

    Path("l.yaml").write_text(f"streams: [{{name: 門, uri: '{clip}', track: 1}}, {{uri: 'file://{clip}'}}]")
    config, requests = stream_requests(["l.yaml"])
    assert [s.stream for s in plan_run(requests, config, store=here / "s.zarr").streams] == ["門", "clip"]
    assert requests[0].config.sources.track == 1
    Path("l.yaml").write_text("streams: [{uri: ''}]")
    with pytest.raises(UserError, match="an input is empty"):
        stream_requests(["l.yaml"])
