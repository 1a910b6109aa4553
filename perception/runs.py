# SPDX-License-Identifier: Apache-2.0
"""Finished runs on disk: which of them differ in nothing but the seed of the training.

Only those may be averaged. What a run was is read from its config.json; all of it counts, but for
what has no influence on the result (`WITHOUT_INFLUENCE`).
"""

from __future__ import annotations

import glob
import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

SEED = "train.seed"
WITHOUT_INFLUENCE = frozenset(
    {
        SEED,
        *(f"train.{name}" for name in ("log_every", "eval_every", "save_every", "keep")),
        *(f"train.{name}" for name in ("profile_first", "profile_steps", "transport", "nan_guard")),
        *(f"train.{name}" for name in ("tensorboard", "wandb_project", "mesh", "sharding")),
        *(f"data.{name}" for name in ("workers", "eval_batch_size", "folder", "validation")),
        *(f"data.{name}" for name in ("test", "test_others", "others")),
        "frontend.chunk",
    }
)  # fmt: skip

Settings = Mapping[str, Any]  # "data.train" -> 500, ...


def find(patterns: Sequence[str], file: str) -> list[Path]:
    """Folders that match and hold `file`.

    Raises:
      FileNotFoundError: names a pattern without any.
    """
    found: list[Path] = []
    for pattern in patterns:
        here = [Path(p) for p in sorted(glob.glob(pattern)) if (Path(p) / file).is_file()]
        if not here:
            raise FileNotFoundError(f"no run (a folder with {file}) matches {pattern!r}")
        found += [path for path in here if path not in found]
    return found


def read_config(run: Path) -> dict[str, Any]:
    """The configuration in a run's config.json.

    Raises:
      FileNotFoundError: there is none.
      ValueError: it is something else.
    """
    path = run / "config.json"
    try:
        config = json.loads(path.read_text(encoding="utf-8"))["config"]
    except (ValueError, KeyError, TypeError) as error:
        raise ValueError(f"{path} does not describe a run") from error
    if not isinstance(config, dict):
        raise ValueError(f"{path} does not describe a run")
    return config


def settings(config: Mapping[str, Any], prefix: str = "") -> dict[str, Any]:
    """A nested configuration as one flat mapping, without what has no influence on the result."""
    found: dict[str, Any] = {}
    for name, value in config.items():
        if isinstance(value, Mapping):
            found.update(settings(value, f"{prefix}{name}."))
        elif prefix + name not in WITHOUT_INFLUENCE:
            found[prefix + name] = value
    return found


def names(labels: Sequence[str], configs: Sequence[Settings]) -> list[str]:
    """One name for each run, the same for two runs exactly if their settings are the same.

    Args:
      labels: readable names, perhaps the same for runs of different settings.
      configs: their settings.

    Returns:
      The labels; where one stands for several settings, followed by what tells these apart.
    """
    found = []
    for label, own in zip(labels, configs, strict=True):
        namesakes = [c for other, c in zip(labels, configs, strict=True) if other == label]
        keys = sorted({key for config in namesakes for key in config})
        differ = [k for k in keys if any(c.get(k) != own.get(k) for c in namesakes)]
        found.append(", ".join([label, *(f"{k}={_text(own.get(k))}" for k in differ)]))
    return found


def _text(value: Any) -> str:
    return value if isinstance(value, str) and value else json.dumps(value)


def check_seeds(found: Sequence[tuple[str, int]]) -> None:
    """Raises ValueError for two runs (name, seed) that are the same: they are not independent."""
    seen: set[tuple[str, int]] = set()
    for name, seed in found:
        if (name, seed) in seen:
            raise ValueError(
                f"two runs of {name!r} have the seed {seed}: they say nothing about how much"
                " results vary; leave one out"
            )
        seen.add((name, seed))
