# SPDX-License-Identifier: Apache-2.0
"""Programs draw into files; whoever had pyplot before keeps the figures' own backend."""

import os
import subprocess

import pytest

_NOTEBOOK = "import matplotlib.pyplot\n"


@pytest.mark.parametrize(("before", "expected"), [("", "agg"), (_NOTEBOOK, "svg")])
def test_a_notebook_keeps_its_backend(python, repo, before, expected):
    code = f"{before}from core import plots\nplots.pyplot()\nimport matplotlib as m\n"
    code += "print(m.get_backend().lower())"
    environment = {**os.environ, "MPLBACKEND": "svg", "PYTHONPATH": str(repo)}
    done = subprocess.run([python, "-c", code], capture_output=True, text=True, env=environment)
    assert done.stdout.strip() == expected, done.stderr


def test_a_figure_is_written_or_stays_open(tmp_path):
    pyplot = pytest.importorskip("matplotlib.pyplot")
    from core import plots

    log = tmp_path / "metrics.jsonl"
    log.write_text("".join(f'{{"step": {i}, "loss": {5.0 - i}}}\n' for i in range(3)))
    written = plots.loss_curve(log, tmp_path / "loss.png")
    assert (tmp_path / "loss.png").read_bytes()[:4] == b"\x89PNG"
    assert written.number not in pyplot.get_fignums()
    shown = plots.loss_curve(log)
    assert shown.number in pyplot.get_fignums()
    assert [*shown.axes[0].lines[0].get_ydata()] == [5.0, 4.0, 3.0]
    pyplot.close(shown)
