# SPDX-License-Identifier: Apache-2.0
"""JSB chorales as piano rolls: 229 / 76 / 77 pieces, one step a quarter note, 88 keys.

Split and time step of Boulanger-Lewandowski, Bengio and Vincent (ICML 2012). The task is to predict
the notes of the next step; its unit is the negative log-likelihood (nats) a step, summed over keys.
"""

from __future__ import annotations

import gzip
import json
from pathlib import Path
from typing import Any

import numpy as np

from core.datasets import find_dataset
from snn.sequences.source import Sequences

KEYS, LOWEST = 88, 21  # a piano; MIDI number of its lowest key
SPLITS = ("train", "valid", "test")
FILE = "jsb-chorales-quarter.json.gz"


def piano_roll(steps: list[Any], where: str = "piece") -> np.ndarray:
    """uint8 [T, 88] of a list of time steps, each a list of MIDI note numbers."""
    if not isinstance(steps, list) or len(steps) < 2:
        raise ValueError(f"{where}: expected a list of at least 2 time steps")
    roll = np.zeros((len(steps), KEYS), np.uint8)
    for time, notes in enumerate(steps):
        if not isinstance(notes, list):
            raise ValueError(f"{where}, step {time}: expected a list of notes, got {notes!r}")
        for note in notes:
            inside = isinstance(note, int) and LOWEST <= note < LOWEST + KEYS
            if not inside:
                raise ValueError(f"{where}, step {time}: {note!r} is no key of a piano (21-108)")
            roll[time, note - LOWEST] = 1
    return roll


def read_chorales(path: Path | None = None) -> dict[str, list[np.ndarray]]:
    """Piano rolls of the three splits.

    Args:
      path: the gzipped JSON file; by default that of the data set "jsb_chorales".

    Raises:
      FileNotFoundError: not on this machine; says what to do. ValueError: another content.
    """
    path = path or find_dataset("jsb_chorales") / FILE
    try:
        content = json.loads(gzip.decompress(path.read_bytes()))
    except (gzip.BadGzipFile, EOFError, UnicodeDecodeError, json.JSONDecodeError) as error:
        raise ValueError(f"{path}: expected gzipped JSON ({error})") from error
    if not isinstance(content, dict) or not all(s in content for s in SPLITS):
        raise ValueError(f"{path}: expected an object with the keys {SPLITS}")
    return {
        split: [piano_roll(p, f"{path.name}, {split} {i}") for i, p in enumerate(content[split])]
        for split in SPLITS
    }


def next_step_source(
    pieces: list[np.ndarray], *, seed: int | None = None, multiple: int = 32, length: int = 0
) -> Sequences:
    """Steps 0 ... T-2 as inputs, steps 1 ... T-1 as targets."""
    return Sequences(
        [p[:-1] for p in pieces],
        [p[1:] for p in pieces],
        seed=seed,
        multiple=multiple,
        fixed_length=length,
    )
