# SPDX-License-Identifier: Apache-2.0
"""Sequence data sets as batches of inputs, targets and weights: music, digits, text, speech."""

from snn.sequences.chorales import read_chorales
from snn.sequences.source import Sequences, pad_length

__all__ = ["Sequences", "pad_length", "read_chorales"]
