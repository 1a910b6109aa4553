# SPDX-License-Identifier: Apache-2.0
"""SVRT#1-OOD: trained on problem 1, tested on 13 families of shapes never seen.

    python -m perception.train --config=configs/perception/gap_svrt_ood.py --workdir=runs/svrt_ood
    ... gap_svrt_ood.py:size=published       (28 000 images in colour, 2000 epochs; accelerator)

The small size trains on 4000 grey images for 30 epochs, five minutes on one core. Results:
docs/gap.md.
"""

from ml_collections import ConfigDict

from configs.perception.gap_shared import FAMILIES, Recipe, config, frontend, inhibition, parse


def get_config(arg: str = "") -> ConfigDict:
    recipe, _ = parse(arg, Recipe(train=0))
    published = recipe.size == "published"
    recipe.train = recipe.train or (28_000 if published else 4000)
    multiscale = recipe.sensor == "multiscale"
    found = config(
        recipe,
        {
            "name": "svrt_ood/original",
            "others": tuple(f"svrt_ood/{f}" for f in FAMILIES),
            "test_others": 5600 if published else 1000,
            "grey": not published,
            "flips": False,
        },
        frontend(recipe, 15, inhibition(recipe)),
        batch_size=100,
        epochs=2000 if published else 30,
        learning_rate=1e-4 if published else 1e-3,
        cnn_channels=27 if multiscale or recipe.network != "abstractor" else 9,
    )
    if published and recipe.network == "abstractor" and not multiscale:
        found.model.options.dropout = 0.5
    return found
