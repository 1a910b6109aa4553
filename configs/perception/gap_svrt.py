# SPDX-License-Identifier: Apache-2.0
"""SVRT: one of 23 problems from 500 or 1000 images, by GAP-Abstractor or a baseline.

    python -m perception.train --config=configs/perception/gap_svrt.py:problem=1 --workdir=runs/svrt1
    ... gap_svrt.py:problem=5,train=500,network=vit,seed=1
    ... gap_svrt.py:problem=1,policy=random          (an ablation)
    ... gap_svrt.py:problem=1,size=published         (depth 24, 2000 epochs; needs an accelerator)

Problem 1 also tests on the 13 out-of-distribution families of SVRT#1. The small size takes one to
three minutes on one core and reaches 99.7 % on problem 1. Results: docs/gap.md.
"""  # noqa: E501

from ml_collections import ConfigDict

from configs.perception.gap_shared import FAMILIES, Recipe, config, frontend, inhibition, parse


def get_config(arg: str = "") -> ConfigDict:
    recipe, own = parse(arg, Recipe(), problem=1)
    published = recipe.size == "published"
    multiscale = recipe.sensor == "multiscale"
    front = frontend(recipe, 15, inhibition(recipe))
    stem = {"standardise": not (published and multiscale)}
    if published and recipe.network == "abstractor" and multiscale:
        stem.update(groups=3, fold=3)  # one group of nine channels for each scale
    abstractor = recipe.network == "abstractor" and not multiscale
    return config(
        recipe,
        {
            "name": f"svrt/{own['problem']}",
            "others": tuple(f"svrt_ood/{f}" for f in FAMILIES) if own["problem"] == 1 else (),
            "grey": True,
            "test": 40_000 if published else 2000,
        },
        front,
        batch_size=100 if recipe.train % 100 == 0 else 50,
        epochs=2000 if published else 60,
        cnn_channels=9 if abstractor else 27,
        stem=stem,
    )
