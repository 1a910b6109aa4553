# SPDX-License-Identifier: Apache-2.0
"""Frame-wise phoneme recognition on the public TIMIT sample: 56 utterances of 7 speakers.

A frame is labelled with the phone that is spoken at its centre, one of the 61 of TIMIT. The sample
has no official split; here it is by speaker: five to train, one to validate, one to test. The 39
classes are those of Lee and Hon (1989). A third of the recordings lost bytes in a text-mode
copy and are noise from there on; `snn.sequences.repair` mends them.
"""

from __future__ import annotations

import dataclasses
import io
import wave
import zipfile
from pathlib import Path

import numpy as np

from core.datasets import find_dataset
from snn.sequences import features as features_lib
from snn.sequences import repair
from snn.sequences.source import Sequences

VALID_SPEAKERS, TEST_SPEAKERS = ("dr2-marc0",), ("dr4-maeb0",)
PHONES = tuple(
    "aa ae ah ao aw ax ax-h axr ay b bcl ch d dcl dh dx eh el em en eng epi er ey f g gcl h# hh hv"
    " ih ix iy jh k kcl l m n ng nx ow oy p pau pcl q r s sh t tcl th uh uw ux v w y z zh".split()
)
# Phone -> the one that stands for its class; "q" is usually dropped, here it counts as silence.
FOLDED = {
    **dict.fromkeys(("bcl", "dcl", "gcl", "pcl", "tcl", "kcl", "epi", "pau", "h#", "q"), "sil"),
    **{"ao": "aa", "ax": "ah", "ax-h": "ah", "axr": "er", "hv": "hh", "ix": "ih", "ux": "uw"},
    **{"el": "l", "em": "m", "en": "n", "nx": "n", "eng": "ng", "zh": "sh"},
}


@dataclasses.dataclass(frozen=True)
class Utterance:
    """Features float32 [T, n] and phone indices int32 [T] of one recording."""

    name: str
    features: np.ndarray
    labels: np.ndarray

    @property
    def speaker(self) -> str:
        """First part of the name."""
        return self.name.split("/")[0]


def folding() -> np.ndarray:
    """int32 [61]: class (0 ... 38) of each phone in the set of 39."""
    names = [FOLDED.get(p, p) for p in PHONES]
    order = sorted(set(names))
    return np.array([order.index(n) for n in names], np.int32)


def parse_phones(text: str, where: str) -> tuple[np.ndarray, np.ndarray]:
    """(ends in samples [P], phone indices [P]) of a .phn file.

    Raises:
      ValueError: a line that is not "start end phone", a gap, or an unknown phone.
    """
    ends, phones, previous = [], [], 0
    for number, line in enumerate(text.splitlines(), 1):
        parts = line.split()
        if len(parts) != 3 or not (parts[0].isdigit() and parts[1].isdigit()):
            raise ValueError(f"{where}, line {number}: expected 'start end phone', got {line!r}")
        start, end = int(parts[0]), int(parts[1])
        if parts[2] not in PHONES or start != previous or end <= start:
            raise ValueError(f"{where}, line {number}: {line!r} after sample {previous}")
        ends.append(end)
        phones.append(PHONES.index(parts[2]))
        previous = end
    if not ends:
        raise ValueError(f"{where}: no phones")
    return np.array(ends), np.array(phones, np.int32)


def read_wave(data: bytes, where: str) -> tuple[np.ndarray, int]:
    """(samples int16 [N], rate) of a mono 16-bit WAV file, in step (see `repair`)."""
    try:
        with wave.open(io.BytesIO(data)) as file:
            if file.getnchannels() != 1 or file.getsampwidth() != 2:
                raise ValueError(f"{where}: expected one channel of 16 bits")
            frames = repair.restore_returns(file.readframes(file.getnframes()))
            return np.frombuffer(frames, "<i2"), file.getframerate()
    except (wave.Error, EOFError) as error:
        raise ValueError(f"{where}: not a WAV file ({error})") from error


def read_timit(path: Path | None = None, bands: int = 40) -> list[Utterance]:
    """All utterances, sorted by name: `bands` log-mel energies, their slopes, and phones.

    Raises:
      FileNotFoundError: not on this machine; says what to do. ValueError: another content.
    """
    path = path or find_dataset("timit_sample") / "timit_sample.zip"
    with zipfile.ZipFile(path) as archive:
        names = sorted(n[:-4] for n in archive.namelist() if n.endswith(".wav"))
        if not names:
            raise ValueError(f"{path}: holds no .wav files")
        return [_utterance(archive, name, bands) for name in names]


def _utterance(archive: zipfile.ZipFile, name: str, bands: int) -> Utterance:
    samples, rate = read_wave(archive.read(f"{name}.wav"), f"{name}.wav")
    text = archive.read(f"{name}.phn").decode("ascii", "replace")
    ends, phones = parse_phones(text, f"{name}.phn")
    energies = features_lib.log_mel(samples, rate, bands)
    frames = np.concatenate([energies, features_lib.deltas(energies)], axis=1)
    centre = np.arange(len(frames)) * (rate * 10 // 1000) + rate * 25 // 2000
    spoken = np.minimum(np.searchsorted(ends, centre, side="right"), len(phones) - 1)
    return Utterance(name, frames.astype(np.float32), phones[spoken])


def split(utterances: list[Utterance]) -> dict[str, list[Utterance]]:
    """Training, validation and test utterances by speaker, features normalised.

    Each feature loses its mean over the utterance (what is constant there is the channel and much
    of the speaker) and is then divided by its standard deviation over the training part.
    """
    parts: dict[str, list[Utterance]] = {"train": [], "valid": [], "test": []}
    held_out = {**dict.fromkeys(VALID_SPEAKERS, "valid"), **dict.fromkeys(TEST_SPEAKERS, "test")}
    for u in utterances:
        parts[held_out.get(u.speaker, "train")].append(u)
    if not all(parts.values()):
        raise ValueError(
            f"no speaker left for some part: { {k: len(v) for k, v in parts.items()} }"
        )
    centred = lambda u: u.features - u.features.mean(axis=0)
    std = np.concatenate([centred(u) for u in parts["train"]]).std(axis=0) + 1e-5
    scaled = lambda u: dataclasses.replace(u, features=centred(u) / std)
    return {part: [scaled(u) for u in members] for part, members in parts.items()}


def frame_source(
    utterances: list[Utterance], *, delay: int = 0, seed: int | None = None, multiple: int = 64
) -> Sequences:
    """Frames and phones; the phone of frame t is asked for at frame t + delay.

    A delay lets a causal network hear what follows; the last `delay` inputs are repeated frames.
    """
    if delay < 0:
        raise ValueError(f"delay must not be negative, got {delay}")
    inputs, targets, weights = [], [], []
    for u in utterances:
        inputs.append(np.concatenate([u.features, np.repeat(u.features[-1:], delay, axis=0)]))
        targets.append(np.concatenate([np.zeros(delay, np.int32), u.labels]))
        weights.append(np.concatenate([np.zeros(delay), np.ones(len(u.labels))]))
    return Sequences(inputs, targets, weights, seed=seed, multiple=multiple)
