"""Every setting is explained, does something that is shown somewhere, and stands in the documentation as it is."""

from __future__ import annotations

import re
import subprocess
import sys
from pathlib import Path

import cv2
import numpy as np
import pytest
import yaml
from typer.testing import CliRunner

from pipeline.commands.config import config, settings_reference
from pipeline.core.errors import UserError
from pipeline.settings.config import RunConfig, load_config
from pipeline.settings.reference import Group, Setting, find_setting, groups_of, run_settings
from pipeline.settings.stream_list import StreamEntry
from pipeline.sources import DecodedFrame, open_source
from pipeline.sources.source import SourceOptions
from sca.training.config import TrainingConfig

ROOT = Path(__file__).resolve().parents[2]
SETTINGS = [setting for group in run_settings() for setting in group.settings]


def test_the_page_of_settings_is_up_to_date() -> None:
    page = (ROOT / "docs/settings.md").read_text()
    assert page == settings_reference(), "write it anew: sca config reference > docs/settings.md"


@pytest.mark.parametrize("model", [RunConfig, StreamEntry, TrainingConfig])
def test_every_setting_says_what_it_means(model: type) -> None:
    groups = list(groups_of(model))
    assert all(group.meaning for group in groups)
    assert not [setting.key for group in groups for setting in group.settings if len(setting.meaning) < 10]


def test_no_setting_is_a_stranger() -> None:
    """What no preset, no page written by hand and no test names is a constant, not a setting."""
    files = [
        ROOT / "README.md",
        *ROOT.glob("configs/*.yaml"),
        *ROOT.glob("docs/*.md"),
        *ROOT.glob("tests/**/*.py"),
    ]
    words = {
        word for file in files if file.name != "settings.md" for word in re.findall(r"\w+", file.read_text())
    }
    assert not [setting.key for setting in SETTINGS if setting.key.rsplit(".", 1)[-1] not in words]


def test_a_setting_tells_its_default_its_range_and_the_presets_that_change_it() -> None:
    found = find_setting("keyframes.interval_s")
    assert isinstance(found, Setting)
    assert float(found.default) == load_config("default").keyframes.interval_s
    assert {name: float(value) for name, value in found.presets.items()} == {
        name: load_config(name).keyframes.interval_s for name in ("fast", "gpu", "quality")
    }
    assert found.allowed == "above 0"
    assert find_setting("interval_s") == found
    assert isinstance(find_setting("flow.shedding"), Group)


@pytest.mark.parametrize(
    ("key", "hint"),
    [
        ("keyframes.intervall_s", "did you mean 'keyframes.interval_s'"),
        ("intervall_s", "did you mean 'keyframes.interval_s'"),
        ("sheding", "did you mean 'flow.shedding'"),
        ("change", "keyframes.change or captions.change"),
        ("", "unknown setting ''"),
    ],
)
def test_an_unknown_or_ambiguous_setting_gets_a_hint(key: str, hint: str) -> None:
    with pytest.raises(UserError, match=re.escape(hint)):
        find_setting(key)


def test_show_prints_the_settings_in_effect_as_a_preset_that_can_be_used(tmp_path: Path) -> None:
    shown = CliRunner().invoke(config, ["show", "--preset", "live", "--set", "keyframes.interval_s=3"])
    assert shown.exit_code == 0
    assert yaml.safe_load(shown.stdout)["keyframes"]["interval_s"] == 3
    (tmp_path / "mine.yaml").write_text(shown.stdout)
    assert load_config(str(tmp_path / "mine.yaml")) == load_config("live", ["keyframes.interval_s=3"])


def test_explain_prints_one_setting_or_a_group() -> None:
    single = CliRunner().invoke(config, ["explain", "captions.refresh_s"]).stdout
    assert "default: 20.0" in single
    assert "preset live: 60.0" in single
    assert "above 0" in single
    group = CliRunner().invoke(config, ["explain", "tracking"]).stdout
    assert all(f"tracking.{name} (" in group for name in ("confirm_hits", "lost_s", "reentry_s"))


def test_settings_are_explained_without_heavy_libraries() -> None:
    code = (
        "import sys; from pipeline.commands.config import config; from typer.testing import CliRunner;"
        "assert CliRunner().invoke(config, ['explain', 'model']).exit_code == 0;"
        "print(*[n for n in ('torch', 'ray', 'transformers', 'openvino', 'zarr') if n in sys.modules])"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True, cwd=ROOT)
    assert done.stdout.strip() == ""


def test_pictures_of_a_folder_are_as_far_apart_as_told(tmp_path: Path) -> None:
    for number in range(3):
        cv2.imwrite(str(tmp_path / f"{number}.png"), np.zeros((20, 30, 3), np.uint8))
    source = open_source(str(tmp_path), start_ns=0, options=SourceOptions(image_interval_s=0.25))
    times = [event.time.pts_ns for event in source if isinstance(event, DecodedFrame)]
    source.close()
    assert times == [0, 250_000_000, 500_000_000]
