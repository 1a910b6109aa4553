# SPDX-License-Identifier: Apache-2.0
"""Printed commands that are not programs of ours: installing, testing, the site, a request.

pip install        every extra and constraints file exists (.ci/run installs them)
pytest             every path exists; the suite itself runs them
sphinx             .ci/run builds the site with the same arguments
notebooks/make.py  notebooks_test.py compares what it would write
curl               the request is one that the server understands
arecord            records sound; what it is piped into runs in documented_test.py
"""

import json
import re
import shlex
import tomllib

import pytest

from tests import documented

_SHELL = re.compile(
    r"\b(pip install|pytest|sphinx|sphinx-build|curl|arecord|python notebooks/\S+)\b"
)
_KNOWN = ("pip install", "pytest", "sphinx", "curl", "arecord", "python notebooks/make.py")


@pytest.fixture(scope="module")
def lines(repo):
    """(page, line) of every line of a code block, command in a line of text, and record."""
    pages = [repo / "README.md", repo / "CHANGELOG.md", *sorted((repo / "docs").glob("*.md"))]
    found = []
    for page in pages:
        for line in documented.lines(page.read_text(encoding="utf-8")):
            if _SHELL.search(line) and (page.name, line) not in found:
                found.append((page.name, line))
    for path in sorted((repo / "benchmarks" / "records").glob("*.toml")):
        command = tomllib.loads(path.read_text(encoding="utf-8"))["command"]
        if _SHELL.search(command):
            found.append((path.name, command))
    assert len(found) >= 10
    return found


def test_every_command_is_of_a_known_kind(lines):
    for where, line in lines:
        assert any(kind in line for kind in _KNOWN), f"{where}: {line}"


def test_extras_and_constraints_exist(repo, lines):
    project = tomllib.loads((repo / "pyproject.toml").read_text(encoding="utf-8"))["project"]
    extras = project["optional-dependencies"]
    count = 0
    for where, line in lines:
        for names in re.findall(r"(?:rwkvjax|\.)\[([\w,]+)\]", line):
            assert {*names.split(",")} <= {*extras}, f"{where}: {line}"
            count += 1
        for path in re.findall(r"-c (\S+\.txt)", line):
            assert (repo / path).is_file(), f"{where}: {line}"
    assert count >= 4
    source = "\n".join(
        path.read_text(encoding="utf-8")
        for folder in ("core", "rwkvjax", "snn", "perception", "nlp")
        for path in (repo / folder).rglob("*.py")
    )
    named = {n for names in re.findall(r"rwkvjax\[([\w,]+)\]", source) for n in names.split(",")}
    assert named and named <= {*extras}, named - {*extras}


def test_paths_of_tests_exist(repo, lines):
    count = 0
    for where, line in lines:
        for path in re.findall(r"pytest [^`]*?(tests/[\w/]+\.py)", line):
            assert (repo / path).is_file(), f"{where}: {line}"
            count += 1
    assert count >= 5


def test_the_site_is_built_as_printed(repo, lines):
    checked = (repo / ".ci" / "run").read_text(encoding="utf-8")
    printed = [line for _, line in lines if "sphinx -W" in line]
    assert printed
    for line in printed:
        words = [w for w in shlex.split(line.split("sphinx", 1)[1]) if w != "-q"]
        assert all(word in checked for word in words), line
    assert "pytest -n 2" in checked, "the README's test command is the one of .ci/run"


def test_printed_requests_are_understood(repo):
    schema = pytest.importorskip("rwkvjax.serving.schema")
    text = (repo / "docs" / "serving.md").read_text(encoding="utf-8")
    requests = re.findall(r"curl \S+(/v1/\S+) .*?-d '(.*?)'", text, re.S)
    assert requests
    models = {
        "/v1/chat/completions": schema.ChatRequest,
        "/v1/completions": schema.CompletionRequest,
        "/v1/embeddings": schema.EmbeddingRequest,
    }
    for path, body in requests:
        read = models[path].model_validate(json.loads(body))
        assert read.model.startswith("rwkv")
