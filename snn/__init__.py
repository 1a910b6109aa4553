# SPDX-License-Identifier: Apache-2.0
"""Spiking neural networks and their training.

Discrete-time cells (`snn.cells`) with online learning (`snn.ostl`), and time-to-first-spike
networks (`snn.ttfs`).
"""

__all__ = ["cells", "convert", "ostl", "rwkv_cells", "surrogates", "tasks", "train", "ttfs"]
