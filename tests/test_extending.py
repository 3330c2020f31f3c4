"""What docs/extending.md shows works exactly as it stands there, in a project that was not changed."""

from __future__ import annotations

import importlib
import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest

from pipeline.commands.export import export
from pipeline.runtime.inline import run_inline
from pipeline.runtime.plan import plan_run
from pipeline.runtime.progress import ProgressOnly, StopRequest
from pipeline.settings.config import load_config
from pipeline.store import CaptionStore
from sca.parts import Registry
from tests.extending import announce, install_example
from tests.tiny_checkpoint import LENIENT, write_tiny_checkpoint

ROOT = Path(__file__).resolve().parent.parent


@pytest.fixture(scope="session")
def site(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("site-packages")
    install_example(folder)
    return folder


@pytest.fixture
def installed(site: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    monkeypatch.syspath_prepend(str(site))
    importlib.invalidate_caches()
    yield site
    for name in [name for name in sys.modules if name.startswith("street_parts")]:
        del sys.modules[name]


def test_every_part_of_the_guide_passes_its_suite(site: Path) -> None:
    environment = os.environ | {"PYTHONPATH": os.pathsep.join([str(site), str(ROOT)])}
    command = [
        sys.executable,
        "-m",
        "pytest",
        "-q",
        "-p",
        "no:cacheprovider",
        "--rootdir",
        str(site),
        str(site),
    ]
    done = subprocess.run(command, capture_output=True, text=True, env=environment, cwd=site, check=False)
    assert done.returncode == 0, done.stdout[-4000:] + done.stderr[-1000:]
    assert " passed" in done.stdout


def test_a_run_takes_a_strangers_source_tracker_rule_and_policy(installed: Path, tmp_path: Path) -> None:
    import sca

    checkpoint = write_tiny_checkpoint(tmp_path / "tiny")
    settings = [
        *LENIENT,
        "runtime.kind=inline",
        "tracking.tracker=nearest-box",
        "tracking.options.least_overlap=0.3",
        "captions.rule=twice",
        "captions.options.after_s=1",
        "flow.policy=thin-out",
    ]
    config = load_config("default", settings, changes={"model": str(checkpoint)})
    frames = np.full((60, 96, 128, 3), 90, np.uint8)
    for index, frame in enumerate(frames):
        frame[20:60, 5 + index : 40 + index] = (240, 200, 40)
    np.save(tmp_path / "shots.npy", frames)
    store = tmp_path / "s.zarr"
    plan = plan_run([str(tmp_path / "shots.npy")], config, store=store)
    run_inline(plan, ProgressOnly(lambda progress: None), StopRequest(), sca.load(checkpoint))
    with CaptionStore.open(store) as opened:
        assert opened.streams()["shots"].uri.endswith("shots.npy")
        captions = opened.captions().num_rows
        assert captions > 0
        assert opened.observations().num_rows > 0
    export(store, tmp_path / "out.npz")
    assert len(np.load(tmp_path / "out.npz")["text"]) == captions


def test_mistyped_names_and_settings_are_told_with_the_nearest(installed: Path) -> None:
    with pytest.raises(
        ValueError, match=r"tracking.tracker: unknown tracker 'nearest-bx'; did you mean 'nearest-box'\?"
    ):
        load_config(settings=["tracking.tracker=nearest-bx"])
    with pytest.raises(ValueError, match=r"'tracking.options.last_overlap'; did you mean 'least_overlap'\?"):
        load_config(settings=["tracking.tracker=nearest-box", "tracking.options.last_overlap=1"])
    with pytest.raises(ValueError, match=r"tracking.options.least_overlap .*valid number"):
        load_config(settings=["tracking.tracker=nearest-box", "tracking.options.least_overlap=much"])
    with pytest.raises(ValueError, match=r"tracking.options: only a tracker of an installed package"):
        load_config(settings=["tracking.options.least_overlap=1"])
    with pytest.raises(
        ValueError, match=r"runtime.engine: unknown engine back end 'scrippted'; did you mean 'scripted'"
    ):
        load_config(settings=["runtime.engine=scrippted"])


def things(name: str = "") -> Registry[object]:
    return Registry("thing", "test_registry.things", {"own": "sca.errors:UserError"})


def test_broken_parts_are_told_with_their_package(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    announce(
        tmp_path,
        "acme-things",
        {
            "test_registry.things": {
                "gone": "acme_is_not_here:Part",
                "old": "acme_things:Renamed",
                "wrong": "acme_things:NUMBER",
                "raises": "acme_raises:Part",
                "double": "acme_things:Part",
                "own": "acme_raises:Part",
            }
        },
    )
    announce(tmp_path, "other-things", {"test_registry.things": {"double": "acme_things:Part"}})
    (tmp_path / "acme_things.py").write_text("NUMBER = 3\nclass Part: pass\n")
    (tmp_path / "acme_raises.py").write_text("raise RuntimeError('no licence')\n")
    monkeypatch.syspath_prepend(str(tmp_path))
    importlib.invalidate_caches()
    for name in ("gone", "old", "raises"):
        with pytest.raises(
            ValueError, match=f"thing '{name}' .* of the package acme-things cannot be imported"
        ):
            things().get(name)
    with pytest.raises(ValueError, match="RuntimeError: no licence"):
        things().get("raises")
    with pytest.raises(
        ValueError, match=r"'wrong' .* acme-things is no thing but a int, which cannot be called"
    ):
        things().get("wrong")
    with pytest.raises(ValueError, match="announced by acme-things and other-things: uninstall"):
        things().get("double")
    # Our own names stay ours, and nobody's module was imported for them or for a list.
    assert things().get("own").__name__ == "UserError"  # type: ignore[attr-defined]
    sys.modules.pop("acme_things", None)
    assert things().names() == ["own", "double", "gone", "old", "raises", "wrong"]
    assert "acme_things" not in sys.modules


def test_our_own_parts_are_where_the_registries_say(installed: Path) -> None:
    from engines.backends import BACKENDS
    from pipeline.captioning.gate import CAPTION_RULES
    from pipeline.core.dropping import DROP_POLICIES
    from pipeline.export.interface import EXPORTERS
    from pipeline.sources.kinds import SOURCES
    from pipeline.store.place import PLACES
    from pipeline.tracking.interface import TRACKERS
    from sca.data.annotations import READERS
    from sca.data.text import TOKENIZERS
    from sca.modeling.language_model import LANGUAGE_MODELS

    for parts in (
        BACKENDS, CAPTION_RULES, DROP_POLICIES, EXPORTERS, LANGUAGE_MODELS, PLACES, READERS, SOURCES, TOKENIZERS, TRACKERS
    ):  # fmt: skip
        for name in parts.own:
            assert callable(parts.get(name))
        assert set(parts.names()) > set(parts.own), f"the guide brings a {parts.kind}"
