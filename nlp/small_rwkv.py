# SPDX-License-Identifier: Apache-2.0
"""Small byte-level RWKV language models, trained here on texts at hand.

They stand in for a large language model wherever one of ours is wanted and none is at hand: as the
frozen base of personalised fine-tuning, as a text encoder, as a generator of texts. They are a
million parameters and know nothing but their corpus; reports say so.
"""

from __future__ import annotations

import dataclasses
import os
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import numpy as np

from core import config as config_lib
from core import optim
from core.loop import Trainer
from core.task import TrainConfig
from nlp import rwkv_models as rwkv

PyTree = Any


@dataclasses.dataclass(frozen=True)
class SmallModel:
    """Shape and training of a small language model.

    Attributes:
      version, dim, layers, head_size: see `rwkvjax.Config`.
      context: tokens of a training window.
      steps, batch_size, learning_rate, seed: of the training.
    """

    version: str = "6"
    dim: int = 128
    layers: int = 4
    head_size: int = 32
    context: int = 128
    steps: int = 1500
    batch_size: int = 16
    learning_rate: float = 3e-3
    seed: int = 0

    @property
    def config(self) -> rwkv.Config:
        """The model's configuration: bytes as tokens."""
        return rwkv.Config(
            version=self.version,
            vocab_size=rwkv.ByteTokenizer.vocab_size,
            dim=self.dim,
            layers=self.layers,
            head_size=self.head_size,
        )


def train(
    texts: Iterable[str],
    how: SmallModel,
    workdir: str | os.PathLike[str],
    report: Any = None,
    initial: PyTree | None = None,
) -> tuple[rwkv.Config, PyTree]:
    """Trains a language model on texts, or takes the finished one that lies in `workdir`.

    Args:
      texts: one document each; a NUL byte is put after every one.
      how: see `SmallModel`.
      workdir: of the run; started again, it resumes. `rwkvjax.load(workdir)` loads the model.
      report: receives progress lines; None for standard error.
      initial: parameters to start from; None draws them.

    Returns:
      (configuration, parameters).

    Raises:
      ValueError: fewer bytes than one window.
    """
    documents = [_document(text) for text in texts]
    total = sum(map(len, documents))
    if total <= how.context:
        raise ValueError(f"expected more than {how.context} bytes of text, got {total}")
    source = rwkv.PackedDocuments(
        rwkv.ArrayTokens(documents), how.context, packing="concat", order="shuffled", seed=how.seed,
        vocab_size=how.config.vocab_size,
    )  # fmt: skip
    task = rwkv.LanguageModelTask(how.config, how.context)
    cfg = TrainConfig(
        how.steps, how.batch_size, how.seed, log_every=max(1, how.steps // 15), keep=1
    )
    adam = optim.AdamWConfig(
        how.learning_rate, how.learning_rate / 30, warmup_steps=min(50, how.steps // 4 + 1),
        weight_decay=0.01,
    )  # fmt: skip
    trainer = Trainer(
        task,
        optim.adamw(adam, task.param_specs(), cfg.steps),
        source,
        cfg,
        Path(workdir),
        run_config={
            "model": config_lib.to_dict(how.config),
            "data": {"tokenizer": "byte"},
            "small": config_lib.to_dict(how),
        },
        init_params=initial,
        report=report,
    )
    return how.config, trainer.run().params


def _document(text: str) -> np.ndarray:
    tokens = rwkv.ByteTokenizer().encode(text.replace("\x00", " "))
    return np.append(tokens, np.uint16(rwkv.ByteTokenizer.end_of_document or 0))
