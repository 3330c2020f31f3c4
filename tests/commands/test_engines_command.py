"""`sca engines list` and `prune`, on a cache of real engines: what can serve stays, what cannot goes and is explained."""

from __future__ import annotations

import shutil
from dataclasses import replace
from pathlib import Path

import pytest
from typer.testing import CliRunner

from engines.backends.openvino import BLOB_NAME
from engines.cache import EngineCache
from engines.devices import probe
from engines.manifest import Manifest
from engines.parity import Probes
from engines.workshop import Workshop
from pipeline.commands.engines import engines
from tests.engine_fixtures import small_stage


@pytest.fixture(scope="module")
def built(tmp_path_factory: pytest.TempPathFactory) -> Path:
    root = tmp_path_factory.mktemp("engines")
    stage = small_stage()
    ready = Workshop(EngineCache(root), probe("cpu"), lambda line: None).obtain(
        stage, lambda: Probes([stage.example(prompts=5)]), backend="openvino", precision="float32"
    )
    assert ready.backend == "openvino", ready.refused
    return root


@pytest.fixture
def cache(built: Path, tmp_path: Path) -> EngineCache:
    """The engine that is good here, one of another torch, and one whose file was cut short."""
    shutil.copytree(built, tmp_path / "engines")
    cache = EngineCache(tmp_path / "engines")
    (good,) = cache.entries()
    assert good.manifest is not None
    add(cache, good.folder, replace(good.manifest, key=replace(good.manifest.key, torch_version="1.0")))
    damaged = replace(good.manifest, key=replace(good.manifest.key, weights="other"))
    folder = add(cache, good.folder, damaged)
    (folder / BLOB_NAME).write_bytes(b"short")
    return cache


def add(cache: EngineCache, like: Path, manifest: Manifest) -> Path:
    working = cache.working_folder()
    shutil.copytree(like, working, dirs_exist_ok=True)
    return cache.publish(working, manifest)


def said(*arguments: str) -> str:
    result = CliRunner().invoke(engines, list(arguments))
    assert result.exit_code == 0, result.output
    return result.output


def test_prune_removes_what_cannot_serve_and_says_why(cache: EngineCache) -> None:
    root = ("--cache", str(cache.root))
    foretold = said("prune", "--dry-run", *root)
    assert "would remove" in foretold
    assert len(list(cache.entries())) == 3
    told = said("prune", *root)
    assert "made from torch 1.0" in told
    assert f"{BLOB_NAME} has 5 bytes" in told
    assert "2 engines" in told
    (left,) = cache.entries()
    assert left.manifest is not None
    assert "0 engines" in said("prune", *root)
    assert "--all was given" in said("prune", "--all", *root)
    assert list(cache.entries()) == []


def test_the_list_shows_each_engine_with_its_check(cache: EngineCache) -> None:
    shown = said("list", "--cache", str(cache.root))
    assert shown.count("passed") == 2, "the sound one, and the one that another torch made"
    assert shown.count("unusable") == 1
    assert shown.count("small-decoder") == 3
    assert "3 engines" in shown
