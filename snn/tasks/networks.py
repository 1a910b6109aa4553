# SPDX-License-Identifier: Apache-2.0
"""Networks of the sequence tasks from a configuration: [embedding,] hidden cells, dense readout."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from core import params as params_lib
from core.params import ParamSpec, Values
from core.task import PyTree
from snn import cells

Build = Callable[[int, int, "NetworkConfig"], Any]


@dataclasses.dataclass(frozen=True)
class NetworkConfig:
    """The network.

    Attributes:
      cell: hidden layers, one of `CELLS`; several names ("ssnu", "lstm") give each layer its own.
      hidden: units of each hidden layer.
      recurrent: connect the units of a hidden layer to each other (H).
      decay: of SNU and LIF membranes.
      train_decay: learn it for each unit.
      decay_range: (low, high): learned decays start spread between them, even in log(d / (1 - d)).
      membrane: nonlinearity g of SNU membranes; see `snn.surrogates`.
      threshold: of SNU units (initial) and LIF units.
      embedding: width of token vectors (language modelling); the readout is tied to the embedding:
        hidden -> dense of this width -> scores of all tokens. 0: no embedding.
      readout: widths of dense ReLU layers between the last cell and the outputs; they keep no
        state, so the last cell stays the last stateful layer.
    """

    cell: tuple[str, ...] = ("ssnu",)
    hidden: tuple[int, ...] = (150,)
    recurrent: bool = True
    decay: float = 0.8
    train_decay: bool = False
    decay_range: tuple[float, ...] = ()
    membrane: str = "identity"
    threshold: float = 1.0
    embedding: int = 0
    readout: tuple[int, ...] = ()

    def __post_init__(self) -> None:
        unknown = [name for name in self.cell if name not in CELLS]
        if unknown or len(self.cell) not in (1, len(self.hidden)) or not self.hidden:
            raise ValueError(
                f"cell must be one name, or one for each of the {len(self.hidden)} hidden layers,"
                f" of {sorted(CELLS)}; got {self.cell}"
            )
        ends = self.decay_range
        if ends and not (len(ends) == 2 and 0 < ends[0] < ends[1] < 1 and self.train_decay):
            raise ValueError(
                "decay_range needs train_decay and two numbers 0 < low < high < 1, got"
                f" {ends}, {self.train_decay=}"
            )
        if self.embedding < 0:
            raise ValueError(f"embedding must not be negative, got {self.embedding}")


def _snu(kind: type[cells.Snu], fire: str) -> Build:
    def build(inputs: int, size: int, cfg: NetworkConfig) -> cells.Snu:
        return kind(
            inputs,
            size,
            recurrent=cfg.recurrent,
            fire=fire,
            membrane=cfg.membrane,
            decay=cfg.decay,
            train_decay=cfg.train_decay,
            threshold=cfg.threshold,
        )

    return build


def _lif(kind: type[cells.Lif]) -> Build:
    def build(inputs: int, size: int, cfg: NetworkConfig) -> cells.Lif:
        return kind(
            inputs,
            size,
            recurrent=cfg.recurrent,
            decay=cfg.decay,
            train_decay=cfg.train_decay,
            threshold=cfg.threshold,
        )

    return build


CELLS: dict[str, Build] = {
    "snu": _snu(cells.Snu, "step"),
    "ssnu": _snu(cells.Snu, "sigmoid"),
    "lateral_snu": _snu(cells.LateralSnu, "step"),
    "lateral_ssnu": _snu(cells.LateralSnu, "sigmoid"),
    "adaptive_snu": _snu(cells.AdaptiveSnu, "step"),
    "adaptive_ssnu": _snu(cells.AdaptiveSnu, "sigmoid"),
    "threshold_snu": _snu(cells.ThresholdModulated, "step"),
    "threshold_ssnu": _snu(cells.ThresholdModulated, "sigmoid"),
    "output_snu": _snu(cells.OutputModulated, "step"),
    "output_ssnu": _snu(cells.OutputModulated, "sigmoid"),
    "lif": _lif(cells.Lif),
    "alif": _lif(cells.Alif),
    "lstm": lambda inputs, size, cfg: cells.Lstm(inputs, size, recurrent=cfg.recurrent),
    "gru": lambda inputs, size, cfg: cells.Gru(inputs, size, recurrent=cfg.recurrent),
    "lru": lambda inputs, size, cfg: cells.Lru(inputs, size),
}


def hidden_cells(cfg: NetworkConfig, inputs: int, copies: int = 1) -> list[Any]:
    """The cells of the hidden layers, each fed by `copies` outputs of the one below."""
    names = cfg.cell * len(cfg.hidden) if len(cfg.cell) == 1 else cfg.cell
    built: list[Any] = []
    for name, size in zip(names, cfg.hidden, strict=True):
        width = copies * built[-1].output_size if built else inputs
        built.append(CELLS[name](width, size, cfg))
    return built


def build_network(cfg: NetworkConfig, inputs: int, outputs: int) -> cells.Stack:
    """The stack of a configuration: inputs (or tokens) to unnormalised scores of the outputs."""
    layers: list[Any] = []
    width = inputs
    if cfg.embedding:
        if inputs != outputs:
            raise ValueError(f"tying needs as many tokens in ({inputs}) as out ({outputs})")
        layers.append(cells.Embedding(inputs, cfg.embedding))
        width = cfg.embedding
    layers += hidden_cells(cfg, width)
    width = layers[-1].output_size
    for size in cfg.readout:
        layers += [cells.Dense(width, size), cells.Activation(size, "relu")]
        width = size
    if not cfg.embedding:
        return cells.Stack((*layers, cells.Dense(width, outputs)))
    layers += [cells.Dense(width, cfg.embedding), cells.Dense(cfg.embedding, outputs)]
    return cells.Stack(tuple(layers), tied=((len(layers) - 1, 0),))


def param_specs(net: cells.Stack, cfg: NetworkConfig) -> dict[str, Any]:
    """Those of the stack, with the initial decays of the configuration."""
    if not cfg.decay_range:
        return net.param_specs()
    low, high = (math.log(d / (1 - d)) for d in cfg.decay_range)

    def spread(path: str, spec: ParamSpec) -> ParamSpec:
        if not path.endswith("/decay_logit"):
            return spec
        values = np.linspace(low, high, spec.size, dtype=np.float32)
        return dataclasses.replace(spec, init=Values(values))

    return params_lib.map_with_path(spread, net.param_specs())


def apply(
    net: cells.Stack, params: PyTree, state: tuple, xs: jax.Array
) -> tuple[tuple, jax.Array, dict[str, PyTree]]:
    """As `cells.unroll`, one layer after the other: far fewer and larger matrix products.

    Stateless layers see all steps at once, and so does the input matrix of a cell; only what
    depends on the step before is scanned.

    Returns:
      (state after the last step, outputs [T, B, m], states of each cell at all steps).
    """
    new, traces = [], {}
    for number, (layer, own, old) in enumerate(
        zip(net.layers, net.layer_params(params), state, strict=True)
    ):
        if getattr(layer, "stateless", False):
            flat = xs.reshape(-1, *xs.shape[2:])
            after, y = layer.step(own, old, flat)
            xs = y.reshape(*xs.shape[:2], *y.shape[1:])
        elif isinstance(layer, cells.Units):
            after, (xs, traces[f"layer_{number}"]) = _apply_units(layer, own, old, xs)
        else:
            after, xs = cells.unroll(layer, own, old, xs)
        new.append(after)
    return tuple(new), xs, traces


def _apply_units(cell: cells.Units, params: PyTree, state: PyTree, xs: jax.Array) -> Any:
    time, rows = xs.shape[:2]
    drives = (xs @ params["w"]).reshape(time, rows, len(cell.gates), cell.size)
    theta = {name: params[name] for name in cell.vector_specs()}

    def step(state: PyTree, drive: jax.Array) -> tuple[PyTree, Any]:
        feedback = jnp.zeros_like(drive)
        if cell.recurrent:
            feedback = (cell.output(state) @ params["h"]).reshape(drive.shape)
        state = cell.units(theta, state, drive, feedback)
        return state, (cell.output(state), state)

    return jax.lax.scan(step, state, drives)
