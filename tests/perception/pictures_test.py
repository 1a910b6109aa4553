# SPDX-License-Identifier: Apache-2.0
"""The program that draws what is seen."""

import numpy as np
import pytest

from core import cli, plots
from perception import pictures, show


def flags_of(*args):
    show.FLAGS.unparse_flags()
    show.FLAGS(["show", *args])
    return show.FLAGS


def test_own_picture_is_read_and_drawn(tmp_path):
    drawing = np.full((64, 64, 4), 255, np.uint8)
    drawing[20:40, 30, :3] = 0
    plots.pyplot().imsave(tmp_path / "drawing.png", drawing)
    image = show.read_picture(str(tmp_path / "drawing.png"))
    assert image.shape == (1, 64, 64, 1) and image.dtype == np.uint8
    np.testing.assert_array_equal(image[0, ..., 0], drawing[..., 0])
    out = tmp_path / "look.png"
    show.main(flags_of(f"--image={tmp_path}/drawing.png", f"--output={out}", "--glimpses=4"))
    drawn = plots.pyplot().imread(out)
    assert drawn.shape[0] > 200 and drawn.shape[1] > 600 and drawn.std() > 0.1


def test_mosaic_keeps_every_glimpse():
    content = np.arange(4 * 2 * 3 * 3, dtype=np.float32).reshape(4, 2, 3, 3)
    canvas = pictures._mosaic(content)
    shown = canvas[~np.isnan(canvas)]
    np.testing.assert_array_equal(np.sort(shown), np.arange(72))


def test_one_source_of_images(tmp_path):
    with pytest.raises(cli.UserError, match="either --set or --image"):
        show.main(flags_of(f"--output={tmp_path}/look.png"))
