# SPDX-License-Identifier: Apache-2.0
"""A wheel of the tree: what is in it, and that it works outside the checkout without a download."""

import importlib.metadata
import json
import os
import pathlib
import re
import shutil
import subprocess
import sys
import sysconfig
import venv
import zipfile

import pytest

PACKAGES = {"core", "rwkvjax", "snn", "perception", "nlp"}
NEEDS_SETUPTOOLS = 77  # licence expressions; also in pyproject.toml

PROBE = """
import importlib, json, pathlib, pkgutil, sys
found = {}
for name in sys.argv[1:]:
    package = importlib.import_module(name)
    for public in package.__all__:
        if not hasattr(package, public):
            importlib.import_module(f"{name}.{public}")
    found[name] = str(pathlib.Path(package.__file__).parent)
from nlp.evaluation import tasks
print(json.dumps({"packages": found, "tasks": len(tasks.catalogue())}))
"""


def _sources(repo, target):
    """Copies the packages and the project file: building in the tree would leave files there."""
    for name in (*PACKAGES, "configs", "tests", "benchmarks", "docs"):
        ignore = shutil.ignore_patterns("__pycache__", "*.so", "golden", "figures")
        shutil.copytree(repo / name, target / name, ignore=ignore)
    for name in ("pyproject.toml", "README.md", "LICENSE"):
        shutil.copy(repo / name, target / name)


@pytest.fixture(scope="module")
def wheel(repo, tmp_path_factory):
    try:
        have = importlib.metadata.version("setuptools")
    except importlib.metadata.PackageNotFoundError:
        have = "0"
    if int(have.split(".")[0]) < NEEDS_SETUPTOOLS:
        pytest.skip(f"building offline needs setuptools>={NEEDS_SETUPTOOLS} here, found {have}")
    folder = tmp_path_factory.mktemp("wheel")
    _sources(repo, folder / "tree")
    build = "import setuptools.build_meta as b, sys; print(b.build_wheel(sys.argv[1]))"
    command = [sys.executable, "-c", build, str(folder)]
    done = subprocess.run(command, cwd=folder / "tree", capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    (path,) = folder.glob("*.whl")
    return path


@pytest.fixture(scope="module")
def installed(wheel, tmp_path_factory):
    """(interpreter, site-packages, empty folder): a fresh environment that sees the dependencies of
    this one, but nothing of the checkout."""
    folder = tmp_path_factory.mktemp("environment")
    venv.create(folder / "venv", with_pip=False, symlinks=os.name != "nt")
    base = {"base": str(folder / "venv"), "platbase": str(folder / "venv")}
    site = pathlib.Path(sysconfig.get_path("purelib", "venv", base))
    scripts = pathlib.Path(sysconfig.get_path("scripts", "venv", base))
    # A pure wheel without scripts is installed by unpacking it.
    with zipfile.ZipFile(wheel) as archive:
        archive.extractall(site)
    # Packages of the running environment come after, and its .pth files are not read, so that an
    # editable install of the checkout stays out.
    (site / "dependencies.pth").write_text(sysconfig.get_path("purelib") + "\n")
    empty = folder / "elsewhere"
    empty.mkdir()
    return scripts / "python", site, empty


def run(installed, *arguments):
    python, _, empty = installed
    environment = {k: v for k, v in os.environ.items() if not k.startswith("PYTHON")}
    command = [str(python), *arguments]
    return subprocess.run(command, cwd=empty, env=environment, capture_output=True, text=True)


def test_contents(repo, wheel):
    with zipfile.ZipFile(wheel) as archive:
        names = set(archive.namelist())
    tops = {name.split("/")[0] for name in names}
    assert {top for top in tops if not top.endswith(".dist-info")} == PACKAGES
    for package in PACKAGES:
        assert f"{package}/py.typed" in names
        for path in (repo / package).rglob("*"):
            relative = path.relative_to(repo).as_posix()
            if path.suffix in (".py", ".c", ".toml") and "__pycache__" not in relative:
                assert relative in names, f"{relative} is not in the wheel"
    assert any(name.endswith("licenses/LICENSE") for name in names)


def test_packages_import_outside_the_checkout(repo, installed):
    done = run(installed, "-c", PROBE, *sorted(PACKAGES))
    assert done.returncode == 0, done.stderr
    found = json.loads(done.stdout)
    site = installed[1].resolve()
    for package, folder in found["packages"].items():
        assert pathlib.Path(folder).resolve() == site / package
    assert found["tasks"] >= 25


def test_programs_that_need_the_checkout_say_so(installed):
    config = "--config=configs/rwkvjax/quickstart.py"
    done = run(installed, "-m", "rwkvjax.train", config, "--workdir=run")
    assert done.returncode == 2 and "Traceback" not in done.stderr
    assert "no configuration file configs/rwkvjax/quickstart.py" in done.stderr
    assert "checkout" in done.stderr
    done = run(installed, "-m", "core.doctor", "--json")
    assert done.returncode == 0, done.stderr
    lacks = {row["config"]: row["lacks"] for row in json.loads(done.stdout)["jobs"]}
    (why,) = lacks["configs/rwkvjax/quickstart.py"]
    assert "checkout" in why


def test_the_project_file_asks_for_what_this_test_builds_with(repo):
    text = (repo / "pyproject.toml").read_text(encoding="utf-8")
    assert re.search(rf'requires = \["setuptools>={NEEDS_SETUPTOOLS}"\]', text)
