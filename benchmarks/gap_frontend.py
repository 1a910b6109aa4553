# SPDX-License-Identifier: Apache-2.0
"""Images a second of the front end: this package beside a PyTorch loop, same images, one process.

    python -m benchmarks.gap_frontend [--images=256] [--output=frontend.jsonl]

The authors' code is not what is measured here. The peer is a re-implementation of the published
procedure as it is described: patches of all neighbours are laid out for the saliency map, and
every image is looked at by itself in a Python loop over fixations, each glimpse cut out and resized
(or sampled) by its own library call. It is written in the straightforward way, in float32, and its
fixations and glimpses are compared with ours before anything is timed. Needs torch.
"""

from __future__ import annotations

import importlib.util
import json
import math
import statistics
import time
from collections.abc import Callable
from typing import Any

import jax
import numpy as np
from absl import flags

from core import cli
from perception import frontend, images
from perception.data import svrt
from perception.fixation import FixationConfig, fixate
from perception.frontend import FrontEndConfig
from perception.saliency import saliency

FLAGS = flags.FlagValues()
flags.DEFINE_integer("images", 256, "Images for ours.", 8, flag_values=FLAGS)
flags.DEFINE_integer("torch_images", 8, "Images for the loop.", 1, flag_values=FLAGS)
flags.DEFINE_integer("rounds", 5, "Rounds of the timing.", 1, flag_values=FLAGS)
flags.DEFINE_string("output", "", "File for the JSON lines.", flag_values=FLAGS)

PROBLEMS = (1, 7, 21, 23)
COUNT = 15


# --- the peer -----------------------------------------------------------------------------------


def torch_gaussian(size: int) -> Any:
    """Dense kernel [1, 1, size, size]."""
    import torch

    sd = 0.3 * ((size - 1) * 0.5 - 1) + 0.8
    at = torch.arange(size, dtype=torch.float32) - size // 2
    line = torch.exp(-0.5 * (at / sd) ** 2)
    line = line / line.sum()
    return (line[:, None] * line[None])[None, None]


def torch_blur(image: Any, size: int) -> Any:
    """image [1, 1, H, H] with reflected borders."""
    import torch.nn.functional as F

    padded = F.pad(image, (size // 2,) * 4, mode="reflect")
    return F.conv2d(padded, torch_gaussian(size))


def torch_saliency(image: Any) -> Any:
    """Every 5 x 5 patch against those of its 8 neighbours, [H, H]."""
    import torch
    import torch.nn.functional as F

    height = image.shape[-1]
    view = torch_blur(image, 7)
    view = view / view.max()
    patches = F.unfold(F.pad(view, (2,) * 4), 5)[0].T.reshape(height, height, 25)
    ringed = torch.full((height + 2, height + 2, 25), float("inf"))
    ringed[1:-1, 1:-1] = patches
    shifts = [(a, b) for a in range(3) for b in range(3) if (a, b) != (1, 1)]
    others = torch.stack([ringed[a : a + height, b : b + height] for a, b in shifts])
    return ((patches[None] - others) ** 2).sum(-1).amin(0)


def torch_fixations(values: Any, size: int) -> list[tuple[int, int]]:
    """The loop of one map."""
    import torch

    height = values.shape[0]
    grid = torch.linspace(-1, 1, height)
    y, x = torch.meshgrid(grid, grid, indexing="ij")
    at = torch.tensor([1.0, 1.0])
    left, found = values.clone(), []
    for _ in range(COUNT):
        squared = (x - at[0]) ** 2 + (y - at[1]) ** 2
        free = left * (squared > (size / height) ** 2)
        if free.max() > 0:
            winners = torch.nonzero(free == free.max())
            nearest = torch.argmin(squared[winners[:, 0], winners[:, 1]])
            row, column = winners[nearest].tolist()
        else:
            row = column = height - 1
        at = torch.tensor([2 * (column + 1) / height - 1, 2 * (row + 1) / height - 1])
        left = left * ((x - at[0]) ** 2 + (y - at[1]) ** 2 > (size / height) ** 2)
        found.append((row, column))
    return found


def torch_multiscale(image: Any, pixels: list[tuple[int, int]]) -> Any:
    """Glimpses [T, 3, 15, 15] of one image: crop, resize, glimpse by glimpse."""
    import torch
    import torch.nn.functional as F

    views = {1: image, 4: torch_blur(image, 17), 8: torch_blur(image, 65)}
    glimpses = []
    for row, column in pixels:
        scales = []
        for scale, view in views.items():
            side = 15 * scale
            padded = F.pad(view, (side // 2,) * 4)
            window = padded[..., row : row + side, column : column + side]
            small = F.interpolate(window, (15, 15), mode="bilinear", align_corners=False)
            scales.append(small if scale == 1 else small / (small.max() + 1e-6))
        glimpses.append(torch.cat(scales, 1)[0])
    return torch.stack(glimpses)


def torch_logpolar(image: Any, pixels: list[tuple[int, int]]) -> Any:
    """Glimpses [T, 1, 21, 21] of one image, one grid a glimpse."""
    import torch

    view = torch_blur(image, 7)
    view = (view / view.max())[0, 0]
    height = view.shape[0]
    glimpses = []
    for row, column in pixels:
        rho = torch.exp(torch.arange(21) * math.log(48) / 21) - 1
        theta = 2 * math.pi * torch.arange(21) / 21
        across = torch.round(column + 1 + rho[None] * torch.cos(theta)[:, None]).long()
        down = torch.round(row + 1 + rho[None] * torch.sin(theta)[:, None]).long()
        inside = (across >= 0) & (across < height) & (down >= 0) & (down < height)
        values = view[down.clamp(0, height - 1), across.clamp(0, height - 1)]
        glimpses.append((values * inside)[None])
    return torch.stack(glimpses)


def torch_look(batch: np.ndarray, sensor: str) -> tuple[np.ndarray, np.ndarray]:
    """(fixated pixels [B, T, 2], contents) of images [B, H, H, 1], one after the other."""
    import torch

    found, contents = [], []
    with torch.no_grad():
        for one in batch:
            image = torch.from_numpy(np.ascontiguousarray(np.moveaxis(one, -1, 0)))[None]
            size = 11 if sensor == "logpolar" else 15
            pixels = torch_fixations(torch_saliency(image), size)
            sense = torch_logpolar if sensor == "logpolar" else torch_multiscale
            found.append(pixels)
            contents.append(sense(image, pixels).numpy())
    return np.asarray(found), np.stack(contents)


# --- measuring ----------------------------------------------------------------------------------


def rates(programs: dict[str, tuple[int, Callable[[], Any]]], rounds: int) -> dict[str, float]:
    """Median images a second of each program, in turns, after one run to warm up."""
    taken: dict[str, list[float]] = {name: [] for name in programs}
    for _, run in programs.values():
        run()
    for _ in range(rounds):
        for name, (_, run) in programs.items():
            start = time.perf_counter()
            run()
            taken[name].append(time.perf_counter() - start)
    return {name: programs[name][0] / statistics.median(t) for name, t in taken.items()}


def agreement(batch: np.ndarray) -> dict[str, float]:
    """How far the fast mode of the loop departs from the exact one."""
    maps = jax.jit(saliency)(batch)
    exact = np.asarray(fixate(maps, FixationConfig(COUNT, 11)))
    fast = np.asarray(fixate(maps, FixationConfig(COUNT, 11, mode="fast")))
    apart = np.abs(fast[:, :, None] - exact[:, None]).max(-1).min(-1)
    return {
        "same_fixation_same_place": float((exact == fast).all(-1).mean()),
        "first_fixation_equal": float((exact[:, 0] == fast[:, 0]).all(-1).mean()),
        "within_4_pixels_of_some": float((apart <= 4).mean()),
    }


def main(values: flags.FlagValues) -> None:
    """Compares, then times."""
    if not importlib.util.find_spec("torch"):
        raise cli.UserError("the peer of this benchmark is PyTorch: pip install torch")
    each = -(-values.images // len(PROBLEMS))
    rows = np.arange(each)
    bytes_ = [svrt.Svrt(p, "test", size=each, seed=7).rows(rows)["image"] for p in PROBLEMS]
    # Problems in turn, so that the first few images show all of them.
    batch = images.prepare(np.stack(bytes_, 1).reshape(-1, *bytes_[0].shape[1:]))
    few = batch[: values.torch_images]
    lines: list[dict[str, Any]] = [{"images": len(batch), "fast_mode": agreement(batch)}]
    for sensor in ("multiscale", "logpolar"):
        size = 11 if sensor == "logpolar" else 15
        ours = {
            mode: FrontEndConfig(sensor=sensor, fixation=FixationConfig(COUNT, size, mode=mode))
            for mode in ("exact", "fast")
        }
        pixels, content = torch_look(few, sensor)
        own = jax.device_get(frontend.look(few, ours["exact"]))
        same = (pixels == own.pixel).all(axis=-1)
        run = lambda cfg: lambda: jax.block_until_ready(frontend.look(batch, cfg))
        programs: dict[str, tuple[int, Callable[[], Any]]] = {
            "torch_loop": (len(few), lambda s=sensor: torch_look(few, s)),  # type: ignore[misc]
            **{mode: (len(batch), run(cfg)) for mode, cfg in ours.items()},
        }
        found = rates(programs, values.rounds)
        lines.append(
            {
                "sensor": sensor,
                "images_per_second": {k: round(v, 1) for k, v in found.items()},
                "ratio_exact": round(found["exact"] / found["torch_loop"], 1),
                "ratio_fast": round(found["fast"] / found["torch_loop"], 1),
                "fixations_equal": float(same.mean()),
                "largest_difference_of_contents": float(np.abs(content - own.content)[same].max()),
            }
        )
    for line in lines:
        print(json.dumps(line), flush=True)
    if values.output:
        with open(values.output, "a", encoding="utf-8") as file:
            file.writelines(json.dumps(line) + "\n" for line in lines)


if __name__ == "__main__":
    cli.program(main, FLAGS, __doc__)
