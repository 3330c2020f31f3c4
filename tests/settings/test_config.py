"""Settings: presets load, overrides work, and mistakes get a hint."""

from __future__ import annotations

from pathlib import Path

import pytest

from pipeline.settings.config import RunConfig, load_config, preset_names


@pytest.mark.parametrize("name", preset_names())
def test_every_preset_loads(name: str) -> None:
    config = load_config(name)
    assert RunConfig.model_validate(config.model_dump()) == config


def test_default_preset_states_the_defaults() -> None:
    assert load_config("default") == RunConfig()


def test_overrides_reach_nested_groups() -> None:
    config = load_config("fast", ["perception.probing.budget=3", "runtime.address=null", "model=demo"])
    assert config.perception.probing.budget == 3
    assert config.perception.probing.grid == load_config("fast").perception.probing.grid


def test_a_preset_can_be_a_file(tmp_path: Path) -> None:
    path = tmp_path / "mine.yaml"
    path.write_text("keyframes: {interval_s: 3}\n")
    assert load_config(str(path)).keyframes.interval_s == 3


@pytest.mark.parametrize(
    ("preset", "settings", "hint"),
    [
        ("defualt", [], "did you mean 'default'"),
        ("missing.yaml", [], "missing.yaml: no such preset file"),
        ("default", ["keyframes.intervall_s=1"], "did you mean 'interval_s'"),
        ("default", ["perceptoin.max_regions=1"], "did you mean 'perception'"),
        ("default", ["interval_s=1"], "keyframes.interval_s"),
        ("default", ["keyframes.interval_s=-1"], "keyframes.interval_s = -1: input should be greater than 0"),
        ("default", ["keyframes.interval_s"], "group.key=value"),
        ("default", ["model.name=x"], "model is a value"),
        ("default", ["runtime.kind=rya"], "runtime.kind"),
        ("default", ["keyframes.interval_s=[1"], "YAML"),
    ],
)
def test_mistakes_get_one_line_with_a_hint(preset: str, settings: list[str], hint: str) -> None:
    with pytest.raises(ValueError) as error:  # noqa: PT011 (the text is checked below)
        load_config(preset, settings)
    assert hint in str(error.value)
    assert "\n" not in str(error.value)


def test_unreadable_preset_file(tmp_path: Path) -> None:
    path = tmp_path / "broken.yaml"
    path.write_text("a: [1,\nb: {")
    with pytest.raises(ValueError, match=r"broken\.yaml: not a readable YAML file"):
        load_config(str(path))
