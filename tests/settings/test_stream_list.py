"""`sca run cams.yaml`: several sources, each with its own settings, and errors that name the key."""

from __future__ import annotations

from pathlib import Path

import pytest

from pipeline.core.restarts import RestartPolicy
from pipeline.runtime.plan import plan_run
from pipeline.settings.stream_list import stream_requests
from tests.videos import write_video


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    for name in ("a", "b"):
        write_video(tmp_path / f"{name}.mp4", frames=5)
    return tmp_path


def listed(folder: Path, text: str) -> str:
    (folder / "cams.yaml").write_text(text.replace("FOLDER", str(folder)))
    return str(folder / "cams.yaml")


def test_each_stream_has_its_own_preset_settings_and_policies(folder: Path) -> None:
    cams = listed(
        folder,
        """
        streams:
          - {name: gate, uri: FOLDER/a.mp4, preset: live, policy: drop-oldest, restart: never}
          - {uri: FOLDER/b.mp4, settings: {keyframes.interval_s: 3, display.min_score: 0.9}}
        """,
    )
    config, requests = stream_requests([cams, str(folder / "a.mp4")], settings=["display.min_score=0.1"])
    plan = plan_run(requests, config, store=folder / "s.zarr")
    gate, b, plain = plan.streams
    assert [stream.stream for stream in plan.streams] == ["gate", "b", "a"]
    assert gate.config.captions.refresh_s == 60
    assert gate.config.flow.policy == "drop-oldest"
    assert gate.config.restarts.policy is RestartPolicy.NEVER
    assert gate.config.sources.reconnect == "never"
    assert b.config.keyframes.interval_s == 3
    assert plain.config == config
    # The command line wins over the list.
    assert {stream.config.display.min_score for stream in plan.streams} == {0.1}


def test_a_plain_list_and_a_glob_work_too(folder: Path) -> None:
    _, requests = stream_requests([listed(folder, "- uri: FOLDER/*.mp4\n")])
    assert [Path(request.uri).name for request in requests] == ["a.mp4", "b.mp4"]


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("streams: [{uri: FOLDER/a.mp4, presett: live}]", ["presett", "did you mean 'preset'"]),
        ("stream: [{uri: x}]", ["did you mean 'streams'"]),
        ("streams: [{name: a}]", ["uri", "field required"]),
        ("streams: []", ["streams"]),
        ("streams: [{uri: FOLDER/a.mp4, policy: keep-newest}]", ["policy", "keep-latest"]),
        ("streams: [{uri: FOLDER/a.mp4, preset: liv}]", ["did you mean 'live'"]),
        ("streams: [{uri: FOLDER/a.mp4, settings: {keyframe.change: 1}}]", ["did you mean 'keyframes'"]),
        ("streams: [{uri: FOLDER/a.mp4, settings: {runtime.kind: ray}}]", ["runtime.kind", "whole run"]),
        ("streams: [{uri: FOLDER/a.mp4, settings: {model: demo}}]", ["model", "whole run"]),
        ("streams: [{uri: 'FOLDER/*.mp4', name: one}]", ["'one'", "2 inputs"]),
        ("just words", ["not a list of streams"]),
    ],
)
def test_a_wrong_list_is_explained_with_the_file_and_the_remedy(
    folder: Path, text: str, words: list[str]
) -> None:
    with pytest.raises(ValueError, match=r"cams\.yaml: ") as error:
        stream_requests([listed(folder, text)])
    assert all(word in str(error.value) for word in words), error.value


def test_a_broken_file_tells_its_line_and_never_its_text(folder: Path) -> None:
    cams = listed(folder, "streams:\n - uri: rtsp://admin:hunter2@camera/x\n   name: [\n")
    with pytest.raises(ValueError, match=r"cams\.yaml: not a readable YAML file at line") as error:
        stream_requests([cams])
    assert "hunter2" not in str(error.value)
    with pytest.raises(ValueError, match=r"missing\.yaml: no such file"):
        stream_requests([str(folder / "missing.yaml")])


@pytest.mark.promise("list-files")
@pytest.mark.parametrize(
    "uri",
    [
        "rtsp://${file:FOLDER/login}/live",
        "rtsp://cam.example/${file:FOLDER/login}",
        "${file:FOLDER/login}://cam.example/live",
        "rtsp://cam.example/live?${file:FOLDER/login}=1",
        "rtsp://cam.example/live?channel=1#${file:FOLDER/login}",
        "rtsp://cam.example:${file:FOLDER/login}/a@b",
        "rtsp://x:${file:/etc/hostname}@cam.example/live",
        "rtsp://x:${file:FOLDER/../other}@cam.example/live",
        "rtsp://x:${file:~/.ssh/config}@cam.example/live",
        "rtsp://x:${file:FOLDER/link}@cam.example/live",
    ],
)
def test_a_list_hands_no_file_on_but_its_own_credentials(folder: Path, uri: str) -> None:
    (folder / "login").write_text("jq7Secret")
    (folder / "link").symlink_to("/etc/hostname")
    with pytest.raises(ValueError, match=r"cams\.yaml: stream yard: \$\{file:") as error:
        stream_requests([listed(folder, f"- {{name: yard, uri: '{uri}'}}")])
    assert "jq7Secret" not in str(error.value)


@pytest.mark.parametrize(
    "uri",
    [
        "rtsp://viewer:${file:FOLDER/login}@cam.example/live",
        "rtsp://${file:FOLDER/login}@cam.example/live",
        "rtsp://cam.example/live?channel=1&pw=${file:FOLDER/login}",
        "rtsp://viewer:${file:/run/secrets/cam}@cam.example/live",
        "rtsp://viewer:${CAMERA_PASSWORD}@cam.example/live",
    ],
)
def test_a_list_reads_the_credentials_that_lie_beside_it(folder: Path, uri: str) -> None:
    (folder / "login").write_text("jq7Secret")
    _, (request,) = stream_requests([listed(folder, f"- {{uri: '{uri}'}}")])
    assert request.uri == uri.replace("FOLDER", str(folder))


@pytest.mark.promise("list-variables")
@pytest.mark.parametrize(
    "name", ["AWS_SECRET_ACCESS_KEY", "HOME", "DB_PASSWORD", "CAMPAIGN_TOKEN", "STREAMLIT_KEY"]
)
def test_a_list_hands_no_variable_on_that_is_not_for_cameras(
    folder: Path, name: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv(name, "jq7Secret")
    text = f"- {{name: yard, uri: 'rtsp://x:${{{name}}}@cam.example/live'}}"
    with pytest.raises(
        ValueError, match=rf"stream yard: \$\{{{name}\}}: .*SCA_LIST_VARIABLES={name}"
    ) as error:
        stream_requests([listed(folder, text)])
    assert "jq7Secret" not in str(error.value)
    monkeypatch.setenv("SCA_LIST_VARIABLES", f"OTHER, {name}")
    assert len(stream_requests([listed(folder, text)])[1]) == 1


@pytest.mark.parametrize("name", ["CAMERA_PASSWORD", "YARD_CAM2_PW", "RTSP_USER", "SCA_YARD", "nvr_login"])
def test_a_list_reads_variables_for_cameras(folder: Path, name: str) -> None:
    assert stream_requests([listed(folder, f"- uri: 'rtsp://x:${{{name}}}@cam.example/live'")])[1]
