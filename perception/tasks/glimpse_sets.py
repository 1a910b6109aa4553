# SPDX-License-Identifier: Apache-2.0
"""Glimpses of a data set, taken once and kept on disk.

Nothing before the first trained layer is random or trained, so each image (and, for training, each
of its four flips: flips come before fixations) is looked at once. Files of 256 problems are written
as they are made; a build that was stopped goes on where it was. Contents are kept in half precision
(relative error at most 2^-11), locations in single.
"""

from __future__ import annotations

import hashlib
import json
import os
import sys
from pathlib import Path
from typing import Any

import jax
import numpy as np

from core import config as config_lib
from core import files, random
from core.data import Source
from perception import images as images_lib
from perception.frontend import FrontEndConfig, look
from perception.tasks.image_sets import ImageSet, Reader, candidates, flip

VERSION = 1  # raise when the front end gives other glimpses for the same configuration
PART = 256  # problems in a file
NAMES = ("content", "location", "label")


class GlimpseSet(Source):
    """Examples "content" [B, P, T, K, g, g], "location" [B, P, T, 2] and "label" [B]."""

    def __init__(
        self,
        images: ImageSet,
        cfg: FrontEndConfig,
        reader: Reader,
        *,
        grey: bool = False,
        folder: str | os.PathLike[str] | None = None,
    ):
        """Opens the glimpses of a set, taking those that are missing.

        Args:
          images: the set.
          cfg: how it is looked at.
          reader: order and flips of the examples.
          grey: as in `image_sets.candidates`.
          folder: of all glimpse sets; by default in the user's cache.
        """
        self._reader = reader
        self._flips = 4 if reader.flips else 1
        root = Path(folder) if folder is not None else default_folder()
        self.folder = root / fingerprint(images, cfg, self._flips, grey)
        self._parts = [
            self._open(images, cfg, grey, number) for number in range(-(-len(images) // PART))
        ]

        self._ones: np.ndarray | None = None  # images of label 1, found when they are needed

    def __len__(self) -> int:
        return self._reader.size

    def get(self, indices: np.ndarray) -> dict[str, np.ndarray]:
        """See `Source.get`."""
        rows, flips = self._reader(indices)
        label = self._read("label", rows, None)
        donors = self._reader.donors(indices, rows, label)
        found = {
            "content": self._read("content", donors, flips),
            "location": self._read("location", rows, flips),
            "label": label,
        }
        if self._reader.splice:
            self._splice(found, indices, flips)
        return found

    def _splice(self, batch: dict[str, np.ndarray], indices: np.ndarray, flips: np.ndarray) -> None:
        """Changes some examples of label 0 in place, see `Reader.halves`."""
        if self._ones is None:
            labels = self._read("label", np.arange(len(self)), None)
            self._ones = np.flatnonzero(labels == 1)
        steps = batch["location"].shape[2]
        if len(self._ones) < 2 or steps < 2:
            raise ValueError(
                "splice needs two images of label 1 and two fixations, got"
                f" {len(self._ones)} and {steps}"
            )
        first, second, cuts = self._reader.halves(indices, batch["label"], self._ones, steps)
        changed = np.flatnonzero(first >= 0)
        for name in ("content", "location"):
            parts = [self._read(name, x[changed], flips[changed]) for x in (first, second)]
            early = np.arange(steps) < cuts[changed, None]
            early = early.reshape(len(changed), 1, steps, *[1] * (parts[0].ndim - 3))
            batch[name][changed] = np.where(early, *parts)

    def _read(self, name: str, rows: np.ndarray, flips: np.ndarray | None) -> np.ndarray:
        """Values of one name; of the given flips, where there are some."""
        numbers, inside = rows // PART, rows % PART
        kept = self._parts[0][name]
        out = np.empty((len(rows), *kept.shape[1 if flips is None else 2 :]), kept.dtype)
        for number in np.unique(numbers):
            here = numbers == number
            own = (inside[here],) if flips is None else (inside[here], flips[here])
            out[here] = self._parts[number][name][own]
        return out

    # --- making -----------------------------------------------------------------------------------

    def _open(
        self, images: ImageSet, cfg: FrontEndConfig, grey: bool, number: int
    ) -> dict[str, np.ndarray]:
        """The arrays of one file, memory-mapped."""
        paths = {name: self.folder / f"{number:05d}-{name}.npy" for name in NAMES}
        if not all(path.is_file() for path in paths.values()):
            self._make(images, cfg, grey, number, paths)
        opened = {}
        for name, path in paths.items():
            try:
                opened[name] = np.load(path, mmap_mode="r", allow_pickle=False)
            except (ValueError, EOFError) as error:
                raise ValueError(f"{path} is damaged ({error}); delete its folder") from error
        return opened

    def _make(
        self,
        images: ImageSet,
        cfg: FrontEndConfig,
        grey: bool,
        number: int,
        paths: dict[str, Path],
    ) -> None:
        self.folder.mkdir(parents=True, exist_ok=True)
        if number == 0:
            print(f"taking glimpses of {describe(images)} once: {self.folder}", file=sys.stderr)
            about = json.dumps(description(images, cfg, self._flips, grey), indent=2)
            files.write_text(self.folder / "about.json", about)
        rows = np.arange(number * PART, min((number + 1) * PART, len(images)))
        batch = images.rows(rows)
        panels = candidates(batch["image"], grey)
        count = panels.shape[1]
        looks = []
        for which in range(self._flips):
            flat = flip(panels, which).reshape(-1, *panels.shape[2:])
            looks.append(take(np.ascontiguousarray(flat), cfg, rows[0] * count, which))
        shape = (len(rows), count)
        arrays = {
            "content": np.stack([x.reshape(*shape, *x.shape[1:]) for x, _ in looks], axis=1),
            "location": np.stack([x.reshape(*shape, *x.shape[1:]) for _, x in looks], axis=1),
            "label": batch["label"],
        }
        for name, path in paths.items():
            with files.atomic_write(path) as file:
                np.save(file, arrays[name])


def take(
    images: np.ndarray, cfg: FrontEndConfig, first: int, flip: int = 0
) -> tuple[np.ndarray, np.ndarray]:
    """Glimpses of bytes: (content float16 [M, T, K, g, g], location float32 [M, T, 2]).

    Args:
      images: uint8 [M, H, H, C].
      cfg: how they are looked at.
      first: number of the first image, and flip: both seed random fixations.
    """
    ready = images_lib.prepare(images, cfg.polarity)
    # One size for all calls: whole files and the last, shorter one share a compiled program.
    short = -len(ready) % PART
    ready = np.concatenate([ready, np.zeros((short, *ready.shape[1:]), ready.dtype)])
    found = []
    for start in range(0, len(ready), PART):
        keys = None
        if cfg.policy == "random":
            numbers = np.arange(start, start + PART) + first
            base = jax.random.fold_in(random.stream(0, "fixations"), flip)
            keys = jax.vmap(lambda n, base=base: jax.random.fold_in(base, n))(numbers)
        seen = jax.device_get(look(ready[start : start + PART], cfg, keys))
        found.append((seen.content.astype(np.float16), seen.location))
    content, location = (np.concatenate(x)[: len(images)] for x in zip(*found, strict=True))
    return content, location


def describe(images: ImageSet) -> str:
    """Name, split and size of a set."""
    return f"{'/'.join(map(str, images.name))} ({images.split}, {len(images)})"


def description(images: ImageSet, cfg: FrontEndConfig, flips: int, grey: bool) -> dict[str, Any]:
    """Everything that the glimpses of a set depend on."""
    front = config_lib.to_dict(cfg)
    del front["chunk"]
    if not front["radius"]:  # 0 is the sensor's own: the same glimpses as without the key
        del front["radius"]
    return {
        "version": VERSION,
        "images": [list(images.name), images.version, images.split, len(images), images.seed],
        "flips": flips,
        "grey": grey,
        "frontend": front,
    }


def fingerprint(images: ImageSet, cfg: FrontEndConfig, flips: int, grey: bool) -> str:
    """Folder name: readable beginning, and a digest of the description."""
    text = json.dumps(description(images, cfg, flips, grey), sort_keys=True)
    digest = hashlib.blake2b(text.encode(), digest_size=8).hexdigest()
    return f"{'-'.join(map(str, images.name))}-{images.split}-{cfg.sensor}-{digest}"


def default_folder() -> Path:
    """$XDG_CACHE_HOME/rwkvjax/glimpses, by default below ~/.cache."""
    home = os.environ.get("XDG_CACHE_HOME", "~/.cache")
    return Path(home).expanduser() / "rwkvjax" / "glimpses"
