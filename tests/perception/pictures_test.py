# SPDX-License-Identifier: Apache-2.0
"""The program that draws what is seen."""

from types import SimpleNamespace

import numpy as np
import pytest

from core import cli, plots
from perception import pictures, show
from perception.fixation import FixationConfig
from perception.frontend import FrontEndConfig
from perception.tasks import reasoning_run


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


def test_transparent_and_grey_pictures(tmp_path):
    """Grey with opacity: the second channel is no colour; what is transparent is white."""
    image = pytest.importorskip("PIL.Image")
    grey = np.full((64, 64), 40, np.uint8)
    opacity = np.full((64, 64), 255, np.uint8)
    opacity[:, 32:] = 0
    image.fromarray(np.stack([grey, opacity], -1), "LA").save(tmp_path / "la.png")
    image.fromarray(grey, "L").save(tmp_path / "l.png")
    image.fromarray(np.stack([grey] * 3, -1)).save(tmp_path / "rgb.bmp")
    found = show.read_picture(str(tmp_path / "la.png"))[0, ..., 0]
    assert (found[:, :32] == 40).all() and (found[:, 32:] == 255).all()
    for name in ("l.png", "rgb.bmp"):
        assert (show.read_picture(str(tmp_path / name)) == 40).all()


@pytest.mark.parametrize("colours", (1, 3))
def test_mosaic_keeps_every_glimpse_and_its_colours(colours):
    """Three channels are three scales of a grey image, or one scale of a coloured one."""
    content = np.linspace(0, 1, 4 * 3 * 3 * 3, dtype=np.float32).reshape(4, 3, 3, 3)
    canvas = pictures._mosaic(content, colours)
    if colours == 3:
        assert canvas.shape[2:] == (3,)
        np.testing.assert_array_equal(canvas[:3, :3], np.moveaxis(content[0], 0, -1))
        return
    np.testing.assert_array_equal(canvas[3:6, :3], content[0, 1])
    np.testing.assert_array_equal(np.sort(canvas[~np.isnan(canvas)]), content.ravel())


def test_pictures_of_a_run_with_a_single_test_problem(tmp_path, monkeypatch):
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    (tmp_path / "metrics.jsonl").write_text('{"step": 1, "accuracy": 0.5}\n')
    data = reasoning_run.DataConfig("svrt/22", test=1)
    front = FrontEndConfig(fixation=FixationConfig(count=4))
    cfg = SimpleNamespace(data=data, model=reasoning_run.ModelConfig(), frontend=front)
    task = SimpleNamespace(network=SimpleNamespace(inputs=("content", "location")))
    pictures.run_pictures(cfg, task, {}, tmp_path)
    assert (tmp_path / "glimpses.png").read_bytes().startswith(b"\x89PNG")


def test_one_source_of_images(tmp_path):
    with pytest.raises(cli.UserError, match="either --set or --image"):
        show.main(flags_of(f"--output={tmp_path}/look.png"))
