"""Prompts from anywhere: whatever a file of boxes, points or masks says, it is prompts or one line, in 10 s and 1 GiB."""

from __future__ import annotations

import json
import resource
import time
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pytest
from hypothesis import HealthCheck, example, given, settings
from hypothesis import strategies as st
from pycocotools import mask as coco

from sca.errors import UserError
from sca.prompt_files import Kind, Picture, PromptFile
from sca.prompts import Prompts
from sca.run_lengths import MaskMalformed, decoded_mask
from tests.duration import by_day

pytestmark = pytest.mark.promise("prompts-bounded")

LONGEST_S = 10
MOST_GROWTH_KIB = 1 << 20
SIZE = (40, 64)
KINDS: tuple[Kind, ...] = ("boxes", "points", "masks")


def borne(kind: Kind, path: Path, size: tuple[int, int] = SIZE) -> Prompts | str | None:
    """The prompts of a file, or what is told of it."""
    begun, before = time.process_time(), resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    found: Prompts | str | None
    try:
        found = PromptFile(kind, path).of(Picture(Path("p.png"), size), only=True)
    except UserError as error:
        found = str(error)
        assert "\n" not in found
        assert len(found) < 2000
    else:
        check(found, size)
    assert resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before < MOST_GROWTH_KIB
    assert time.process_time() - begun < LONGEST_S
    return found


def check(prompts: Prompts | None, size: tuple[int, int]) -> None:
    """What is taken lies in the picture."""
    if prompts is None:
        return
    if prompts.masks is not None:
        assert prompts.masks.dtype == bool
        assert prompts.masks.shape[1:] == size
        return
    values = np.asarray(prompts.boxes if prompts.boxes is not None else prompts.points)
    assert np.isfinite(values).all()
    assert (values >= 0).all()
    assert (values.reshape(-1, 2) <= size[::-1]).all()


number = (
    st.integers()
    | st.floats()
    | st.integers(-5, 70)
    | st.sampled_from([10**400, -(10**400), 2**63, 1e308, 1e9])
)
leaf = st.none() | st.booleans() | number | st.text(max_size=8)
anything = st.recursive(
    leaf,
    lambda inner: st.lists(inner, max_size=5)
    | st.dictionaries(
        st.sampled_from(
            ("boxes", "points", "masks", "box", "point", "mask", "image", "images", "annotations", "id", "image_id", "file_name",
             "bbox", "segmentation", "size", "counts", "p.png")
        ) | st.text(max_size=4),
        inner, max_size=4,
    ),
    max_leaves=12,
)  # fmt: skip


@settings(max_examples=by_day(60, 5000), suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(kind=st.sampled_from(KINDS), value=anything)
@example(kind="boxes", value=[[10**400] * 4])
@example(kind="boxes", value=[["p.png", 1, 2, 30, 30]])
@example(kind="masks", value=[{"mask": [[0, 0, 1e9, 0, 1e9, 1e9]]}])
@example(kind="masks", value=[{"mask": {"size": [40, 64], "counts": ""}}])
@example(kind="masks", value=[{"mask": {"size": [40, 64], "counts": "1"}}])
@example(kind="masks", value=[{"mask": {"size": [40, 64], "counts": [3, 2]}}])
@example(kind="masks", value=[{"mask": {"size": [40, 64], "counts": [2**63, 2**63 + 40 * 64]}}])
@example(kind="masks", value={"images": [{"id": [], "file_name": 1}], "annotations": [{}]})
@example(
    kind="boxes",
    value={
        "images": [{"id": 1, "file_name": "p.png"}],
        "annotations": [{"image_id": 1, "bbox": [10**400] * 4}],
    },
)
def test_any_json_is_prompts_or_refused(kind: Kind, value: Any, tmp_path: Path) -> None:
    path = tmp_path / "prompts.json"
    path.write_text(json.dumps(value), encoding="utf-8", errors="surrogatepass")
    borne(kind, path)


@settings(max_examples=by_day(60, 5000), suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(
    kind=st.sampled_from(KINDS),
    data=st.binary(max_size=200)
    | st.text(alphabet='0123456789 ,;\t\n"[]{}-.e#x', max_size=80).map(str.encode),
    ending=st.sampled_from((".txt", ".csv", ".json", ".jsonl", ".png", ".npy", "")),
)
@example(kind="boxes", data=b"[" * 100_000, ending=".json")
@example(kind="boxes", data=b'{"a":' * 100_000, ending=".jsonl")
@example(kind="points", data=b"[" * 900 + b"1" + b"]" * 900, ending=".json")
@example(kind="masks", data=b"[" * 100 + b"1" + b"]" * 100, ending=".json")
@example(kind="boxes", data=b"1" * 5000 + b" 1 2 3", ending=".txt")
@example(kind="points", data=b"9" * 100_000, ending=".json")
@example(kind="boxes", data=b'"' + b"a" * 200_000, ending=".csv")
@example(
    kind="masks",
    data=b"\x93NUMPY\1\0v\0{'descr': 'O', 'fortran_order': False, 'shape': (40, 64), }",
    ending=".npy",
)
def test_any_bytes_are_prompts_or_refused(kind: Kind, data: bytes, ending: str, tmp_path: Path) -> None:
    path = tmp_path / f"prompts{ending}"
    path.write_bytes(data)
    borne(kind, path)


@settings(max_examples=by_day(60, 5000))
@given(
    mask=st.dictionaries(
        st.sampled_from(("size", "counts")),
        st.just([4, 5])
        | st.lists(st.integers(-3, 30), max_size=6)
        | st.text(alphabet="0123456PQo@_", max_size=8)
        | anything,
    )
    | st.lists(st.lists(st.floats(-10, 20) | leaf, max_size=10), max_size=3),
)
def test_a_mask_is_what_coco_says_or_none(mask: Any) -> None:
    try:
        found = decoded_mask(mask, (4, 5))
    except MaskMalformed:
        return
    assert found.shape == (4, 5)
    if isinstance(mask, list):
        theirs = coco.decode(
            coco.merge(coco.frPyObjects([[float(one) for one in row] for row in mask], 4, 5))
        )
    else:
        lists = isinstance(mask["counts"], list)
        theirs = coco.decode(
            coco.frPyObjects(mask, 4, 5) if lists else {**mask, "counts": mask["counts"].encode()}
        )
    assert (found == theirs.astype(bool)).all()


def test_a_photograph_is_no_picture_of_numbered_regions(tmp_path: Path) -> None:
    pixels = np.random.default_rng(0).integers(0, 256, (400, 640, 3), dtype=np.uint8)
    cv2.imwrite(str(tmp_path / "photo.png"), pixels)
    assert "as a photograph has colours" in str(borne("masks", tmp_path / "photo.png", (400, 640)))


def test_an_outline_longer_than_any_is_refused() -> None:
    for polygon in (
        [0, 0, 1e9, 0, 1e9, 1e9],
        [0, 0, 1e5, 1e5, 0, 1e5] * 100,
        [-1e300, 0, 1e300, 0, 0, 1e300],
    ):
        with pytest.raises(MaskMalformed):
            decoded_mask([polygon], (4, 4))
