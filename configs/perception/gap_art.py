# SPDX-License-Identifier: Apache-2.0
"""ART: abstract reasoning on glyphs of which only five are seen in training.

    python -m perception.train --config=configs/perception/gap_art.py:task=rmts --workdir=runs/rmts
    ... gap_art.py:task=identity,network=transformer,held_out=50
    ... gap_art.py:task=rmts,size=published      (depth 24, 2000 epochs; needs an accelerator)

Tasks: same_different, rmts, distribution_of_three, identity. Results: docs/gap.md.
"""

from ml_collections import ConfigDict

from configs.perception.gap_shared import Recipe, config, frontend, parse

# Task -> training problems with 95 of 100 glyphs held out, fixations, epochs of the small size.
TASKS = {
    "same_different": (40, 20, 500),
    "rmts": (480, 20, 50),
    "distribution_of_three": (360, 35, 50),
    "identity": (8640, 35, 4),
}


def get_config(arg: str = "") -> ConfigDict:
    recipe, own = parse(arg, Recipe(train=0), task="rmts", held_out=95)
    if own["task"] not in TASKS:
        raise ValueError(f"task must be one of {sorted(TASKS)}, got {own['task']!r}")
    published = recipe.size == "published"
    train, count, epochs = TASKS[own["task"]]
    recipe.train = recipe.train or train
    return config(
        recipe,
        {
            "name": f"art/{own['task']}/{own['held_out']}",
            "test": 10_000 if published else 2000,
            "validation": 200,
            "flips": False,
        },
        # Glyphs are light on dark already.
        frontend(recipe, count, 11, polarity="light", saliency={"padding": "replicate"}),
        batch_size=32,
        epochs=2000 if published else epochs,
        learning_rate=1e-4 if published else 3e-4,
        objective="binary" if own["task"] == "same_different" else "candidates",
        cnn_channels=64,
    )
