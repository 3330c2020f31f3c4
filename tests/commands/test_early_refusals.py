"""Mistakes and hostile input are one line and exit code 2 before torch, Ray or a model is imported: they are forbidden here."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path

import cv2
import numpy as np
import pytest

from tests.sources.test_hostile_pictures import HEADS
from tests.store_samples import filled_store
from tests.videos import write_video

ROOT = Path(__file__).resolve().parents[2]

pytestmark = pytest.mark.promise("before-loading")

# Everything in one process, since each would start Python anew.
CODE = '''
import contextlib, importlib.machinery, io, json, sys, time

class Forbidden:
    """They are installed, as one may ask; but nobody imports them."""

    def find_spec(self, name, path=None, target=None):
        known = name in ("torch", "transformers", "ray", "openvino", "timm")
        return importlib.machinery.ModuleSpec(name, self) if known else None

    def create_module(self, spec):
        raise AssertionError(f"{spec.name} is imported")

    def exec_module(self, module):
        pass

sys.meta_path.insert(0, Forbidden())
from pipeline.cli import main
told = []
for words in json.load(sys.stdin):
    out, err = io.StringIO(), io.StringIO()
    begun, code = time.monotonic(), 0
    with contextlib.redirect_stdout(out), contextlib.redirect_stderr(err):
        sys.argv = ["sca", *words]
        try:
            main()
        except SystemExit as leaving:
            code = leaving.code
        except BaseException as error:
            code = f"{type(error).__name__}: {error}"
    told.append([code, out.getvalue(), err.getvalue(), time.monotonic() - begun])
json.dump(told, sys.__stdout__)
'''


def commands(folder: Path) -> list[list[str]]:
    """What goes wrong, by what is asked for."""
    cv2.imwrite(str(folder / "p.png"), np.zeros((40, 64, 3), np.uint8))
    (folder / "bomb.png").write_bytes(HEADS["huge.png"])
    (folder / "cut.jpg").write_bytes(b"\xff\xd8\xff\xe0" + bytes(100))
    (folder / "empty.png").touch()
    os.mkfifo(folder / "pipe.png")
    (folder / "data").mkdir()
    (folder / "bad.json").write_text("{")
    (folder / "deep.json").write_text("[" * 100_000)
    (folder / "ints.json").write_text(json.dumps([[10**400] * 4]))
    things = [{"clip": "a.mp4", "t_s": 0, "w": 8, "h": 8, "things": []}]
    (folder / "things.json").write_text(json.dumps(things))
    boxes = (
        "1e400 0 5 5",
        "nan 0 5 5",
        "5 5 1 1",
        "-9 -9 -1 -1",
        "a b c d",
        "",
        "1 2 3",
        "{}",
        "[1]",
        "[[[]]]",
        "\0",
    )
    for number, text in enumerate(boxes):
        (folder / f"boxes{number}.txt").write_text(text)
    write_video(folder / "clip.mp4", frames=4)
    shutil.copy(folder / "clip.mp4", folder / "clip.mp4\udcff")
    picture = str(folder / "p.png")
    caption = [
        ["nowhere.png"], [str(folder)], [str(folder / "bomb.png")], [str(folder / "cut.jpg")], [str(folder / "empty.png")],
        [str(folder / "pipe.png")], ["/dev/zero"], ["/dev/null"],
        *([picture, "--boxes", str(folder / f"boxes{number}.txt")] for number in range(len(boxes))),
        *([picture, kind, str(folder / name)] for kind in ("--boxes", "--points", "--masks")
          for name in ("bad.json", "deep.json", "ints.json", "nowhere", "data", "pipe.png", "empty.png", "bomb.png")
          if (kind, name) != ("--masks", "data")),
        [picture, "--boxes", "/dev/zero"], [picture, "--masks", "/dev/zero"],
        [picture, "--boxes", "x", "--points", "y"], [picture, "--anything", "--boxes", "x"],
        [picture, "--task", "recognition"], [picture, "--device", "tpu"], [picture, "--device", "cuda:x"],
        [picture, "--beams", "0"], [picture, "--beams", "1e9"], [picture, "--min-score", "nan"], [picture, "--min-score", "2"],
        [picture, "--format", "xml"], [picture, "--draw", "x.txt"], [picture, "--draw", picture],
        [picture, "--draw", "x.png", "--model", "nobody"],
        [picture, "--out", picture], [picture, "--out", str(folder)], [picture, "--out", str(folder / "no" / "x")],
        [picture, picture, "--draw", picture], [picture, "--model", "nobody"], [picture, "--model", picture], [],
    ]  # fmt: skip
    evaluate = [
        ["nowhere"], [str(folder / "data")], [str(folder / "bad.json")], [str(folder / "deep.json")],
        [str(folder / "things.json")], [str(folder / "things.json"), "--clips", str(folder)],
        [str(folder / "things.json"), "--clips", str(folder), "--only", "b.mp4"], [str(folder / "things.json"), "--set", "x=1"],
        [str(folder / "data"), "--clips", "x"], [str(folder / "data"), "--split", "test"], [str(folder / "data"), "--images", "0"],
        [str(folder / "data"), "--reader", "nobody"], [str(folder / "data"), "--mistakes", str(folder)],
        ["demo", "--data", "vg"], ["demo", "--data", "x:y"], ["demo", "--data", f"vg:{folder}/no"], ["nobody", "--data", f"vg:{folder}"],
        *(["demo", "--data", f"{kind}:{folder}/data"] for kind in ("vg", "grit", "refcoco", "coco", "flickr30k", "jsonl")),
        ["demo", "--data", f"vg:{folder}/data", "--dtype", "int3"], ["demo", "--data", f"vg:{folder}/data", "--device", "x"],
        ["demo", "--data", f"vg:{folder}/data", "--protocol", "x"], ["demo", "--data", f"vg:{folder}/data", "--prompt", "x"],
        ["/dev/zero"], ["/dev/stdin"],
    ]  # fmt: skip
    score = [["nowhere"], [str(folder)], [str(folder / "bad.json")], [str(folder / "deep.json")], ["/dev/zero"],
             [str(folder / "bad.json"), "--json", str(folder)], [str(folder / "pipe.png")]]  # fmt: skip
    clip = str(folder / "clip.mp4")
    run = [
        [clip, "--model", "nobody"], [clip, "--set", "x=1"], [clip, "--preset", "x"], [clip, "--annotate", "x.txt"], ["nowhere.mp4"],
        [clip, "--address", "x"], [clip, "--address", "127.0.0.1:1"], [clip, "--metrics-port", "70000"], [clip, "--start", "soon"],
        [clip, "--metrics-port", "0", "--metrics-address", "nobody.invalid", "--set", "runtime.engine=eager"],
        [clip, "--store", clip], [clip, "--store", "/dev/null"], [clip, "--store", "/proc/x/y.zarr"], [clip, "--rate", "nan"],
        [str(folder / "pipe.png")], ["/dev/video99"], [clip, "--set", "recording.commit_s=1e400"], [""], ["rtsp://u:hunter2@/x"],
        [str(folder / "clip.mp4\udcff")], [clip, "--name", "\udcff"], [clip, "--store", str(folder / "a\udcff.zarr")],
    ]  # fmt: skip
    return [
        [name, *words]
        for name, rows in (("caption", caption), ("evaluate", evaluate), ("score", score), ("run", run))
        for words in rows
    ]


def test_what_is_wrong_is_told_before_anything_is_loaded(tmp_path: Path) -> None:
    filled_store(tmp_path / "yard.zarr", 2).close()
    asked = commands(tmp_path)
    told = answers(asked, tmp_path)
    wrong = []
    for words, (code, _, err, seconds) in zip(asked, told, strict=True):
        # A usage error is click's: it says how it is used and what is wrong, in a frame.
        lines = [line for line in err.splitlines() if line.strip()]
        if code != 2 or not lines or (len(lines) > 1 and "Usage" not in lines[0]) or seconds > 30:
            wrong.append((words[:1] + [word[-60:] for word in words[1:]], code, err[-300:], seconds))
    assert not wrong, "\n".join(map(ascii, wrong))


def answers(asked: Sequence[Sequence[str]], folder: Path) -> list[tuple[object, str, str, float]]:
    """Exit code, standard output and error, and seconds of each command."""
    environment = {**os.environ, "PYTHONPATH": str(ROOT), "PYTHONUTF8": "1"}
    done = subprocess.run(
        [sys.executable, "-P", "-c", CODE], input=json.dumps(asked), cwd=folder, env=environment,
        capture_output=True, text=True, check=False,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr[-3000:]
    return [(code, out, err, seconds) for code, out, err, seconds in json.loads(done.stdout)]
