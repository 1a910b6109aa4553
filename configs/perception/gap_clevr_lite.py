# SPDX-License-Identifier: Apache-2.0
"""Relations between rendered solids, none of whose features is seen in training (clevr-art-lite).

    python -m perception.train --config=configs/perception/gap_clevr_lite.py:task=rmts --workdir=RUN
    ... gap_clevr_lite.py:task=identity,network=transformer,sensor=multiscale
    ... gap_clevr_lite.py:task=rmts,size=published     (2000 epochs; needs an accelerator)
    ... gap_clevr_lite.py:task=rmts,pictures=original  (CLEVR-ART itself, where you have it)

A stand-in: its numbers are not comparable with published ones on CLEVR-ART. Soft inhibition of
return for the Abstractor, hard for the others, as published. The small size learns from 1000
problems.
"""

from ml_collections import ConfigDict

from configs.perception.gap_shared import Recipe, config, frontend, parse

# (task, sensor) -> fixations of the Abstractor; of the Transformer: by task.
FIXATIONS = {
    ("identity", "logpolar"): 45,
    ("rmts", "logpolar"): 30,
    ("identity", "multiscale"): 35,
    ("rmts", "multiscale"): 23,
}
TRANSFORMER_FIXATIONS = {"identity": 35, "rmts": 20}


def get_config(arg: str = "") -> ConfigDict:
    recipe, own = parse(arg, Recipe(train=0), task="rmts", pictures="lite")
    task = own["task"]
    if own["pictures"] not in ("lite", "original"):
        raise ValueError(f"pictures must be lite or original, got {own['pictures']!r}")
    lite = own["pictures"] == "lite"
    if task not in TRANSFORMER_FIXATIONS:
        raise ValueError(f"task must be one of {sorted(TRANSFORMER_FIXATIONS)}, got {task!r}")
    published, abstractor = recipe.size == "published", recipe.network == "abstractor"
    recipe.train = recipe.train or (10_000 if published else 1000)
    if abstractor and (task, recipe.sensor) not in FIXATIONS:
        raise ValueError(f"sensor must be logpolar or multiscale, got {recipe.sensor!r}")
    count = FIXATIONS[task, recipe.sensor] if abstractor else TRANSFORMER_FIXATIONS[task]
    front = frontend(
        recipe,
        count,
        15 if abstractor else 11,
        side=15,
        scales=(2, 4) if abstractor else (4, 8),
        polarity="light",
        saliency={"padding": "replicate", "blur": 0},
    )
    front["fixation"]["inhibition"] = "soft" if abstractor else "hard"
    found = config(
        recipe,
        {
            "name": f"clevr_lite/{task}/standard" if lite else f"clevr_art/{task}",
            "others": tuple(f"clevr_lite/{task}/{s}_pyramid" for s in ("sphere", "torus") if lite),
            "test": 10_000 if published else 1000,
            "validation": 200 if lite else 0,  # the original has none
            "flips": False,
        },
        front,
        batch_size=32,
        epochs=2000 if published else 20,
        learning_rate=1e-4 if published else 3e-4,
        objective="weighted" if abstractor else "candidates",
        cnn_channels=64,
    )
    if abstractor and published:
        found.model.options.hidden = 512
    return found
