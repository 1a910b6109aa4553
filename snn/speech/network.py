# SPDX-License-Identifier: Apache-2.0
"""The RNN transducer: an encoder of sound, a prediction network of labels, and their joint.

    e_t = W_e encoder(x_1 ... x_t) + b_e            p_u = W_p prediction(y_1 ... y_u) + b_p
    logits(t, u) = W tanh(e_t * p_u) + b            ("multiplicative", arXiv 2103.09935)
                   W tanh(e_t + p_u) + b            ("additive")

Encoder and prediction network are stacks of any cells of `snn`: LSTM, SNU, sSNU and the units with
axo-somatic and axo-axonic synapses (arXiv 2110.02743). Label 0 is the blank; fed to the prediction
network it stands for the beginning.

Dimensions: B batch, T frames, F features, U labels, J joint size, V labels with the blank.
"""

from __future__ import annotations

import dataclasses
from typing import Any

import jax
import jax.numpy as jnp

from core import params as params_lib
from core.params import ParamSpec, Uniform
from core.task import PyTree
from snn import cells
from snn.tasks import networks
from snn.tasks.networks import NetworkConfig

JOINTS = ("multiplicative", "additive")
BLANK = 0


@dataclasses.dataclass(frozen=True)
class TransducerConfig:
    """The network.

    Attributes:
      encoder, prediction: their cells and sizes; `embedding` and `readout` must not be set.
      bidirectional: the encoder reads each layer in both directions (not for streams).
      label_size: width of the vectors of labels.
      joint: "multiplicative" or "additive".
      joint_size: J.
      ctc: have a readout of the encoder for an auxiliary CTC loss.
      gain: initial matrices that read inputs or outputs of cells are so many times as large. Soft
        units answer within (0, 1) with a slope of at most 1/4, so that with 1 the second layer
        hears next to nothing at first.
    """

    encoder: NetworkConfig = NetworkConfig(cell=("lstm",), hidden=(128, 128))
    prediction: NetworkConfig = NetworkConfig(cell=("lstm",), hidden=(64,))
    bidirectional: bool = False
    label_size: int = 10
    joint: str = "multiplicative"
    joint_size: int = 64
    ctc: bool = False
    gain: float = 1.0

    def __post_init__(self) -> None:
        if self.joint not in JOINTS:
            raise ValueError(f"joint must be one of {JOINTS}, got {self.joint!r}")
        if self.gain <= 0:
            raise ValueError(f"gain must be positive, got {self.gain}")
        cells.base.check_sizes(label_size=self.label_size, joint_size=self.joint_size)
        for name in ("encoder", "prediction"):
            part = getattr(self, name)
            if part.embedding or part.readout:
                raise ValueError(f"{name} takes no embedding or readout, got {part}")


@dataclasses.dataclass(frozen=True)
class Transducer:
    """Functions of the network for inputs of `inputs` features and `labels` labels."""

    cfg: TransducerConfig
    inputs: int
    labels: int

    # --- parts -----------------------------------------------------------------------------------

    @property
    def encoder(self) -> cells.Stack:
        """The encoder as one stack; only a unidirectional one is that."""
        return cells.Stack(tuple(networks.hidden_cells(self.cfg.encoder, self.inputs)))

    @property
    def encoder_cells(self) -> list[Any]:
        """Cells of one direction, layer by layer, as wide at the input as they are used."""
        copies = 2 if self.cfg.bidirectional else 1
        return networks.hidden_cells(self.cfg.encoder, self.inputs, copies)

    @property
    def encoder_size(self) -> int:
        """Width of the encoder's output."""
        return self.encoder_cells[-1].output_size * (2 if self.cfg.bidirectional else 1)

    @property
    def prediction(self) -> cells.Stack:
        """Label vectors and the cells above them."""
        return cells.Stack(
            (
                cells.Embedding(self.labels, self.cfg.label_size, scale=1.0),
                *networks.hidden_cells(self.cfg.prediction, self.cfg.label_size),
            )
        )

    def dense(self) -> dict[str, cells.Dense]:
        """The layers without state, by the name of their parameters."""
        size = self.cfg.joint_size
        layers = {
            "encoder_joint": cells.Dense(self.encoder_size, size),
            "prediction_joint": cells.Dense(self.prediction.output_size, size),
            "output": cells.Dense(size, self.labels),
        }
        if self.cfg.ctc:
            layers["ctc"] = cells.Dense(self.encoder_size, self.labels)
        return layers

    def param_specs(self) -> PyTree:
        """{"encoder", "prediction", "encoder_joint", "prediction_joint", "output"[, "ctc"]}."""
        specs = {
            "encoder": self._encoder_specs(),
            "prediction": networks.param_specs(self.prediction, self.cfg.prediction),
            **{name: layer.param_specs() for name, layer in self.dense().items()},
        }
        return params_lib.map_with_path(self._amplified, specs)

    def _amplified(self, path: str, spec: ParamSpec) -> ParamSpec:
        reads_cells = path.endswith("/w") and not path.startswith("output/")
        if self.cfg.gain == 1.0 or not reads_cells or not isinstance(spec.init, Uniform):
            return spec
        return dataclasses.replace(spec, init=Uniform(self.cfg.gain * spec.init.scale))

    def _encoder_specs(self) -> PyTree:
        if not self.cfg.bidirectional:
            return networks.param_specs(self.encoder, self.cfg.encoder)
        specs = {}
        for number, cell in enumerate(self.encoder_cells):
            own = networks.param_specs(cells.stack_of(cell), self.cfg.encoder)["layer_0"]
            specs[f"forward_{number}"] = specs[f"backward_{number}"] = own
        return specs

    # --- encoder ---------------------------------------------------------------------------------

    def encode(
        self,
        params: PyTree,
        x: jax.Array,
        frames: jax.Array,
        *,
        dropout: float = 0.0,
        key: jax.Array | None = None,
    ) -> tuple[jax.Array, dict[str, PyTree]]:
        """The encoder over whole utterances.

        Args:
          params: of the network.
          x: [B, T, F].
          frames: length of each row, int [B]; what lies beyond changes nothing before it.
          dropout: rate at which outputs of layers are dropped; needs `key`.

        Returns:
          (outputs [B, T, n], states of the cells of each layer at all steps, time-major).
        """
        xs = x.swapaxes(0, 1)
        traces: dict[str, PyTree] = {}
        for number, cell in enumerate(self.encoder_cells):
            if number and dropout:
                assert key is not None
                xs = _drop(xs, dropout, jax.random.fold_in(key, number))
            if self.cfg.bidirectional:
                own = [params["encoder"][f"{way}_{number}"] for way in ("forward", "backward")]
                ahead, traces[f"forward_{number}"] = _run(cell, own[0], xs)
                back, traces[f"backward_{number}"] = _run(cell, own[1], _reversed(xs, frames))
                xs = jnp.concatenate([ahead, _reversed(back, frames)], axis=-1)
            else:
                own = params["encoder"][f"layer_{number}"]
                xs, traces[f"layer_{number}"] = _run(cell, own, xs)
        return xs.swapaxes(0, 1), traces

    def for_joint(self, params: PyTree, encoded: jax.Array) -> jax.Array:
        """e: encoder outputs [..., n] -> [..., J]."""
        return self.dense()["encoder_joint"].apply(params["encoder_joint"], encoded)

    def ctc_logits(self, params: PyTree, encoded: jax.Array) -> jax.Array:
        """Scores of labels from the encoder alone [B, T, V]."""
        return self.dense()["ctc"].apply(params["ctc"], encoded)

    # --- prediction network ----------------------------------------------------------------------

    def predict(
        self,
        params: PyTree,
        labels: jax.Array,
        *,
        dropout: float = 0.0,
        key: jax.Array | None = None,
    ) -> jax.Array:
        """p: labels [B, U] -> [B, U + 1, J]; output u follows the first u labels."""
        ys, _ = self.predict_traces(params, labels)
        if dropout:
            assert key is not None
            ys = _drop(ys, dropout, key)
        ys = self.dense()["prediction_joint"].apply(params["prediction_joint"], ys)
        return ys.swapaxes(0, 1)

    def predict_traces(
        self, params: PyTree, labels: jax.Array
    ) -> tuple[jax.Array, dict[str, PyTree]]:
        """(outputs [U + 1, B, n], states of the cells at all steps) of the prediction network."""
        tokens = jnp.pad(labels, ((0, 0), (1, 0)), constant_values=BLANK).T
        state = self.prediction.init_state(tokens.shape[1])
        _, ys, traces = networks.apply(self.prediction, params["prediction"], state, tokens)
        return ys, traces

    def predict_step(
        self, params: PyTree, state: PyTree, label: jax.Array
    ) -> tuple[PyTree, jax.Array]:
        """One more label [B] -> (state, p [B, J]); the first one is the blank."""
        state, y = self.prediction.step(params["prediction"], state, label)
        return state, self.dense()["prediction_joint"].apply(params["prediction_joint"], y)

    def start(self, params: PyTree, batch: int) -> tuple[PyTree, jax.Array]:
        """(state, p [B, J]) of the prediction network before any label."""
        state = self.prediction.init_state(batch)
        return self.predict_step(params, state, jnp.full((batch,), BLANK, jnp.int32))

    # --- joint -----------------------------------------------------------------------------------

    def joint(self, params: PyTree, e: jax.Array, p: jax.Array) -> jax.Array:
        """Logits of every pair: e [B, K, J], p [B, W, J] -> [B, K, W, V]."""
        return self.logits(params, e[:, :, None], p[:, None])

    def logits(self, params: PyTree, e: jax.Array, p: jax.Array) -> jax.Array:
        """Logits of e and p of shapes that broadcast [..., J] -> [..., V]."""
        mixed = e * p if self.cfg.joint == "multiplicative" else e + p
        return self.dense()["output"].apply(params["output"], jnp.tanh(mixed))


def _run(cell: Any, params: PyTree, xs: jax.Array) -> tuple[jax.Array, PyTree]:
    stack = cells.stack_of(cell)
    state = stack.init_state(xs.shape[1])
    _, ys, traces = networks.apply(stack, {"layer_0": params}, state, xs)
    return ys, traces.get("layer_0", {})


def _drop(x: jax.Array, rate: float, key: jax.Array) -> jax.Array:
    """Dropout with one mask for all steps of [T, B, n]."""
    kept = jax.random.bernoulli(key, 1 - rate, x.shape[1:])
    return jnp.where(kept, x / (1 - rate), 0.0)


def _reversed(xs: jax.Array, frames: jax.Array) -> jax.Array:
    """Each row of [T, B, n] backwards within its length; padding stays where it is."""
    t = jnp.arange(len(xs))[:, None]
    index = jnp.where(t < frames, frames - 1 - t, t)
    return jnp.take_along_axis(xs, index[:, :, None], axis=0)
