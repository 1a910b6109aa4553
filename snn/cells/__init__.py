# SPDX-License-Identifier: Apache-2.0
"""Discrete-time cells under one contract, and stacks of them.

A cell (and a `Stack` of cells and stateless layers, which is the same thing) is a frozen,
hashable dataclass of hyper-parameters with

    cell.input_size, cell.output_size                      n, m
    cell.param_specs() -> nested dict of core.params.ParamSpec
    cell.init_state(batch_size, dtype=jnp.float32) -> state   any pytree of arrays [B, ...]
    cell.step(params, state, x [B, n]) -> (state, y [B, m])   pure; state keeps its structure

and is run over time, time-major, by

    params = core.params.init(cell.param_specs(), key)
    state, ys = cells.unroll(cell, params, state, xs)         # xs [T, B, n] -> ys [T, B, m]

    net = cells.Stack((
        cells.Snu(88, 150, recurrent=True, fire="sigmoid", decay=0.8, membrane="leaky_relu"),
        cells.Dense(150, 88),
    ))

Parameters of a stack are {"layer_0": ..., "layer_1": ...}; its state is a tuple, one entry for
each layer (() for a stateless one). Tokens are fed as integers [T, B] to a stack whose first
layer is `Embedding`. Matrices are stored [in, out]. A step never draws random numbers.
"""

from snn.cells.base import Cell as Cell
from snn.cells.base import Units as Units
from snn.cells.gru import Gru as Gru
from snn.cells.lateral import LateralSnu as LateralSnu
from snn.cells.lif import Alif as Alif
from snn.cells.lif import Lif as Lif
from snn.cells.lru import Lru as Lru
from snn.cells.lstm import Lstm as Lstm
from snn.cells.modulated import AdaptiveSnu as AdaptiveSnu
from snn.cells.modulated import OutputModulated as OutputModulated
from snn.cells.modulated import ThresholdModulated as ThresholdModulated
from snn.cells.snu import Snu as Snu
from snn.cells.stack import Stack as Stack
from snn.cells.stack import stack_of as stack_of
from snn.cells.stateless import Activation as Activation
from snn.cells.stateless import Dense as Dense
from snn.cells.stateless import Embedding as Embedding
from snn.cells.stateless import LayerNorm as LayerNorm
from snn.cells.unroll import check_sequence as check_sequence
from snn.cells.unroll import check_state as check_state
from snn.cells.unroll import unroll as unroll

__all__ = [
    "Activation",
    "AdaptiveSnu",
    "Alif",
    "Cell",
    "Dense",
    "Embedding",
    "Gru",
    "LateralSnu",
    "LayerNorm",
    "Lif",
    "Lru",
    "Lstm",
    "OutputModulated",
    "Snu",
    "Stack",
    "ThresholdModulated",
    "Units",
    "check_sequence",
    "check_state",
    "stack_of",
    "unroll",
]
