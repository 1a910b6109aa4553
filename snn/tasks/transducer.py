# SPDX-License-Identifier: Apache-2.0
"""The task of speech recognition: sound (or stored features) to labels by the transducer loss."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from typing import Any

import jax
import jax.numpy as jnp
import optax

from core.task import Aux, PyTree
from snn.speech import augment, features, greedy, scoring, transducer
from snn.speech.augment import AugmentConfig
from snn.speech.features import FeatureConfig
from snn.speech.network import BLANK, Transducer

Batch = Mapping[str, jax.Array]


@dataclasses.dataclass(frozen=True)
class LossConfig:
    """The objective.

    Attributes:
      dropout: rate at which outputs of layers are dropped in training.
      fast_emit: lambda of FastEmit; see `snn.speech.transducer`.
      delay_penalty: see there.
      ctc: weight of an auxiliary CTC loss of the encoder (the network needs `ctc`).
      block: frames of the joint that are computed together.
      max_symbols: most labels of a frame in greedy decoding.
    """

    dropout: float = 0.0
    fast_emit: float = 0.0
    delay_penalty: float = 0.0
    ctc: float = 0.0
    block: int = 16
    max_symbols: int = 4

    def __post_init__(self) -> None:
        if not 0 <= self.dropout < 1 or self.ctc < 0 or self.block < 1 or self.max_symbols < 1:
            raise ValueError(
                "expected dropout in [0, 1), ctc >= 0, block and max_symbols >= 1, got"
                f" {self.dropout}, {self.ctc}, {self.block}, {self.max_symbols}"
            )


class TransducerTask:
    """See `core.task.Task`; batches are those of `snn.speech.utterances.Utterances`."""

    def __init__(
        self,
        net: Transducer,
        front_end: FeatureConfig,
        loss: LossConfig | None = None,
        augmentation: AugmentConfig | None = None,
        eval_source: Any = None,
        eval_batch_size: int = 32,
    ):
        """Args: net, front end, objective, distortions of training sound, held-out utterances."""
        self.net, self.front_end, self.cfg = net, front_end, loss or LossConfig()
        self.augmentation = augmentation or AugmentConfig()
        if self.cfg.ctc and not net.cfg.ctc:
            raise ValueError("loss.ctc needs model.ctc")
        spectral = self.augmentation.warp or self.augmentation.channel_db
        if spectral and front_end.kind != "log_mel":
            raise ValueError(
                "augment.warp and augment.channel_db need features of kind log_mel, got"
                f" {front_end.kind!r}"
            )
        self.eval_source, self.eval_batch_size = eval_source, eval_batch_size
        self.units = ("utterances", 1)

    def param_specs(self) -> PyTree:
        """See `Task.param_specs`."""
        return self.net.param_specs()

    def init_carry(self, batch_size: int) -> PyTree:
        """Nothing crosses batches."""
        return ()

    def inputs(self, batch: Batch, key: jax.Array | None) -> tuple[jax.Array, jax.Array]:
        """(features [B, T, F], frames [B]) of a batch, distorted if there is a key."""
        cfg, x, frames = self.front_end, batch["input"], batch["size"]
        if key is not None:
            noise, tract, channel, masks = jax.random.split(key, 4)
        if cfg.kind != "given":
            if key is not None:
                x = augment.add_noise(self.augmentation, noise, x, frames)
            x, frames = features.base_features(cfg, x, frames)
            if key is not None:
                x = augment.warp_frequencies(self.augmentation, tract, x, cfg)
                x = augment.colour(self.augmentation, channel, x, frames)
        x = features.normalise(cfg, x, frames)
        if key is not None:
            x = augment.spec_augment(self.augmentation, masks, x, frames)
        x, frames = features.finish(cfg, x, frames)
        # A row that only fills the batch may be shorter than one frame.
        return x, jnp.maximum(frames, 1)

    def losses(
        self,
        params: PyTree,
        batch: Batch,
        encoded: jax.Array,
        frames: jax.Array,
        dropout: float = 0.0,
        key: jax.Array | None = None,
    ) -> jax.Array:
        """Transducer loss of each row [B]."""
        return transducer.framewise_loss(
            self.net.joint,
            params,
            self.net.for_joint(params, encoded),
            self.net.predict(params, batch["labels"], dropout=dropout, key=key),
            batch["labels"],
            frames,
            batch["counts"],
            blank=BLANK,
            block=self.cfg.block,
            fast_emit=self.cfg.fast_emit,
            delay_penalty=self.cfg.delay_penalty,
        )

    def loss(
        self, params: PyTree, carry: PyTree, batch: Batch, key: jax.Array
    ) -> tuple[jax.Array, tuple[PyTree, Aux]]:
        """See `Task.loss`: the mean over utterances."""
        distort, drop, drop_labels = jax.random.split(key, 3)
        x, frames = self.inputs(batch, distort)
        rate, weight = self.cfg.dropout, batch["weight"]
        encoded, _ = self.net.encode(params, x, frames, dropout=rate, key=drop)
        losses = self.losses(params, batch, encoded, frames, rate, drop_labels)
        total = jnp.maximum(weight.sum(), 1e-6)
        value = (losses * weight).sum() / total
        labels = jnp.maximum((batch["counts"] * weight).sum(), 1.0)
        aux = {"nll": (losses * weight).sum() / labels, "weight": weight.sum()}
        if self.cfg.ctc:
            ctc = (self.ctc_losses(params, batch, encoded, frames) * weight).sum() / total
            value, aux = value + self.cfg.ctc * ctc, {**aux, "ctc": ctc}
        return value, (carry, aux)

    def ctc_losses(
        self, params: PyTree, batch: Batch, encoded: jax.Array, frames: jax.Array
    ) -> jax.Array:
        """CTC loss of each row [B] from the encoder alone; 0 for one with too few frames for it."""
        labels, counts = batch["labels"], batch["counts"]
        # CTC needs a frame for each label, and a blank between equal ones; a transducer does not.
        pair = jnp.arange(1, labels.shape[1]) < counts[:, None]
        needed = counts + ((labels[:, 1:] == labels[:, :-1]) & pair).sum(axis=1)
        beyond = lambda count, size: (jnp.arange(size) >= count[:, None]).astype(jnp.float32)
        losses = optax.ctc_loss(
            self.net.ctc_logits(params, encoded),
            beyond(frames, encoded.shape[1]),
            labels,
            beyond(counts, labels.shape[1]),
            blank_id=BLANK,
        )
        return jnp.where(frames >= needed, losses, 0.0)

    # --- evaluation ------------------------------------------------------------------------------

    def transcribe(self, params: PyTree, batch: Batch) -> greedy.Decoded:
        """Greedy decoding of a batch."""
        x, frames = self.inputs(batch, None)
        encoded, _ = self.net.encode(params, x, frames)
        e = self.net.for_joint(params, encoded)
        return greedy.decode(self.net, params, e, frames, max_symbols=self.cfg.max_symbols)[0]

    def eval_sums(self, params: PyTree, batch: Batch) -> dict[str, jax.Array]:
        """Sums over the rows of a batch that count."""
        x, frames = self.inputs(batch, None)
        encoded, _ = self.net.encode(params, x, frames)
        weight = batch["weight"] * batch["valid"]
        e = self.net.for_joint(params, encoded)
        found, _ = greedy.decode(self.net, params, e, frames, max_symbols=self.cfg.max_symbols)
        errors = scoring.edit_distance(found.labels, found.counts, batch["labels"], batch["counts"])
        return {
            "loss": (self.losses(params, batch, encoded, frames) * weight).sum(),
            "errors": (errors * weight).sum(),
            "labels": (batch["counts"] * weight).sum(),
        }

    def eval_metrics(self, sums: Mapping[str, float]) -> dict[str, float]:
        """nll: nats a label; label_errors: errors of greedy decoding by reference labels."""
        labels = max(sums["labels"], 1.0)
        return {"nll": sums["loss"] / labels, "label_errors": sums["errors"] / labels}
