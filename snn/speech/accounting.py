# SPDX-License-Identifier: Apache-2.0
"""What a recogniser costs: parameters, multiplications and spikes for a second of sound, latency.

Multiplications of one step of n units with m inputs (arXiv 2110.02743 compares units so):

    LSTM 4 n (m + n) + 3 n     GRU 3 n (m + n) + 3 n     SNU n (m + n) + 2 n
    SNU with threshold modulation 2 n (m + n) + 5 n, with output modulation 2 n (m + n) + 3 n
    adaptive SNU n (m + n) + 5 n    LIF n (m + n) + 3 n    ALIF n (m + n) + 5 n    LRU 2 n m + 6 n

and n m instead of n (m + n) without connections among the units. That is the dense count. The
event-driven count leaves out products with a zero, and with a one, which is an addition: a matrix
that reads binary spikes costs no multiplication, one that reads gated spikes only those that come.
"""

from __future__ import annotations

import dataclasses
import statistics
import time
from collections.abc import Mapping, Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from core import params as params_lib
from core.task import PyTree
from snn import cells, surrogates
from snn.speech.features import FeatureConfig
from snn.speech.manifest import Item
from snn.speech.network import Transducer
from snn.speech.recogniser import Recogniser, Stream

# Multiplications of a unit that are no entry of a matrix; see the module.
_ELEMENTWISE: dict[type[Any], int] = {
    cells.Lstm: 3,
    cells.Gru: 3,
    cells.Snu: 2,
    cells.LateralSnu: 2,
    cells.AdaptiveSnu: 5,
    cells.ThresholdModulated: 5,
    cells.OutputModulated: 3,
    cells.Lif: 3,
    cells.Alif: 5,
    cells.Lru: 6,
}


@dataclasses.dataclass(frozen=True)
class Part:
    """Cost of one part of the network.

    Attributes:
      name, kind, units: which part, its class, its width.
      parameters: of the part.
      multiplications, events: dense and event-driven multiplications a second.
      spikes: spikes a second; None for graded outputs.
    """

    name: str
    kind: str
    units: int
    parameters: int
    multiplications: float
    events: float
    spikes: float | None = None


def signal_kind(cell: Any) -> str:
    """What a cell sends: "binary" spikes, "gated" spikes (zero or graded), or "graded" numbers."""
    fire = getattr(cell, "fire", None)
    if fire is None or surrogates.get(fire).forward is not surrogates.step:
        return "graded"
    return "gated" if isinstance(cell, cells.OutputModulated) else "binary"


def step_cost(
    cell: cells.Units, inputs: str = "graded", input_rate: float = 1.0, rate: float = 1.0
) -> tuple[float, float]:
    """(dense, event-driven) multiplications of one step of a cell.

    Args:
      cell: any of `snn.tasks.networks.CELLS`.
      inputs: kind of its inputs, see `signal_kind`.
      input_rate, rate: spikes a step of an input, and of a unit of the cell itself.

    Raises:
      NotImplementedError: a cell that the table does not have.
    """
    if type(cell) not in _ELEMENTWISE:
        raise NotImplementedError(
            f"no operation count of {type(cell).__name__}; there are"
            f" {', '.join(c.__name__ for c in _ELEMENTWISE)}"
        )
    share = lambda kind, rate: {"graded": 1.0, "gated": rate, "binary": 0.0}[kind]
    columns = len(cell.gates) * cell.size
    matrix = columns * cell.input_size
    feedback = columns * cell.output_size if cell.recurrent else 0
    elementwise = _ELEMENTWISE[type(cell)] * cell.size
    events = matrix * share(inputs, input_rate) + feedback * share(signal_kind(cell), rate)
    return matrix + feedback + elementwise, events + elementwise


def firing_rates(
    net: Transducer,
    params: PyTree,
    x: jax.Array,
    frames: jax.Array,
    labels: jax.Array,
    counts: jax.Array,
) -> dict[str, float]:
    """Mean spikes of a unit and step of every part that spikes, on a batch.

    Args:
      x, frames: [B, T, F] and [B], see `Transducer.encode`. labels, counts: int [B, U] and [B].

    Returns:
      {"encoder/layer_0": ..., "prediction/layer_1": ...}; a bidirectional layer has two entries.
    """
    _, traces = net.encode(params, x, frames)
    found = {
        f"encoder/{name}": (net.encoder_cells[int(name.split("_")[-1])], states, frames)
        for name, states in traces.items()
    }
    for name, states in net.predict_traces(params, labels)[1].items():
        cell = net.prediction.layers[int(name.split("_")[-1])]
        found[f"prediction/{name}"] = (cell, states, jnp.asarray(counts) + 1)
    rates = {}
    for name, (cell, states, steps) in found.items():
        if signal_kind(cell) != "graded":
            inside = (jnp.arange(len(states["y"]))[:, None] < steps)[:, :, None]
            fired = ((states["y"] > 0) & inside).sum()
            rates[name] = float(fired / (steps.sum() * cell.size))
    return rates


def account(
    net: Transducer,
    front_end: FeatureConfig,
    labels_per_second: float,
    rates: Mapping[str, float] | None = None,
) -> list[Part]:
    """Cost of each part for one second of sound, greedy decoding.

    Args:
      net, front_end: the recogniser.
      labels_per_second: labels in a second of speech.
      rates: of `firing_rates`; without them, event-driven counts assume every unit always spikes.

    Returns:
      encoder and prediction layers, and the dense parts of the joint.
    """
    rates = rates or {}
    steps = 1 / front_end.seconds_per_step
    specs, dense = net.param_specs(), net.dense()
    parts = []
    ways = ("forward", "backward") if net.cfg.bidirectional else ("layer",)
    groups = [
        ("encoder", [f"{way}_{i}" for way in ways], cell, steps)
        for i, cell in enumerate(net.encoder_cells)
    ]
    groups += [
        ("prediction", [f"layer_{i}"], cell, labels_per_second)
        for i, cell in enumerate(net.prediction.layers)
        if i
    ]
    below, below_rate, previous = "graded", 1.0, ""
    for number, (part, names, cell, frequency) in enumerate(groups):
        if part != previous:
            below, below_rate, previous = "graded", 1.0, part
        rate = float(np.mean([rates.get(f"{part}/{name}", 1.0) for name in names]))
        whole, events = step_cost(cell, below, below_rate, rate)
        below, below_rate = signal_kind(cell), rate
        spikes = None if below == "graded" else rate * cell.size * len(names) * frequency
        parts.append(
            Part(
                f"{part} {names[0].split('_')[-1]}",
                type(cell).__name__,
                cell.size * len(names),
                sum(params_lib.count(specs[part][name]) for name in names),
                whole * frequency * len(names),
                events * frequency * len(names),
                spikes,
            )
        )
        if number + 1 == len(groups) or groups[number + 1][0] != part:
            last = f"{part}_joint"
            parts.append(_dense_part(last, dense[last], specs, frequency, below, below_rate))
    # Each frame ends with one look that finds the blank, and each label is one look more.
    looks = steps + labels_per_second
    output = _dense_part("output", dense["output"], specs, looks, "graded", 1.0)
    if net.cfg.joint == "multiplicative":
        more = net.cfg.joint_size * looks
        output = dataclasses.replace(
            output,
            multiplications=output.multiplications + more,
            events=output.events + more,
        )
    embedding = params_lib.count(specs["prediction"]["layer_0"])
    return [*parts, output, Part("labels", "Embedding", net.cfg.label_size, embedding, 0, 0)]


def _dense_part(
    name: str, layer: cells.Dense, specs: PyTree, frequency: float, below: str, rate: float
) -> Part:
    products = layer.input_size * layer.output_size * frequency
    events = products * {"graded": 1.0, "gated": rate, "binary": 0.0}[below]
    size = params_lib.count(specs[name])
    return Part(name, "Dense", layer.output_size, size, products, events)


def totals(parts: Sequence[Part]) -> dict[str, float]:
    """Sums over the parts, for a report."""
    return {
        "multiplications_per_second": sum(p.multiplications for p in parts),
        "event_multiplications_per_second": sum(p.events for p in parts),
        "spikes_per_second": sum(p.spikes or 0.0 for p in parts),
    }


def table(parts: Sequence[Part]) -> str:
    """The parts as a Markdown table."""
    lines = [
        "| part | unit | width | parameters | multiplications/s | event-driven/s | spikes/s |",
        "|---|---|---|---|---|---|---|",
    ]
    for p in parts:
        spikes = "" if p.spikes is None else f"{p.spikes:,.0f}"
        lines.append(
            f"| {p.name} | {p.kind} | {p.units} | {p.parameters:,} | {p.multiplications:,.0f}"
            f" | {p.events:,.0f} | {spikes} |"
        )
    return "\n".join(lines)


# --- time -----------------------------------------------------------------------------------------


def latency(
    recogniser: Recogniser, sounds: Sequence[tuple[Item, np.ndarray]], piece_seconds: float = 0.02
) -> dict[str, float]:
    """Real-time factor and latency of streams on this machine.

    Args:
      recogniser: a unidirectional one.
      sounds: utterances with their samples; their words' times are used where they are known.
      piece_seconds: sound fed at once.

    Returns:
      real_time_factor: seconds of computation for a second of sound;
      first_label_seconds: median sound heard from the beginning of the first word to the first
        label, with the time that computing the last piece took;
      after_word_seconds: median sound heard from the end of the first word to the first label.
    """
    size = round(piece_seconds * recogniser.rate)
    warm = Stream(recogniser)
    warm.feed(np.zeros(recogniser.rate, np.float32))
    spent = heard = 0.0
    from_start, from_end = [], []
    for item, samples in sounds:
        stream, found = Stream(recogniser), False
        for first in range(0, len(samples), size):
            begin = time.perf_counter()
            text = stream.feed(samples[first : first + size]).labels
            taken = time.perf_counter() - begin
            spent += taken
            if text and not found and item.words:
                found, now = True, (first + size) / recogniser.rate + taken
                from_start.append(now - item.words[0][1])
                from_end.append(now - item.words[0][2])
        begin = time.perf_counter()
        stream.finish()
        spent += time.perf_counter() - begin
        heard += len(samples) / recogniser.rate
    middle = lambda values: statistics.median(values) if values else float("nan")
    return {
        "real_time_factor": spent / heard,
        "first_label_seconds": middle(from_start),
        "after_word_seconds": middle(from_end),
    }
