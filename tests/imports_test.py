# SPDX-License-Identifier: Apache-2.0
"""Imports flow one way; each edge between domain packages lives in one adapter file."""

import ast
import pathlib

import pytest

PACKAGES = ("core", "rwkvjax", "snn", "perception", "nlp")

# Package -> {other package: the one file that may import it}; every package may import core.
ADAPTERS: dict[str, dict[str, str]] = {
    "core": {},
    "rwkvjax": {},
    "snn": {"rwkvjax": "snn/rwkv_cells.py"},
    "perception": {"snn": "perception/snn_cells.py", "rwkvjax": "perception/rwkv_cells.py"},
    "nlp": {"rwkvjax": "nlp/rwkv_models.py"},
}

# Third-party package -> the files (or folders) that own it.
OWNERS = {
    "orbax": ("core/checkpoint.py",),
    "grain": ("core/data.py",),
    "tensorboardX": ("core/metrics.py",),
    "wandb": ("core/metrics.py",),
}


def _imports(path: pathlib.Path) -> set[str]:
    found = set()
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.Import):
            found |= {alias.name.split(".")[0] for alias in node.names}
        elif isinstance(node, ast.ImportFrom) and node.module and not node.level:
            found.add(node.module.split(".")[0])
    return found


def _files(repo: pathlib.Path, package: str) -> list[pathlib.Path]:
    return sorted((repo / package).rglob("*.py"))


@pytest.mark.parametrize("package", PACKAGES)
def test_packages_import_only_what_the_table_allows(repo, package):
    for path in _files(repo, package):
        name = path.relative_to(repo).as_posix()
        for other in _imports(path) & (set(PACKAGES) - {package, "core"}):
            allowed = ADAPTERS[package].get(other)
            assert name == allowed, f"{name} imports {other}; allowed only in {allowed}"
        forbidden = _imports(path) & {"configs", "tests", "benchmarks", "notebooks"}
        assert not forbidden, f"{name} imports {forbidden}"


@pytest.mark.parametrize("third_party", OWNERS)
def test_third_party_packages_have_one_owner(repo, third_party):
    for package in PACKAGES:
        for path in _files(repo, package):
            name = path.relative_to(repo).as_posix()
            if third_party in _imports(path):
                assert name in OWNERS[third_party], f"{name} imports {third_party}"


def test_every_file_names_its_licence(repo):
    for package in (*PACKAGES, "tests", "benchmarks", "configs"):
        for path in _files(repo, package):
            text = path.read_text(encoding="utf-8")
            assert not text or text.startswith("# SPDX-License-Identifier: Apache-2.0"), path
