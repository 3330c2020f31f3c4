"""Wrong settings are explained in one line: place, allowed range, nearest name, and never a value that may be a secret."""

from __future__ import annotations

from typing import Any

import pytest
from hypothesis import example, given
from hypothesis import strategies as st
from pydantic import BaseModel, ValidationError

from pipeline.settings.config import RunConfig
from pipeline.settings.stream_list import StreamList
from sca.config import ScaConfig
from sca.errors import UserError
from sca.setting_errors import did_you_mean, explain_settings
from sca.training.config import TrainingConfig, parse_training_config
from tests.tiny_models import tiny_config


def explained(root: type[BaseModel], values: Any) -> str:
    with pytest.raises(ValidationError) as error:
        root.model_validate(values)
    return explain_settings(error.value, root)


@pytest.mark.parametrize(
    ("root", "values", "text"),
    [
        (
            RunConfig,
            {"keyframes": {"interval_s": -1}},
            "setting keyframes.interval_s = -1: input should be greater than 0",
        ),
        (RunConfig, {"interval_s": 1}, "unknown setting 'interval_s'; did you mean 'keyframes.interval_s'?; known: "),
        (RunConfig, {"flow": {"buffr": 1}}, "unknown setting 'flow.buffr'; did you mean 'buffer'?; known in flow: "),
        (RunConfig, {"runtime": {"kind": "rya"}}, "setting runtime.kind (a text): input should be 'ray' or 'inline'"),
        (RunConfig, {"runtime": {"kind": "inlin"}}, "; did you mean 'inline'?"),
        (RunConfig, {"restarts": {"policy": "alway"}}, "; did you mean 'always'?"),
        (RunConfig, {"keyframes": [1]}, "setting keyframes (a list): input should be a valid dictionary"),
        (StreamList, {"streams": [{"urii": "x"}]}, "unknown setting 'streams.0.urii'; did you mean 'uri'?"),
        (StreamList, {"streams": [{"name": "x"}]}, "setting streams.0.uri: field required"),
        (TrainingConfig, {"langage": {}}, "unknown setting 'langage'; did you mean 'language'?"),
    ],
)  # fmt: skip
def test_the_place_the_range_and_the_nearest_name_are_told(
    root: type[BaseModel], values: Any, text: str
) -> None:
    assert text in explained(root, values)


def test_a_misspelt_name_is_not_told_as_a_missing_one_too() -> None:
    assert "required" not in explained(StreamList, {"streams": [{"urii": "x"}]})


def test_the_first_problems_are_told_and_the_others_counted() -> None:
    wrong = {name: -1 for name in ("interval_s", "max_interval_s", "change")} | {"a": 1, "b": 2}
    text = explained(RunConfig, {"keyframes": wrong})
    assert text.count("setting 'keyframes.") == 2
    assert text.count("setting keyframes.") == 1
    assert text.endswith("; and 2 more")


def test_a_choice_of_groups_is_told_once_by_the_names_that_were_written() -> None:
    values = tiny_config().to_dict()
    values["encoder"]["depht"] = 3
    with pytest.raises(UserError, match=r"unknown setting 'encoder\.depht'") as error:
        ScaConfig.from_dict(values)
    assert "EncoderConfig" not in str(error.value)


SECRET = "hunter2"


@pytest.mark.parametrize(
    ("root", "values"),
    [
        (StreamList, {"streams": [{"uri": ["rtsp://admin:hunter2@cam/1"]}]}),
        (StreamList, {"streams": [{"uri": {"rtsp": "admin:hunter2"}}]}),
        (StreamList, {"streams": ["rtsp://admin:hunter2@cam/1"]}),
        (StreamList, {"streams": "rtsp://admin:hunter2@cam/1"}),
        (StreamList, {"streams": [{"uri": "x", "restart": "rtsp://admin:hunter2@cam/1"}]}),
        (RunConfig, {"runtime": {"address": {"password": "hunter2"}}}),
        (RunConfig, {"keyframes": {"interval_s": "hunter2"}}),
        (RunConfig, {"keyframes": "hunter2"}),
    ],
)
def test_a_text_is_never_shown(root: type[BaseModel], values: Any) -> None:
    assert SECRET not in explained(root, values)


def test_a_recipe_that_is_no_yaml_is_told_by_its_line(tmp_path: Any) -> None:
    from sca.training.config import read_training_config

    path = tmp_path / "recipe.yaml"
    path.write_text("model: {}\nkey: [hunter2\n")
    with pytest.raises(UserError, match=r"recipe\.yaml is not valid YAML at line 3") as error:
        read_training_config(path)
    assert SECRET not in str(error.value)
    assert "\n" not in str(error.value)


json_values = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=5),
    lambda inner: st.lists(inner, max_size=2) | st.dictionaries(st.text(max_size=5), inner, max_size=2),
    max_leaves=4,
)


@given(
    st.dictionaries(
        st.sampled_from([*TrainingConfig.model_fields, "x"]), json_values, max_size=3
    )
)  # fmt: skip
@example({"shares": {"\r": None}})
@example({"shares": {"\u2028\ud800": None}})
def test_whatever_is_written_gets_one_line(values: dict[str, Any]) -> None:
    text = complaint(values)
    assert text is None or (text.startswith("recipe: ") and len(text.splitlines()) == 1)


def complaint(values: dict[str, Any]) -> str | None:
    try:
        parse_training_config(values, "recipe")
    except UserError as error:
        return str(error)
    return None


def test_only_near_names_are_suggested() -> None:
    assert did_you_mean("keyframe", ["keyframes", "flow"]) == "; did you mean 'keyframes'?"
    assert did_you_mean("zzz", ["keyframes", "flow"]) == ""
