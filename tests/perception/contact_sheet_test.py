# SPDX-License-Identifier: Apache-2.0
"""The contact sheets of all sets, and the program that writes them."""

import subprocess

import numpy as np
import pytest

from perception import contact_sheet

FIRST = {"svrt": 1, "svrt_ood": "arrows", "art": "rmts", "clevr_lite": "rmts", "oddity": "topology"}


@pytest.mark.parametrize("name", contact_sheet.SETS)
def test_sheets_show_rows_of_framed_images(name):
    pytest.importorskip("PIL")
    picture = contact_sheet.sheet(name, [FIRST[name]], 2, 6, "test", 0)
    assert picture.dtype == np.uint8 and picture.ndim == 3
    side = 100 if name == "oddity" else 128
    assert picture.shape[0] == 2 * (side + 10) and picture.shape[1] >= 4 * side
    assert 255 in picture and 150 in picture
    # Every example has a green frame where its answer is; the names stand on the left.
    green = (picture == contact_sheet._GREEN).all(-1)
    assert green[:, contact_sheet._NAMES :].any() and not green[:, : contact_sheet._NAMES].any()
    assert (picture[: side + 10, : contact_sheet._NAMES] < 60).any()  # the name of the problem
    assert contact_sheet.problems_of(name)


def test_the_program_writes_a_png_and_explains_mistakes(tmp_path, python, repo):
    pytest.importorskip("PIL")
    command = [python, "-m", "perception.contact_sheet", "--rows=1", "--columns=2"]
    out = tmp_path / "sheet.png"
    run = subprocess.run(
        [*command, "--problem=22", f"--out={out}"], cwd=repo, capture_output=True, text=True
    )
    assert run.returncode == 0, run.stderr
    assert out.read_bytes().startswith(b"\x89PNG") and "svrt 22" in run.stdout
    run = subprocess.run([*command, "--problem=24"], cwd=repo, capture_output=True, text=True)
    assert run.returncode == 2 and run.stderr == "error: SVRT has problems 1 ... 23, got 24\n"
