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
