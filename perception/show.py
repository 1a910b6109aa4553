# SPDX-License-Identifier: Apache-2.0
"""Draws what the front end does with images: saliency, numbered fixations, glimpses.

    python -m perception.show --set=svrt/1 --output=look.png
    python -m perception.show --set=art/rmts/95 --polarity=light --output=look.png
    python -m perception.show --image=drawing.png --output=look.png

An image of one's own is a square picture file, dark on light unless --polarity=light. Needs
matplotlib (extra `plots`).
"""

from __future__ import annotations

import sys

import numpy as np
from absl import flags

from core import cli, plots
from perception import images as images_lib
from perception import pictures
from perception.fixation import FixationConfig
from perception.frontend import POLICIES, SENSORS, FrontEndConfig
from perception.tasks import image_sets

FLAGS = flags.FlagValues()
flags.DEFINE_string("set", "", "Name of a data set, e.g. svrt/1.", flag_values=FLAGS)
flags.DEFINE_string("image", "", "Picture file instead of a set.", flag_values=FLAGS)
flags.DEFINE_string("output", None, "PNG to write.", flag_values=FLAGS, required=True)
flags.DEFINE_integer("rows", 3, "Images of the set.", 1, flag_values=FLAGS)
flags.DEFINE_integer("seed", 0, "Of the set.", flag_values=FLAGS)
flags.DEFINE_enum("sensor", "logpolar", sorted(SENSORS), "Sensor.", flag_values=FLAGS)
flags.DEFINE_enum("policy", "salient", POLICIES, "Where to look.", flag_values=FLAGS)
flags.DEFINE_enum("polarity", "ink", images_lib.POLARITIES, "What is 1.", flag_values=FLAGS)
flags.DEFINE_integer("glimpses", 15, "Number of fixations.", 1, flag_values=FLAGS)
flags.DEFINE_integer("size", 11, "Of the inhibited discs.", 1, flag_values=FLAGS)


def read_picture(path: str) -> np.ndarray:
    """A picture file as grey uint8 [1, H, H, 1]; what is transparent is shown on white."""
    values = np.asarray(plots.pyplot().imread(path))
    # PNG is read as floats in [0, 1], other files as the integers that they hold.
    top = 1.0 if values.dtype.kind == "f" else float(np.iinfo(values.dtype).max)
    light = values.astype(np.float64) / top
    if light.ndim == 3:
        colours = light.shape[-1] - (light.shape[-1] in (2, 4))  # the last one is the opacity
        opacity = light[..., colours] if colours < light.shape[-1] else 1.0
        light = 1 - opacity * (1 - light[..., :colours].mean(axis=-1))
    return (255 * light).round().astype(np.uint8)[None, ..., None]


def main(values: flags.FlagValues) -> None:
    """Draws."""
    with cli.explain():
        if bool(values.set) == bool(values.image):
            raise ValueError("give either --set or --image")
        cfg = FrontEndConfig(
            sensor=values.sensor,
            policy=values.policy,
            polarity=values.polarity,
            fixation=FixationConfig(count=values.glimpses, size=values.size),
        )
        if values.image:
            images = read_picture(values.image)
        else:
            drawn = image_sets.open_set(values.set, "test", values.rows, values.seed)
            panels = image_sets.candidates(drawn.rows(np.arange(values.rows))["image"], grey=False)
            images = panels.reshape(-1, *panels.shape[2:])[: values.rows]
        shown = f"{values.set or values.image}: {len(images)} images, {values.glimpses} glimpses"
        print(shown, file=sys.stderr, flush=True)
        pictures.scan_path(images, cfg, values.output)
    print(values.output)


if __name__ == "__main__":
    cli.program(main, FLAGS, __doc__)
