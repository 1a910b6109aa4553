# SPDX-License-Identifier: Apache-2.0
"""Relational baselines over the contents of glimpses, under the interface of GAP-Abstractor.

CoRelNet: R = softmax(Z Z^T), row by row, flattened and read by an MLP (G. Kerg et al., "On neural
architecture inductive biases for relational tasks", 2022).

ESBN, the emergent symbol binding network: an LSTM writes a key for each object into a memory beside
the object's code, and receives the keys of what resembles the current object, so that it never
sees the codes themselves (T. Webb, I. Sinha, J. Cohen, ICLR 2021):

    h_t = LSTM(r_{t-1});  k_t = relu(W_k h_t);  gate_t = sigmoid(W_g h_t)
    w = softmax_j (z_t . z_j),  c_j = sigmoid(gamma z_t . z_j + beta)          over j < t
    r_t = gate_t sum_j w_j [k_j, c_j]                                          (r_1 = 0)

Locations, which both lack, may be appended: to R, and to r_t.

Dimensions: N images, T fixations, Z width of an object's code.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from typing import Any

import jax
import jax.numpy as jnp

from core.params import Constant, ParamSpec, zeros
from perception.networks import layers, stem
from perception.networks.layers import Params, Specs


@dataclasses.dataclass(frozen=True)
class CoRelNet:
    """Relations as inputs.

    Attributes:
      glimpses: shape (T, K, g, g) of the contents.
      outputs: number of logits.
      stem: encoders of content and location.
      hidden: units of the MLP's two hidden layers.
      places: append the code of every location.
    """

    glimpses: tuple[int, int, int, int]
    outputs: int = 2
    stem: stem.StemConfig = stem.StemConfig()
    hidden: tuple[int, int] = (512, 256)
    places: bool = True

    inputs = ("content", "location")

    def param_specs(self) -> Specs:
        """Parameters."""
        count = self.glimpses[0]
        first = count * count + (count * self.stem.place if self.places else 0)
        sizes = (first, *self.hidden, self.outputs)
        pairs = enumerate(zip(sizes[:-1], sizes[1:], strict=True))
        return {
            "stem": stem.specs(self.stem, self.glimpses),
            "head": {f"dense_{i}": layers.dense_specs(*pair) for i, pair in pairs},
        }

    def apply(
        self, params: Params, inputs: Mapping[str, jax.Array], key: jax.Array | None = None
    ) -> jax.Array:
        """Logits [N, outputs]; see `Abstractor.apply`."""
        seen, places = stem.apply(params["stem"], self.stem, inputs, key)
        relations = jax.nn.softmax(jnp.einsum("nqz,nkz->nqk", seen, seen), axis=-1)
        parts = [relations, places] if self.places else [relations]
        x = jnp.concatenate([part.reshape(len(part), -1) for part in parts], axis=-1)
        for i in range(len(self.hidden)):
            x = jax.nn.relu(layers.dense(params["head"][f"dense_{i}"], x))
        return layers.dense(params["head"][f"dense_{len(self.hidden)}"], x)


@dataclasses.dataclass(frozen=True)
class Esbn:
    """Keys and values.

    Attributes:
      glimpses, outputs, stem, places: as in `CoRelNet`.
      units: of the LSTM; 512 in the original.
      key_size: of a key; 256 in the original.
    """

    glimpses: tuple[int, int, int, int]
    outputs: int = 2
    stem: stem.StemConfig = stem.StemConfig()
    units: int = 512
    key_size: int = 256
    places: bool = True

    inputs = ("content", "location")

    def param_specs(self) -> Specs:
        """Parameters."""
        retrieved = self.key_size + 1 + (self.stem.place if self.places else 0)
        scalar = lambda value: ParamSpec((), (), Constant(value))
        return {
            "stem": stem.specs(self.stem, self.glimpses),
            "lstm": layers.dense_specs(retrieved + self.units, 4 * self.units),
            "key": layers.dense_specs(self.units, self.key_size),
            "gate": layers.dense_specs(self.units, 1),
            "confidence": {"scale": scalar(1.0), "shift": ParamSpec((), (), zeros)},
            "head": layers.dense_specs(self.units, self.outputs),
        }

    def apply(
        self, params: Params, inputs: Mapping[str, jax.Array], key: jax.Array | None = None
    ) -> jax.Array:
        """Logits [N, outputs], read after the last object; see `Abstractor.apply`."""
        seen, places = stem.apply(params["stem"], self.stem, inputs, key)
        rows, count, _ = seen.shape
        likeness = jnp.einsum("nqz,nkz->qnk", seen, seen)

        def step(carry: Any, now: Any) -> tuple[Any, None]:
            h, cell, retrieved, keys = carry
            t, alike, place = now
            parts = [retrieved, place, h] if self.places else [retrieved, h]
            h, cell = _lstm(params["lstm"], jnp.concatenate(parts, axis=-1), cell)
            gate = jax.nn.sigmoid(layers.dense(params["gate"], h))
            own = jax.nn.relu(layers.dense(params["key"], h))
            retrieved = jnp.where(t > 0, gate * self._retrieve(params, t, alike, keys), 0.0)
            return (h, cell, retrieved, keys.at[:, t].set(own)), None

        state = jnp.zeros((rows, self.units), seen.dtype)
        retrieved = jnp.zeros((rows, self.key_size + 1), seen.dtype)
        keys = jnp.zeros((rows, count, self.key_size), seen.dtype)
        steps = (jnp.arange(count), likeness, jnp.swapaxes(places, 0, 1))
        (h, *_), _ = jax.lax.scan(step, (state, state, retrieved, keys), steps)
        return layers.dense(params["head"], h)

    def _retrieve(
        self, params: Params, t: jax.Array, alike: jax.Array, keys: jax.Array
    ) -> jax.Array:
        """Keys and confidences of the objects before t, weighted by their likeness [N, T]."""
        past = jnp.arange(alike.shape[-1]) < jnp.maximum(t, 1)  # never empty: no NaN at t = 0
        weights = jax.nn.softmax(jnp.where(past, alike, -jnp.inf), axis=-1)
        p = params["confidence"]
        confidence = jax.nn.sigmoid(p["scale"] * alike + p["shift"])
        entries = jnp.concatenate([keys, confidence[..., None]], axis=-1)
        return jnp.einsum("nk,nkd->nd", weights, entries)


def _lstm(p: Params, x: jax.Array, cell: jax.Array) -> tuple[jax.Array, jax.Array]:
    """One step: x = [input, h] -> (h, cell)."""
    i, f, g, o = jnp.split(layers.dense(p, x), 4, axis=-1)
    cell = jax.nn.sigmoid(f) * cell + jax.nn.sigmoid(i) * jnp.tanh(g)
    return jax.nn.sigmoid(o) * jnp.tanh(cell), cell
