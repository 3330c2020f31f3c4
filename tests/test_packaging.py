"""What surrounds the program: compose file, image, presets and the README's commands fit the command line."""

from __future__ import annotations

import json
import re
import shlex
from pathlib import Path
from typing import cast

import pytest
import typer
import yaml

from pipeline.cli import app
from pipeline.core.records import Gap
from pipeline.runtime.progress import StreamProgress
from pipeline.serving.metrics import RunMetrics
from pipeline.settings.config import load_config, preset_names

ROOT = Path(__file__).resolve().parent.parent


def parse(arguments: list[str]) -> None:
    """Parse `sca ARGUMENTS` without running it; raises typer's exception if it would not be understood."""
    group = cast(typer.core.TyperGroup, typer.main.get_command(app))
    context = group.make_context("sca", list(arguments), resilient_parsing=False)
    name, command, rest = group.resolve_command(context, list(arguments))
    assert name is not None
    assert command is not None
    command.make_context(name, rest)


def compose() -> dict[str, dict[str, object]]:
    services = yaml.safe_load((ROOT / "docker-compose.yml").read_text())["services"]
    assert isinstance(services, dict)
    return services


def filled_in(word: str) -> str:
    return re.sub(r"\$\{\w+:-([^}]*)\}", r"\1", word)


@pytest.mark.parametrize("profile", ["cpu", "gpu"])
def test_each_compose_profile_starts_a_run_that_the_command_line_understands(profile: str) -> None:
    starting = [service for service in compose().values() if profile in service["profiles"]]  # type: ignore[operator]
    assert len(starting) == 1
    words = [filled_in(str(word)) for word in starting[0]["command"]]  # type: ignore[attr-defined]
    assert words[0] == "run"
    parse(words)
    assert words[words.index("--preset") + 1] in preset_names()


def test_the_gpu_profile_asks_for_a_gpu_that_can_decode_video() -> None:
    service = compose()["gpu"]
    devices = service["deploy"]["resources"]["reservations"]["devices"]  # type: ignore[index]
    assert {"gpu", "video", "compute"} <= set(devices[0]["capabilities"])


def test_the_image_installs_what_it_copies() -> None:
    lines = (ROOT / "Dockerfile").read_text().splitlines()
    copied = {word.rstrip("/") for line in lines if line.startswith("COPY ") for word in line.split()[1:-1]}
    assert {
        "sca",
        "engines",
        "pipeline",
        "configs",
        "constraints.txt",
        "pyproject.toml",
        "setup.py",
    } <= copied
    assert all((ROOT / name).exists() for name in copied)


def deployed(path: str) -> object:
    return yaml.safe_load((ROOT / "deploy" / path).read_text())


def metric_names() -> set[str]:
    """Every sample name that a run with one stream and one of each event hands out."""
    metrics = RunMetrics()
    metrics.progress(StreamProgress("cam", None))
    metrics.gap("cam", Gap(0, 1, "dropped", 1))
    metrics.queryable("cam", 0.5)
    metrics.shed("cam", 1)
    metrics.restarted("perception", "")
    metrics.running({"cam": True})
    metrics.depths({})
    metrics.memory("source-cam", 1)
    return {sample.name for family in metrics.registry.collect() for sample in family.samples}


def test_every_query_of_the_dashboard_names_metrics_and_labels_that_exist() -> None:
    dashboard = json.loads((ROOT / "deploy/grafana/dashboards/sca.json").read_text())
    queries = [target["expr"] for panel in dashboard["panels"] for target in panel["targets"]]
    named = {name for query in queries for name in re.findall(r"\b(?:sca|process)_\w+", query)}
    assert named <= metric_names()
    ours = {name for name in metric_names() if name.startswith("sca_")}
    shown = {name for name in ours if not name.endswith(("_created", "_sum", "_count"))}
    assert shown <= named, "a metric that the dashboard forgets"
    sources = deployed("grafana/provisioning/datasources/prometheus.yml")["datasources"]  # type: ignore[index]
    assert {panel["datasource"]["uid"] for panel in dashboard["panels"]} == {
        source["uid"] for source in sources
    }


def test_the_test_camera_is_started_as_its_server_expects_and_found_where_the_example_says() -> None:
    service = compose()["camera"]
    image = (ROOT / service["build"]["dockerfile"]).read_text()  # type: ignore[index]
    copied = [line.split()[1] for line in image.splitlines() if line.startswith("COPY ")]
    assert copied
    assert all((ROOT / path).exists() for path in copied)
    (entry,) = [
        line.removeprefix("ENTRYPOINT ") for line in image.splitlines() if line.startswith("ENTRYPOINT ")
    ]
    words = [str(word) for word in [*json.loads(entry), *service["command"]]]  # type: ignore[misc]
    options = {word for word in words if word.startswith("--")}
    server = (ROOT / "tests" / "rtsp_server.py").read_text()
    assert options <= set(re.findall(r'add_argument\("(--\w+)"', server))
    (path,) = re.findall(r'add_factory\("(\S+)"', server)
    port = words[words.index("--port") + 1]
    assert service["expose"] == [port]
    assert f"rtsp://camera:{port}{path}" in (ROOT / "docker-compose.yml").read_text()


def test_a_camera_password_reaches_the_program_by_its_environment() -> None:
    for profile in ("cpu", "gpu"):
        assert "CAMERA_PASSWORD" in compose()[profile]["environment"]  # type: ignore[operator]
    assert "viewer:${CAMERA_PASSWORD}@" in (ROOT / "docker-compose.yml").read_text()


def test_prometheus_asks_where_the_program_answers() -> None:
    services = compose()
    (scrape,) = deployed("prometheus.yml")["scrape_configs"]  # type: ignore[index]
    (target,) = scrape["dns_sd_configs"]
    for profile in ("cpu", "gpu"):
        words = [str(word) for word in services[profile]["command"]]  # type: ignore[attr-defined]
        assert words[words.index("--metrics-port") + 1] == str(target["port"])
        aliases = services[profile]["networks"]["default"]["aliases"]  # type: ignore[index]
        assert aliases == target["names"]
    source = deployed("grafana/provisioning/datasources/prometheus.yml")["datasources"][0]  # type: ignore[index]
    assert source["url"] == "http://prometheus:9090"
    for name in ("prometheus", "grafana"):
        assert services[name]["profiles"] == ["metrics"]
        for volume in services[name]["volumes"]:  # type: ignore[attr-defined]
            assert (ROOT / volume.split(":")[0]).exists()
    assert "/var/lib/grafana/dashboards" in str(deployed("grafana/provisioning/dashboards/files.yml"))


@pytest.mark.parametrize("preset", preset_names())
def test_every_shipped_preset_is_valid(preset: str) -> None:
    load_config(preset)


def documented_commands() -> list[str]:
    pages = [ROOT / "README.md", *sorted((ROOT / "docs").glob("*.md"))]
    blocks = [
        block for page in pages for block in re.findall(r"```(?:bash|sh)\n(.*?)```", page.read_text(), re.S)
    ]
    lines = [
        line.split(" #")[0].strip() for block in blocks for line in block.replace("\\\n", " ").splitlines()
    ]
    return sorted({line for line in lines if line.startswith("sca ")})


@pytest.mark.parametrize("line", documented_commands())
def test_every_documented_command_is_understood(line: str) -> None:
    parse(shlex.split(line)[1:])


def test_every_make_target_in_the_readme_exists() -> None:
    targets = set(re.findall(r"^([a-z]+):", (ROOT / "Makefile").read_text(), re.M))
    assert set(re.findall(r"make ([a-z]+)", (ROOT / "README.md").read_text())) <= targets
