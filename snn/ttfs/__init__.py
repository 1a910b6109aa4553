# SPDX-License-Identifier: Apache-2.0
"""Time-to-first-spike networks: event-based simulation, exact mapping from ReLU networks, training.

Start at `network` (what a network is, closed form), `simulate` (back-ends), `mapping` (from ReLU
networks) and `windows` (from data, certificates). See docs/ttfs.md.
"""

from snn.ttfs.kernels import Exponential, General, Lif1, Lif2, Ramp
from snn.ttfs.mapping import Mapped, map_relu
from snn.ttfs.network import Network, closed_form
from snn.ttfs.simulate import run
from snn.ttfs.solve import causal_solve
from snn.ttfs.windows import certify, from_data, require

__all__ = [
    "Exponential",
    "General",
    "Lif1",
    "Lif2",
    "Mapped",
    "Network",
    "Ramp",
    "causal_solve",
    "certify",
    "closed_form",
    "from_data",
    "map_relu",
    "require",
    "run",
]
