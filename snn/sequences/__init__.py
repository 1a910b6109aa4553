# SPDX-License-Identifier: Apache-2.0
"""Sequence data sets as batches of inputs, targets and weights: music, digits, text, speech."""

from snn.sequences.chorales import read_chorales
from snn.sequences.digits import digit_arrays
from snn.sequences.features import log_mel
from snn.sequences.phonemes import read_timit
from snn.sequences.source import Sequences
from snn.sequences.text import Streams, Windows, build_corpus, read_wikitext2

__all__ = [
    "Sequences",
    "Streams",
    "Windows",
    "build_corpus",
    "digit_arrays",
    "log_mel",
    "read_chorales",
    "read_timit",
    "read_wikitext2",
]
