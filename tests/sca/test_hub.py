"""Models from a hub: cut downloads go on, damaged ones are told, and without a network what is missing is named."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
from safetensors.torch import save_file

from sca.hub import CachedRepository
from sca.registry import load
from tests.fixtures.make_parity_snapshot import released_layout, released_state
from tests.stub_hub import StubHub
from tests.tiny_models import tiny_model, word_tokenizer

pytestmark = pytest.mark.promise("pull")

ROOT = Path(__file__).resolve().parents[2]
REPOSITORY = "somebody/tiny-sca"


@pytest.fixture(scope="module")
def files(tmp_path_factory: pytest.TempPathFactory) -> dict[str, bytes]:
    folder = tmp_path_factory.mktemp("released")
    model = tiny_model()
    (folder / "config.json").write_text(json.dumps(released_layout(model.config)))
    save_file(
        {name: value.contiguous() for name, value in released_state(model).items()},
        folder / "model.safetensors",
    )
    word_tokenizer().save(str(folder / "tokenizer.json"))
    (folder / "tokenizer_config.json").write_text('{"tokenizer_class": "PreTrainedTokenizerFast"}')
    found = {path.name: path.read_bytes() for path in folder.iterdir()}
    return found | {"pytorch_model.bin": b"the same weights once more", "README.txt": b"read me"}


@pytest.fixture
def hub(files: dict[str, bytes]) -> Iterator[StubHub]:
    served = StubHub(REPOSITORY, files, large={"model.safetensors", "pytorch_model.bin"})
    yield served
    served.close()


def start(hub: StubHub | str, cache: Path, *words: str) -> subprocess.Popen[str]:
    address = hub if isinstance(hub, str) else hub.address
    environment = {name: value for name, value in os.environ.items() if not name.startswith("HF_")}
    environment |= {"HF_ENDPOINT": address, "HF_HUB_CACHE": str(cache), "HF_HUB_DISABLE_TELEMETRY": "1"}
    return subprocess.Popen(
        [sys.executable, "-m", "pipeline.cli", "models", *words],
        cwd=ROOT, env=environment, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True,
    )  # fmt: skip


def test_a_killed_pull_goes_on_by_range_and_the_model_is_whole(
    hub: StubHub, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    whole = len(hub.files["model.safetensors"])
    hub.wait_after = whole // 2
    first = start(hub, tmp_path, "pull", REPOSITORY)
    assert hub.paused.wait(60)
    while not any(path.stat().st_size for path in tmp_path.rglob("*.part")) and first.poll() is None:
        time.sleep(0.05)
    first.send_signal(signal.SIGKILL)
    first.communicate()
    assert ("model.safetensors", None) in hub.ranges

    offline = start("http://127.0.0.1:1", tmp_path, "pull", REPOSITORY)
    _, told = offline.communicate(timeout=120)
    assert offline.returncode == 2
    assert "missing here: model.safetensors" in told
    assert told.count("\n") == 1

    hub.wait_after = None
    hub.ranges.clear()
    again = start(hub, tmp_path, "pull", REPOSITORY)
    _, told = again.communicate(timeout=120)
    assert again.returncode == 0, told
    asked = dict(hub.ranges)
    assert list(asked) == ["model.safetensors"], "only what was not whole is fetched again"
    assert asked["model.safetensors"].startswith("bytes=")
    assert 0 < int(asked["model.safetensors"][6:-1]) < whole

    use_cache(monkeypatch, None, tmp_path)
    assert load(REPOSITORY).config.image_size == 128


def use_cache(monkeypatch: pytest.MonkeyPatch, hub: StubHub | None, cache: Path) -> None:
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_CACHE", str(cache))
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", hub is None)
    if hub is not None:
        monkeypatch.setattr("huggingface_hub.constants.ENDPOINT", hub.address)
        for name in ("hf_api", "file_download"):
            monkeypatch.setattr(f"huggingface_hub.{name}.constants.ENDPOINT", hub.address)
        template = hub.address + "/{repo_id}/resolve/{revision}/{filename}"
        monkeypatch.setattr(
            "huggingface_hub.file_download.HUGGINGFACE_CO_URL_TEMPLATE", template, raising=False
        )
        monkeypatch.setattr("huggingface_hub.constants.HUGGINGFACE_CO_URL_TEMPLATE", template)
        monkeypatch.setattr("huggingface_hub.hf_api.api.endpoint", hub.address, raising=False)


def test_bytes_that_are_not_those_of_the_digest_are_refused(
    hub: StubHub, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    use_cache(monkeypatch, hub, tmp_path)
    body = bytearray(hub.files["model.safetensors"])
    body[-9] ^= 4
    hub.wrong["model.safetensors"] = bytes(body)
    cached = CachedRepository(REPOSITORY)
    with pytest.raises(ValueError, match=r"model\.safetensors of somebody/tiny-sca is damaged"):
        cached.pull()
    assert cached.missing() == ["model.safetensors"]
    hub.wrong.clear()
    folder = cached.pull()
    assert cached.missing() == []
    assert not (folder / "pytorch_model.bin").exists(), "the same weights are not fetched twice"
    blob = (folder / "model.safetensors").resolve()
    blob.write_bytes(bytes(body))
    assert cached.damaged() == ["model.safetensors"]
    cached.pull()
    assert cached.damaged() == []


@pytest.mark.parametrize("name", ["../outside.json", "/etc/outside.json", "a/../../outside.json"])
def test_a_hub_writes_nothing_outside_its_folder(
    hub: StubHub, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, name: str
) -> None:
    use_cache(monkeypatch, hub, tmp_path / "cache")
    hub.files[name] = b"{}"
    with pytest.raises(ValueError, match="outside its folder"):
        CachedRepository(REPOSITORY).pull()
    assert not list(tmp_path.rglob("outside.json"))


def test_offline_names_say_what_is_missing(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    use_cache(monkeypatch, None, tmp_path)
    for name in ("nobody/nothing-of-the-kind", "sca-ollm3bv2-vg"):
        with pytest.raises(
            ValueError, match=r"missing here: config\.json, model\.safetensors or pytorch_model\.bin"
        ):
            load(name)
    with pytest.raises(ValueError, match="has no revisions"):
        load("demo", revision="main")
    with pytest.raises(ValueError, match="is no revision"):
        load("nobody/nothing", revision="../x")
