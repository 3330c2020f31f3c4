"""Checkpoint folders from anywhere: whatever lies in them, one error names it, and nothing is run or waited for."""

from __future__ import annotations

import contextlib
import json
import os
import pickle
import shutil
import struct
import time
import zipfile
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

import sca
from sca.checkpoint_files import MOST_JSON_BYTES
from sca.checkpoints.tensor_files import read_tensors
from sca.errors import UserError
from tests.duration import by_day

pytestmark = pytest.mark.promise("checkpoints-bounded")

LONGEST_S = 20
RELEASED = Path(__file__).parent.parent / "fixtures" / "parity_snapshot"


@pytest.fixture(scope="module")
def folder(tiny_checkpoint: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    return Path(shutil.copytree(tiny_checkpoint, tmp_path_factory.mktemp("checkpoint") / "tiny"))


def refused(folder: Path, name: str, data: bytes) -> str:
    """What is told of the checkpoint with this in place of one of its files; empty where it loads."""
    file = folder / name
    whole, begun = file.read_bytes(), time.process_time()
    file.write_bytes(data)
    told = ""
    try:
        sca.load(folder)
    except UserError as error:
        told = str(error)
    finally:
        file.write_bytes(whole)
        assert time.process_time() - begun < LONGEST_S
    assert "\n" not in told
    return told


def header(entry: object, size: int | None = None) -> bytes:
    text = json.dumps(entry).encode()
    return struct.pack("<Q", len(text) if size is None else size) + text


@pytest.mark.parametrize(
    ("name", "data"),
    [
        ("config.json", b"[" * 200_000),
        ("config.json", b'{"a":' * 100_000),
        ("config.json", b"\xff\xfe\x00"),
        ("config.json", b'{"format_version": 1e999}'),
        (
            "config.json",
            json.dumps({"format_version": 2, "model": [], "automatic": 1, "sha256": {}}).encode(),
        ),
        ("tokenizer.json", b"{}"),
        ("tokenizer.json", b"[" * 100_000),
        ("model.safetensors", b""),
        ("model.safetensors", header({}, 2**63)),
        ("model.safetensors", header({"a": {"dtype": "F32", "shape": [2**40], "data_offsets": [0, 2**42]}})),
        ("model.safetensors", header({"a": {"dtype": "F32", "shape": [2], "data_offsets": [-8, 0]}})),
    ],
)
def test_each_file_that_lies_is_named(folder: Path, name: str, data: bytes) -> None:
    assert str(folder) in refused(folder, name, data)


@pytest.mark.parametrize(
    ("place", "value"),
    [
        (("model",), None),
        (("model", "encoder", "out_channels"), -1),
        (("model", "encoder", "out_channels"), 1),
        (("model", "language_model", "settings", "n_layer"), 2**31),
        (("model", "language_model", "settings", "n_positions"), 2**40),
        (("model", "language_model", "settings", "vocab_size"), 1.5),
        (("model", "mask_decoder", "num_multimask_outputs"), 2**20),
        (("automatic", "points_per_side"), 2**20),
        (("automatic", "crop_layers"), 30),
        (("automatic", "pred_iou_thresh"), float("nan")),
        (("automatic", "points_per_batch"), "64"),
        (("sha256",), None),
    ],
)
def test_a_configuration_that_nobody_could_have_written_is_refused(
    folder: Path, place: tuple[str, ...], value: object
) -> None:
    document = json.loads((folder / "config.json").read_bytes())
    inner = document
    for name in place[:-1]:
        inner = inner[name]
    inner[place[-1]] = value
    assert str(folder / "config.json") in refused(folder, "config.json", json.dumps(document).encode())


@pytest.mark.parametrize(
    ("place", "value"),
    [
        (("vision_config", "num_hidden_layers"), 2**20),
        (("vision_config", "image_size"), 2**16),
        (("vision_config", "num_attention_heads"), 0),
        (("vision_config", "hidden_size"), -1),
        (("mask_caption_decoder_config", "num_multimask_outputs"), 2**20),
        (("num_task_tokens",), -1),
        (("text_config",), {"model_type": "deepseek_v3"}),
        (("text_config", "vocab_size"), "many"),
    ],
)
def test_so_is_one_in_the_released_layout(tmp_path: Path, place: tuple[str, ...], value: object) -> None:
    """Before anything of that size is allocated: the model is counted while it is built without its weights."""
    other = Path(shutil.copytree(RELEASED, tmp_path / "other"))
    document = json.loads((other / "config.json").read_bytes())
    inner = document
    for name in place[:-1]:
        inner = inner[name]
    inner[place[-1]] = value
    assert str(other / "config.json") in refused(other, "config.json", json.dumps(document).encode())


def test_a_file_that_is_larger_than_its_model_is_not_read(folder: Path, tmp_path: Path) -> None:
    for name in ("model.safetensors", "tokenizer.json"):
        other = Path(shutil.copytree(folder, tmp_path / name))
        with (other / name).open("r+b") as file:
            file.truncate(1 << 42)
        with pytest.raises(UserError, match=f"{name} is larger"):
            sca.load(other)


@settings(max_examples=by_day(15, 500), suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(
    name=st.sampled_from(["config.json", "tokenizer.json"]), place=st.floats(0, 1), cut=st.binary(max_size=6)
)
def test_files_that_changed_are_refused(folder: Path, name: str, place: float, cut: bytes) -> None:
    whole = (folder / name).read_bytes()
    at = int(place * len(whole))
    data = whole[:at] + cut + whole[at + 8 :]
    told = refused(folder, name, data)
    assert told or data == whole or json.loads(data) == json.loads(whole) or name == "config.json"


class RunsCode:
    def __reduce__(self) -> tuple[Callable[..., object], tuple[object, ...]]:
        return os.mkdir, ("pickle-ran",)


def test_pickles_run_nothing_and_archives_are_not_unpacked(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "plain.pth").write_bytes(pickle.dumps({"a": RunsCode()}))
    torch.save({"a": RunsCode()}, tmp_path / "zipped.pth")
    with zipfile.ZipFile(tmp_path / "bomb.pth", "w", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr("bomb/data.pkl", b"\x80\x02}q\x00.")
        archive.writestr("bomb/version", "3")
        archive.writestr("bomb/data/0", bytes(200 << 20))
        archive.writestr("../outside", "x")
    for name in ("plain", "zipped", "bomb"):
        with contextlib.suppress(UserError):
            assert read_tensors(tmp_path / f"{name}.pth") == {}
    assert sorted(path.name for path in tmp_path.iterdir()) == ["bomb.pth", "plain.pth", "zipped.pth"]
    assert not (tmp_path.parent / "outside").exists()


def test_a_fifo_is_not_waited_for_and_a_huge_text_not_read(folder: Path, tmp_path: Path) -> None:
    other = Path(shutil.copytree(folder, tmp_path / "other"))
    (other / "config.json").unlink()
    os.mkfifo(other / "config.json")
    with pytest.raises(UserError, match="config"):
        sca.load(other)
    (other / "config.json").unlink()
    with (other / "config.json").open("wb") as file:
        file.truncate(MOST_JSON_BYTES + 1)
    with pytest.raises(UserError, match=r"config\.json is not readable JSON"):
        sca.load(other)
