# SPDX-License-Identifier: Apache-2.0
"""Which parameters of a run are reported: chosen by validation images, never by the test set."""

from __future__ import annotations

from typing import Any

import jax

from core import checkpoint as checkpoint_lib
from core import config as config_lib
from core.loop import Trainer, TrainState
from core.task import PyTree, TrainConfig


def check(train: TrainConfig, validation: int, train_on_validation: bool) -> None:
    """Raises ConfigError for a choice by validation without validation images."""
    if train.best_metric and (train_on_validation or not validation):
        raise config_lib.ConfigError(
            f"config.train.best_metric {train.best_metric!r} chooses parameters by the validation"
            f" images: config.data.validation must be positive (got {validation}) and"
            f" config.data.train_on_validation False (got {train_on_validation})"
        )


def selected(trainer: Trainer, state: TrainState) -> tuple[PyTree, dict[str, Any]]:
    """Parameters to report, on the host, and how they were chosen.

    With `train.best_metric` those of the evaluation that was best on the validation images, else
    the last ones (in both cases the running mean, if `train.ema` keeps one).
    """
    cfg = trainer.cfg
    if not cfg.best_metric:
        chosen = state.ema if cfg.ema else state.params
        return jax.device_get(chosen), {"parameters_of_step": cfg.steps, "chosen_by": "last step"}
    params, meta = checkpoint_lib.load_params(trainer.workdir / "best", trainer.specs)
    about = {"parameters_of_step": meta["step"], "chosen_by": f"validation, {cfg.best_metric}"}
    return jax.device_get(params), about
