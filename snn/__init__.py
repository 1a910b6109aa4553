# SPDX-License-Identifier: Apache-2.0
"""Spiking neural networks: time-to-first-spike networks (`snn.ttfs`) and their training."""

__all__ = ["convert", "tasks", "train", "ttfs"]
