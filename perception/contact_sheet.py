# SPDX-License-Identifier: Apache-2.0
"""Examples of a procedural data set on one sheet.

    python -m perception.contact_sheet --set=svrt --problem=1 --out=sheet.png
    python -m perception.contact_sheet --set=svrt_ood --problem=arrows --out=sheet.png
    python -m perception.contact_sheet --set=art --problem=rmts --out=sheet.png
    python -m perception.contact_sheet --set=clevr_lite --problem=identity --out=sheet.png
    python -m perception.contact_sheet --set=oddity --problem=topology --out=sheet.png

One problem fills the sheet; --problem=all (the default) shows every problem of the set, one row
each. Images of label 1 are framed green, those of label 0 white; of several panels, the answer is
framed green. Needs Pillow.
"""

from __future__ import annotations

import pathlib
import textwrap
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
_GREY, _WHITE, _GREEN = (150, 150, 150), (255, 255, 255), (20, 170, 60)
_NAMES = 150  # pixels of the column of names


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
            row = np.concatenate(tiles[k * per_row : (k + 1) * per_row], axis=1)
            name_of_row = _title(name, problem) if k == 0 else ""
            strips.append(np.concatenate([_written(name_of_row, len(row)), row], axis=1))
    width = max(s.shape[1] for s in strips)
    return np.concatenate([_padded(s, ((0, 0), (0, width - s.shape[1])), _GREY) for s in strips])


def _title(name: str, problem: Any) -> str:
    """What is written beside the first row of a problem."""
    number = str(problem)
    if name == "oddity" and number.isdigit() and int(number) < len(oddity.NAMES):
        return f"{number} {oddity.NAMES[int(number)]}"
    return f"problem {number}" if name == "svrt" else number.replace("_", " ")


def _written(text: str, height: int) -> np.ndarray:
    """Black text on grey: uint8 [height, _NAMES, 3]."""
    try:
        from PIL import Image, ImageDraw
    except ImportError as error:
        raise ImportError("contact sheets need Pillow: pip install pillow") from error
    picture = Image.new("RGB", (_NAMES, height), _GREY)
    lines = "\n".join(textwrap.wrap(text, 22))
    ImageDraw.Draw(picture).multiline_text((6, height // 2 - 10), lines, fill=(0, 0, 0))
    return np.asarray(picture)


def _padded(picture: np.ndarray, edges: Any, colour: tuple[int, int, int]) -> np.ndarray:
    """uint8 [h, w, 3] with a border of one colour; edges: ((top, bottom), (left, right))."""
    channels = [np.pad(picture[..., c], edges, constant_values=colour[c]) for c in range(3)]
    return np.stack(channels, axis=-1)


def _has_panels(name: str, images: np.ndarray) -> bool:
    return images.ndim == (5 if name == "clevr_lite" else 4) and name != "svrt_ood"


def _tile(image: np.ndarray, label: int, name: str) -> np.ndarray:
    """One example with its frame or frames: uint8 [h, w, 3]."""
    if name in ("oddity", "clevr_lite") or (name == "art" and image.ndim == 3):
        colours = [_GREEN if k == label else _WHITE for k in range(len(image))]
        framed = np.concatenate(
            [_framed(p, c) for p, c in zip(image, colours, strict=True)], axis=1
        )
    else:
        framed = _framed(image, _GREEN if label else _WHITE)
    return _padded(framed, ((2, 2), (2, 4)), _GREY)


def _framed(image: np.ndarray, colour: tuple[int, int, int]) -> np.ndarray:
    if image.ndim == 2:
        image = np.repeat(image[..., None], 3, axis=-1)
    return _padded(image, ((_BORDER, _BORDER), (_BORDER, _BORDER)), colour)


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
