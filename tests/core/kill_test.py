# SPDX-License-Identifier: Apache-2.0
"""A run that is really killed, at several moments, ends as if nothing had happened."""

import os
import pathlib
import signal
import subprocess
import time

import pytest

from core import checkpoint, metrics

STEPS = 24


def _start(python, repo, workdir, pause=0.0):
    env = {**os.environ, "XLA_FLAGS": "", "JAX_PLATFORMS": "cpu"}
    command = [python, "-m", "tests.core.run_toy", str(workdir), str(STEPS), str(pause)]
    return subprocess.Popen(
        command, cwd=repo, env=env, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True
    )


def _finish(process):
    out, _ = process.communicate(timeout=120)
    assert process.returncode == 0, out
    return out


def _results(workdir):
    """Everything that must not depend on interruptions: all losses and evaluations."""
    drop = ("time", "steps_per_s", "examples_per_s")
    records = metrics.read_jsonl(workdir / "metrics.jsonl")
    return [{k: v for k, v in r.items() if k not in drop} for r in records]


def _saving(root: pathlib.Path) -> bool:
    """A save is under way: its temporary directory exists."""
    return root.is_dir() and any("tmp" in p.name for p in root.iterdir())


def _step(root: pathlib.Path) -> int:
    return max(checkpoint._complete_steps(root), default=0)


MOMENTS = {
    "before the first save": lambda root: root.is_dir(),
    "during the first save": _saving,
    "during a later save": lambda root: _step(root) >= 8 and _saving(root),
    "between saves": lambda root: _step(root) >= 16 and not _saving(root),
}


@pytest.fixture(scope="module")
def uninterrupted(tmp_path_factory, repo):
    import sys

    workdir = tmp_path_factory.mktemp("whole")
    _finish(_start(sys.executable, repo, workdir))
    return _results(workdir)


def test_killed_at_several_moments(tmp_path, python, repo, uninterrupted):
    root = tmp_path / "checkpoints"
    hits = []
    for name, due in MOMENTS.items():
        process = _start(python, repo, tmp_path, pause=0.03)
        deadline = time.monotonic() + 90
        while process.poll() is None and time.monotonic() < deadline:
            if due(root):
                process.send_signal(signal.SIGKILL)
                break
            time.sleep(0.0005)
        process.communicate()
        hits.append((name, process.returncode))
    assert all(code == -signal.SIGKILL for _, code in hits), hits
    out = _finish(_start(python, repo, tmp_path))
    assert "resumed from step" in out
    assert _results(tmp_path) == uninterrupted
    assert len([r for r in uninterrupted if "loss" in r]) == STEPS
