# SPDX-License-Identifier: Apache-2.0
"""Notebooks run with tiny settings, draw their pictures, and are what their .py says."""

import importlib.util
import re
import runpy
import tempfile

import jax
import pytest

pyplot = pytest.importorskip("matplotlib.pyplot")

# Notebook -> number of its figures.
FIGURES = {
    "train_finch": 4,
    "chat_and_tune": 3,
    "ttfs": 4,
    "ostl": 6,
    "spiking_speech": 5,
    "gap": 5,
    "oddity": 6,
    "personal_nlp": 5,
}
PARTS = ("pip", "jax.devices()", "RWKVJAX_TINY", "$$", "plt.show()", "## What to change next")
# Those that compile for ten seconds and more run whole with -m slow, and always so many cells.
LONG = {
    "ostl": 3,
    "train_finch": 3,
    "chat_and_tune": 3,
    "spiking_speech": 3,
    "gap": 3,
    "oddity": 4,
    "personal_nlp": 3,
}


def _make(repo):
    pytest.importorskip("jupytext")
    spec = importlib.util.spec_from_file_location("make", repo / "notebooks" / "make.py")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


@pytest.fixture
def tiny(monkeypatch, tmp_path):
    """Tiny settings; everything that is written goes to a folder of the test."""
    monkeypatch.setenv("RWKVJAX_TINY", "1")
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))
    precision = jax.config.jax_default_matmul_precision
    yield
    jax.config.update("jax_default_matmul_precision", precision)
    pyplot.close("all")


def test_every_notebook_is_tested(repo):
    assert {path.stem for path in _make(repo).sources()} == set(FIGURES)


@pytest.mark.parametrize("name", FIGURES)
def test_the_notebook_is_made_from_its_source(repo, name):
    source = repo / "notebooks" / f"{name}.py"
    stored = source.with_suffix(".ipynb").read_text(encoding="utf-8")
    assert stored == _make(repo).notebook(source), "run: python notebooks/make.py"


@pytest.mark.parametrize("name", FIGURES)
def test_the_notebook_has_the_usual_parts(repo, name):
    text = (repo / "notebooks" / f"{name}.py").read_text(encoding="utf-8")
    for part in PARTS:
        assert part in text, part


@pytest.mark.parametrize(
    "name",
    [pytest.param(n, marks=pytest.mark.slow) if n in LONG else n for n in FIGURES],
)
def test_the_notebook_runs(repo, tiny, name):
    runpy.run_path(str(repo / "notebooks" / f"{name}.py"))
    assert len(pyplot.get_fignums()) == FIGURES[name]


@pytest.mark.parametrize("name", LONG)
def test_the_beginning_of_a_long_notebook_runs(repo, tiny, name):
    text = (repo / "notebooks" / f"{name}.py").read_text(encoding="utf-8")
    cells = [c for c in re.split(r"^# %%", text, flags=re.M)[1:] if not c.startswith(" [markdown]")]
    exec(compile("\n".join(cells[: LONG[name]]), name, "exec"), {"__name__": name})
