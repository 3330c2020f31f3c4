"""Pictures from anywhere: small files that unpack to gigabytes, heads that lie, random bytes under every ending."""

from __future__ import annotations

import contextlib
import ctypes
import io
import resource
import struct
import time
import zlib
from pathlib import Path

import pytest
from hypothesis import HealthCheck, example, given, settings
from hypothesis import strategies as st
from PIL import Image

from pipeline.commands.like_image import _pixels
from pipeline.core.errors import UserError
from pipeline.sources import expand_inputs, open_source
from pipeline.sources.media_kinds import PICTURE_SUFFIXES
from sca.data.image_cache import read_rgb
from sca.picture_size import MOST_PIXELS
from sca.prompt_files import PromptFile
from tests.duration import by_day

pytestmark = pytest.mark.promise("pictures-bounded")

LONGEST_S = 10
MOST_GROWTH_KIB = 1 << 20


def png(width: int, height: int, data: bytes = b"") -> bytes:
    def chunk(kind: bytes, content: bytes) -> bytes:
        checksum = struct.pack(">I", zlib.crc32(kind + content))
        return struct.pack(">I", len(content)) + kind + content + checksum

    head = struct.pack(">IIBBBBB", width, height, 8, 2, 0, 0, 0)
    return b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", head) + chunk(b"IDAT", data) + chunk(b"IEND", b"")


def bomb(side: int) -> bytes:
    """A square black picture: `side` * `side` pixels in a thousandth of the bytes."""
    packer = zlib.compressobj(1)
    rows = b"".join(packer.compress(bytes(1 + 3 * side)) for _ in range(side))
    return png(side, side, rows + packer.flush())


HEADS = {
    "huge.png": png(2**31 - 1, 2**31 - 1),
    "wide.png": png(2**31 - 1, 1),
    "none.png": png(0, 0),
    "big.ppm": b"P6\n100000 100000\n255\n",
    "long.pgm": b"P5 999999999999999999999 1 255\n",
    "big.gif": b"GIF89a\xff\xff\xff\xff\0\0\0",
    "big.webp": b"RIFF\xff\xff\xff\xffWEBPVP8X\x0a\0\0\0\0\0\0\0" + b"\xff" * 6,
    "big.bmp": b"BM" + struct.pack("<IHHIIiiHHIIiiII", 100, 0, 0, 54, 40, 2**31 - 1, 2**31 - 1, 1, 24, 0, 0, 0, 0, 0, 0),
    "big.psd": b"8BPS\0\1" + bytes(6) + struct.pack(">HIIHH", 3, 300000, 300000, 8, 3),
    "big.hdr": b"#?RADIANCE\n\n-Y 1000000 +X 1000000\n",
    "cut.tif": b"II*\0\x08\0\0\0" + struct.pack("<HHHII", 1, 256, 4, 2**31 - 1, 8),
    "cut.jpg": b"\xff\xd8\xff\xe0" + b"\xff" * 1000,
    "x.svg": b"<svg xmlns='http://www.w3.org/2000/svg'><image href='file:///etc/passwd'/></svg>",
}  # fmt: skip


def borne(path: Path) -> str:
    """What is told of a picture; empty where it can be seen."""
    begun, before = time.process_time(), resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    told = ""
    try:
        source = open_source(str(path))
        for _ in source:
            break
        source.close()
    except UserError as error:
        told = str(error)
    assert "\n" not in told
    assert resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before < MOST_GROWTH_KIB
    assert time.process_time() - begun < LONGEST_S
    return told


@pytest.mark.parametrize("name", HEADS)
def test_a_head_that_lies_is_refused_and_only_we_say_so(
    tmp_path: Path, name: str, capfd: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / name).write_bytes(HEADS[name])
    assert name in borne(tmp_path / name)
    assert "libpng" not in capfd.readouterr().err


def test_a_picture_that_unpacks_to_gigabytes_is_not_unpacked(tmp_path: Path) -> None:
    path = tmp_path / "bomb.png"
    path.write_bytes(bomb(12_000))
    assert path.stat().st_size < 4_000_000
    assert "megapixels" in borne(path)
    with pytest.raises(UserError, match=r"bomb\.png"):
        read_rgb(path)
    with pytest.raises(UserError, match=r"bomb\.png"):
        PromptFile("masks", path).of(_picture(path), only=True)


def _picture(path: Path) -> object:
    from sca.prompt_files import Picture

    return Picture(path, (8, 8))


@pytest.mark.parametrize("shape", [(10**12,), (10**6, 10**6), (2**63 - 1,)])
def test_an_array_whose_head_tells_of_terabytes_is_refused(tmp_path: Path, shape: tuple[int, ...]) -> None:
    path = tmp_path / "masks.npy"
    head = f"{{'descr': '<f8', 'fortran_order': False, 'shape': {shape}, }}".ljust(117).encode() + b"\n"
    path.write_bytes(b"\x93NUMPY\1\0" + struct.pack("<H", len(head)) + head)
    with pytest.raises(UserError, match=r"masks\.npy"):
        PromptFile("masks", path).of(_picture(path), only=True)


def tiff(pages: int) -> bytes:
    """Grey pages of one pixel; it ends where the last says so."""
    out = bytearray(struct.pack("<2sHI", b"II", 42, 8))
    for page in range(pages):
        at = len(out)
        after = at + 2 + 8 * 12 + 4 + 2
        tags = ((256, 1), (257, 1), (258, 8), (259, 1), (262, 1), (273, after - 2), (278, 1), (279, 1))
        entries = b"".join(struct.pack("<HHII", tag, 4, 1, value) for tag, value in tags)
        out += (
            struct.pack("<H", 8) + entries + struct.pack("<I", 0 if page == pages - 1 else after) + bytes(2)
        )
    return bytes(out)


def moving_gif(frames: int, side: int) -> bytes:
    frame = b"\x21\xf9\x04\0\1\0\0\0\x2c" + struct.pack("<HHHHB", 0, 0, 1, 1, 0) + b"\x02\x02\x44\x01\0"
    return (
        b"GIF89a"
        + struct.pack("<HHBBB", side, side, 0x80, 0, 0)
        + b"\0\0\0\xff\xff\xff"
        + frame * frames
        + b";"
    )


def moving_webp(frames: int, side: int) -> bytes:
    still = io.BytesIO()
    Image.new("RGB", (16, 16)).save(still, "WEBP", lossless=True)

    def three(number: int) -> bytes:
        return number.to_bytes(3, "little")

    frame = three(0) + three(0) + three(15) + three(15) + three(10) + b"\0" + still.getvalue()[12:]
    chunk = b"ANMF" + struct.pack("<I", len(frame)) + frame
    body = b"WEBPVP8X" + struct.pack("<I", 10) + b"\x02\0\0\0" + three(side - 1) * 2
    body += b"ANIM" + struct.pack("<I", 6) + bytes(6) + chunk * frames
    return b"RIFF" + struct.pack("<I", len(body)) + body


MOVING = {
    "many.tif": (lambda: tiff(by_day(11_000, 60_000)), "more than 10000 pages"),
    "wide.gif": (lambda: moving_gif(1000, 8000), "36 megapixels"),
    "wide.webp": (lambda: moving_webp(1000, 8000), "36 megapixels"),
}


@pytest.mark.parametrize("name", MOVING)
def test_thousands_of_pages_and_pictures_that_move_are_bounded(tmp_path: Path, name: str) -> None:
    make, told = MOVING[name]
    (tmp_path / name).write_bytes(make())
    assert told in borne(tmp_path / name)


@pytest.mark.parametrize(
    ("name", "content"),
    [("a.gif", moving_gif(20_000, 16)), ("a.webp", moving_webp(5000, 16)), ("a.tif", tiff(5000))],
)
def test_of_a_picture_to_look_for_the_first_frame_is_taken_and_that_is_told(
    tmp_path: Path, name: str, content: bytes, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / name).write_bytes(content)
    begun = time.process_time()
    assert _pixels(tmp_path / name).shape[2] == 3
    assert time.process_time() - begun < LONGEST_S
    assert "of its several pictures the first" in capsys.readouterr().err


@settings(max_examples=by_day(60, 3000), suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(
    ending=st.sampled_from(sorted(PICTURE_SUFFIXES)),
    head=st.sampled_from(sorted(HEADS.values())),
    cut=st.integers(0, 200),
    rest=st.binary(max_size=200),
)
@example(ending=".ppm", head=b"P6\n1 1\n255\n", cut=11, rest=b"")
@example(ending=".tif", head=b"II*\0\x08\0\0\0", cut=8, rest=b"\1\0")
def test_anything_under_any_ending_is_seen_or_refused(
    tmp_path: Path, ending: str, head: bytes, cut: int, rest: bytes
) -> None:
    path = tmp_path / f"a{ending}"
    path.write_bytes(head[:cut] + rest)
    borne(path)
    with contextlib.suppress(UserError):
        expand_inputs([str(tmp_path)])


def test_the_limit_lets_the_largest_telephones_through() -> None:
    assert MOST_PIXELS > 108_000_000


def h264(side: int) -> bytes:
    """A key picture of `side` * `side` pixels, of which only the heads are there."""

    def unit(kind: int, *parts: int | str) -> bytes:
        """Numbers are written as codes of Exp-Golomb, strings as they are."""
        written = "".join(
            part if isinstance(part, str) else f"{part + 1:b}".zfill(2 * (part + 1).bit_length() - 1)
            for part in parts
        )
        written += "1" + "0" * (-(len(written) + 1) % 8)
        content = int(written, 2).to_bytes(len(written) // 8, "big")
        return b"\0\0\0\1" + bytes([kind]) + content.replace(b"\0\0", b"\0\0\3")

    blocks = side // 16 - 1
    sizes = unit(
        0x67, f"{66:08b}", "00000000", f"{62:08b}", 0, 0, 2, 1, "0", blocks, blocks, "1", "1", "0", "0"
    )
    codes = unit(0x68, 0, 0, "0", "0", 0, 0, 0, "0", "00", 0, 0, 0, "0", "0", "0")
    return sizes + codes + unit(0x65, 0, 7, 0, "0000", 0, "0", "0", 0, 0, *range(300))


def test_a_film_that_says_it_is_huge_is_refused_before_a_picture_is_made(tmp_path: Path) -> None:
    """FFmpeg decodes one to see what is in a film: 600 bytes took more than a gibibyte."""
    peak = Path("/proc/self/clear_refs")
    if not peak.exists():
        pytest.skip("NOT TESTED: only Linux tells a peak of memory that can be reset")
    path = tmp_path / "huge.h264"
    path.write_bytes(h264(16000) * 3)
    peak.write_text("5")
    assert "more than 36 megapixels" in borne(path)
    told = dict(line.split(":") for line in Path("/proc/self/status").read_text().splitlines())
    grown = int(told["VmHWM"].split()[0]) - int(told["VmRSS"].split()[0])
    assert grown < 100 << 10


@pytest.mark.skipif(not Path("/proc/self/maps").exists(), reason="the bound is set on Linux")
def test_ffmpeg_takes_no_gigabytes_in_one_piece() -> None:
    """As it would for a part of MJPEG that says it has two, or never ends."""
    lines = Path("/proc/self/maps").read_text().splitlines()
    (name,) = {line.split()[-1] for line in lines if "libavutil" in line and "opencv" not in line}
    library = ctypes.CDLL(name)
    library.av_malloc.restype = ctypes.c_void_p
    assert library.av_malloc(ctypes.c_size_t(1 << 30)) is None
    picture = library.av_malloc(ctypes.c_size_t(MOST_PIXELS * 3))
    assert picture is not None
    library.av_free(ctypes.c_void_p(picture))
