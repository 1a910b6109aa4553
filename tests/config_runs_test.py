# SPDX-License-Identifier: Apache-2.0
"""Every configuration runs, shrunk: one or two steps, few examples, then its report and pictures.

Each goes through the program that its docstring names, with real data where they are found. They
are `slow`: each compiles for 3 to 30 seconds. `documented_test.py` always runs the first, and the
tests of the packages build most. A configuration without a run fails the first test.
"""

import os

import pytest

from core import jobs
from tests import forked, shrunk
from tests.forked import ONE_DEVICE
from tests.shrunk import SHRUNK

pytestmark = pytest.mark.skipif(not hasattr(os, "fork"), reason="programs run in forks")


def test_every_configuration_is_run(repo):
    files = {
        path.relative_to(repo / "configs").with_suffix("").as_posix()
        for path in (repo / "configs").rglob("*.py")
        if "def get_config" in path.read_text(encoding="utf-8")
    }
    assert files == {*SHRUNK}, "a configuration without a run in tests/shrunk.py, or the reverse"
    assert files == {job.config for job in jobs.JOBS}


@pytest.fixture(scope="module")
def programs(repo, tmp_path_factory):
    with forked.Programs(repo, tmp_path_factory.mktemp("programs")) as running:
        yield running


@pytest.fixture(scope="module")
def folder(repo, tmp_path_factory):
    folder = tmp_path_factory.mktemp("runs")
    shrunk.fill(folder, repo)
    return folder


@pytest.fixture(scope="module")
def endpoint():
    from tests.nlp.endpoint import Endpoint

    with Endpoint() as server:
        yield server


def run(config, programs, folder, url=""):
    (job,) = [job for job in jobs.JOBS if job.config == config]
    if lacking := shrunk.lacks(config):
        pytest.skip(lacking)
    argument, extra = SHRUNK[config]
    path = f"configs/{config}.py" + (f":{argument}" if argument else "")
    command = [job.program, f"--workdir=runs/{config}", *extra.format(url=url).split()]
    if argument is not None:
        command.insert(1, f"--config={path}")
    env = {**ONE_DEVICE, "XDG_CACHE_HOME": str(folder), "OPENAI_API_KEY": "no-key-is-needed"}
    done = programs.run(command, folder, env, "", 280)
    print(f"{config}: {done.cpu:.1f} s of processor time")
    assert done.status == 0, f"{done.out[-500:]}{done.err[-3000:]}"
    assert any((folder / "runs" / config / name).is_file() for name in RESULTS), config
    return done


# What a finished run leaves: the report or the configuration of a training, or results.
RESULTS = ("config.json", "results.json", "results.md")


@pytest.mark.slow
@pytest.mark.parametrize("config", SHRUNK)
def test_configurations_run(programs, folder, config, request):
    base = folder / "runs" / "base"
    if "runs/base" in "".join(map(str, SHRUNK[config])) and not base.exists():
        run("rwkvjax/quickstart", programs, folder)
        (folder / "runs" / "rwkvjax" / "quickstart").rename(base)
    url = request.getfixturevalue("endpoint").url if "{url}" in SHRUNK[config][1] else ""
    run(config, programs, folder, url)
