# SPDX-License-Identifier: Apache-2.0
"""What in the glimpses of SVRT#1-OOD tells same from different: rules by hand, nothing trained.

    python -m benchmarks.gap_cues --images=600

For problem 1 and its 13 out-of-distribution families, the area under the ROC curve (0.5: says
nothing, 1: orders all images rightly) of three scores of an image:

- contents: how much the first fixations resemble the most similar other one (mean of the largest
  correlation between glimpses);
- places: how many pairs of fixations are one displacement apart (within 1.5 pixels; of more than 12
  pixels; the most frequent one);
- both: the same count, each pair weighted by exp(10 (correlation - 1)).

Prints one JSON line a family and a table.
"""

from __future__ import annotations

import importlib
import json

import numpy as np
from absl import flags

from core import cli
from perception.tasks import reasoning_run

FLAGS = flags.FlagValues()
flags.DEFINE_integer("images", 600, "Test images of each family.", 2, flag_values=FLAGS)
flags.DEFINE_string("arg", "problem=1", "Argument of gap_svrt.py: the sensor.", flag_values=FLAGS)

FIRST = 8  # fixations whose best match is averaged; later ones fall on what is left over
FAR, NEAR = 12.0, 1.5  # pixels


def auc(scores: np.ndarray, labels: np.ndarray) -> float:
    """Probability that an image of label 1 scores higher than one of label 0; ties count half."""
    ones, zeros = scores[labels == 1][:, None], scores[labels == 0][None]
    return float(((ones > zeros) + 0.5 * (ones == zeros)).mean())


def correlations(content: np.ndarray) -> np.ndarray:
    """Correlation between all glimpses [N, T, K, g, g] of an image: [N, T, T], its diagonal -1."""
    flat = content.reshape(*content.shape[:2], -1).astype(np.float64)
    flat = flat - flat.mean(axis=-1, keepdims=True)
    flat /= np.linalg.norm(flat, axis=-1, keepdims=True) + 1e-6
    found = flat @ np.swapaxes(flat, 1, 2)
    found[:, np.arange(flat.shape[1]), np.arange(flat.shape[1])] = -1
    return found


def votes(pixels: np.ndarray, weights: np.ndarray) -> float:
    """Largest sum of weights of pairs of fixations one displacement (or its opposite) apart.

    Args:
      pixels: places [T, 2] in pixels.
      weights: of the pairs [T, T].
    """
    pairs = np.triu_indices(len(pixels), 1)
    apart = (pixels[None] - pixels[:, None])[pairs]
    far = np.abs(apart).max(axis=1) > FAR
    gap = lambda sign: np.abs(apart[:, None] - sign * apart[None]).max(axis=2)
    agree = np.minimum(gap(1), gap(-1)) <= NEAR
    return float(((agree & far) @ weights[pairs] * far).max())


def main(values: flags.FlagValues) -> None:
    """Scores every family."""
    with cli.explain():
        configs = importlib.import_module("configs.perception.gap_svrt")
        cfg = reasoning_run.build_config(configs.get_config(values.arg))
    rows = []
    for name, _ in reasoning_run.test_sets(cfg):
        source = reasoning_run.open_source(cfg, name, "test", values.images)
        batch = source.get(np.arange(values.images))
        alike, labels = correlations(batch["content"][:, 0]), batch["label"]
        pixels = batch["location"][:, 0].astype(np.float64) * 64
        even = np.ones(alike.shape[1:])
        places = [votes(p, even) for p in pixels]
        both = [votes(p, np.exp(10 * (a - 1))) for p, a in zip(pixels, alike, strict=True)]
        contents = alike.max(axis=2)[:, :FIRST].mean(axis=1)
        scores = {"contents": contents, "places": places, "both": both}
        row = {k: round(auc(np.asarray(v), labels), 3) for k, v in scores.items()}
        print(json.dumps({"set": name, "images": values.images, **row}), flush=True)
        rows.append((name, row))
    print(f"\n{'':28s}contents  places    both")
    for name, row in rows:
        print(f"{name:28s}" + "".join(f"{row[k]:8.3f}" for k in ("contents", "places", "both")))


if __name__ == "__main__":
    cli.program(main, FLAGS, __doc__)
