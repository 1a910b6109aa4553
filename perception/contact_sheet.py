# SPDX-License-Identifier: Apache-2.0
"""Examples of a procedural data set on one sheet.

    python -m perception.contact_sheet --set=svrt --problem=1 --out=sheet.png
    python -m perception.contact_sheet --set=svrt_ood --problem=arrows --out=sheet.png
    python -m perception.contact_sheet --set=art --problem=rmts --out=sheet.png
    python -m perception.contact_sheet --set=clevr_lite --problem=identity --out=sheet.png
    python -m perception.contact_sheet --set=oddity --problem=topology --out=sheet.png

One problem fills the sheet; --problem=all (the default) shows every problem of the set, one row
each. Images of two classes are framed white (label 0) and black (label 1); of several panels, the
answer is framed black.
"""

from __future__ import annotations

import pathlib
from collections.abc import Callable
from typing import Any

import numpy as np
from absl import flags

from core import cli, files
from perception.data import art, clevr_lite, image_set, oddity, svrt, svrt_ood
from perception.data.svrt_problems import PROBLEMS

SETS = ("svrt", "svrt_ood", "art", "clevr_lite", "oddity")

_FLAGS = flags.FlagValues()
flags.DEFINE_enum("set", "svrt", SETS, "Which data set.", flag_values=_FLAGS)
flags.DEFINE_string("problem", "all", "Problem, family, task or riddle.", flag_values=_FLAGS)
flags.DEFINE_enum("split", "test", image_set.SPLITS, "Which split.", flag_values=_FLAGS)
flags.DEFINE_integer("rows", 6, "Rows for one problem.", 1, 100, flag_values=_FLAGS)
flags.DEFINE_integer("columns", 12, "Images per row.", 1, 100, flag_values=_FLAGS)
flags.DEFINE_integer("seed", 0, "Seed of the set.", 0, flag_values=_FLAGS)
flags.DEFINE_string("out", "sheet.png", "PNG to write.", flag_values=_FLAGS)

_BORDER = 3
_GREY, _WHITE, _BLACK = 150, 255, 0


def problems_of(name: str) -> list[Any]:
    """All problems, families, tasks or riddles of a set."""
    found: dict[str, list[Any]] = {
        "svrt": list(PROBLEMS),
        "svrt_ood": ["original", *svrt_ood.FAMILIES],
        "art": list(art.TASKS),
        "clevr_lite": ["rmts", "identity"],
        "oddity": list(range(len(oddity.NAMES))),
    }
    return found[name]


def open_set(name: str, problem: Any, split: str, size: int, seed: int) -> image_set.ImageSet:
    """One problem of a set; ValueError for a problem that it does not have."""
    if name in ("svrt", "oddity") and str(problem).isdigit():
        problem = int(problem)
    kinds: dict[str, Callable[..., image_set.ImageSet]] = {
        "svrt": svrt.Svrt,
        "svrt_ood": svrt_ood.SvrtOod,
        "art": art.Art,
        "clevr_lite": clevr_lite.ClevrLite,
        "oddity": oddity.Oddity,
    }
    return kinds[name](problem, split=split, size=size, seed=seed)


def sheet(name: str, problems: list[Any], rows: int, columns: int, split: str, seed: int) -> Any:
    """The sheet as uint8 [height, width, 3]: `rows` rows of each problem."""
    strips: list[np.ndarray] = []
    for problem in problems:
        first = open_set(name, problem, split, 1, seed).rows(np.arange(1))["image"]
        panels = first.shape[1] if _has_panels(name, first) else 1
        per_row = max(1, columns // panels)
        made = open_set(name, problem, split, rows * per_row, seed)
        batch = made.rows(np.arange(rows * per_row))
        tiles = [_tile(i, y, name) for i, y in zip(batch["image"], batch["label"], strict=True)]
        for k in range(rows):
            strips.append(np.concatenate(tiles[k * per_row : (k + 1) * per_row], axis=1))
    width = max(s.shape[1] for s in strips)
    fill = [np.pad(s, ((0, 0), (0, width - s.shape[1]), (0, 0)), constant_values=_GREY)
            for s in strips]  # fmt: skip
    return np.concatenate(fill)


def _has_panels(name: str, images: np.ndarray) -> bool:
    return images.ndim == (5 if name == "clevr_lite" else 4) and name != "svrt_ood"


def _tile(image: np.ndarray, label: int, name: str) -> np.ndarray:
    """One example with its frame or frames: uint8 [h, w, 3]."""
    if name in ("oddity", "clevr_lite") or (name == "art" and image.ndim == 3):
        colours = [_BLACK if k == label else _WHITE for k in range(len(image))]
        framed = np.concatenate(
            [_framed(p, c) for p, c in zip(image, colours, strict=True)], axis=1
        )
    else:
        framed = _framed(image, _BLACK if label else _WHITE)
    return np.pad(framed, ((2, 2), (2, 4), (0, 0)), constant_values=_GREY)


def _framed(image: np.ndarray, colour: int) -> np.ndarray:
    if image.ndim == 2:
        image = np.repeat(image[..., None], 3, axis=-1)
    edges = ((_BORDER, _BORDER), (_BORDER, _BORDER), (0, 0))
    return np.pad(image, edges, constant_values=colour)


def write_png(path: str | pathlib.Path, picture: np.ndarray) -> None:
    """Writes uint8 [h, w, 3] as PNG, atomically; ImportError says what is missing."""
    try:
        from PIL import Image
    except ImportError as error:
        raise ImportError("contact sheets need Pillow: pip install pillow") from error
    with files.atomic_write(path) as file:
        Image.fromarray(picture).save(file, format="PNG")


def main(values: flags.FlagValues) -> None:
    """Draws the sheet that the flags ask for."""
    every = values.problem == "all"
    with cli.explain():
        problems = problems_of(values.set) if every else [values.problem]
        rows = 1 if every else values.rows
        picture = sheet(values.set, problems, rows, values.columns, values.split, values.seed)
        write_png(values.out, picture)
    print(
        f"{values.out}: {values.set} {values.problem}, {values.split}, {picture.shape[:2]} pixels"
    )


if __name__ == "__main__":
    cli.program(main, _FLAGS, __doc__)
