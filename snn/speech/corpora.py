# SPDX-License-Identifier: Apache-2.0
"""Small public corpora as manifests with their sound or features beside them.

    paths = prepare("fsdd", folder)        # {"train": folder/train.jsonl, "valid": ..., ...}

Connected digits are made from the Free Spoken Digit Dataset: strings of recordings of one speaker,
with short pauses of that recording's own background. The test speaker is in no other part.
"""

from __future__ import annotations

import csv
import io
import json
import wave
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np

from core import files
from core.datasets import find_dataset
from snn.sequences import phonemes
from snn.speech import audio, manifest

PARTS = ("train", "valid", "test")
DIGITS = ("zero", "one", "two", "three", "four", "five", "six", "seven", "eight", "nine")
FSDD_RATE = 8_000
FSDD_TEST_SPEAKER = "theo"
FSDD_VALID_TAKES = range(5)  # the test takes of the data set's convention
AN4_VALID_SPEAKERS = 7
TIMIT_RATE = 16_000


def prepare(name: str, folder: Path, **options: Any) -> dict[str, Path]:
    """Writes the manifests (and sound) of a corpus below `folder`, unless they are there.

    Args:
      name: "fsdd", "an4" or "timit".
      folder: where to.
      options: arguments of the corpus, see the functions below.

    Returns:
      path of the manifest of each part.

    Raises:
      ValueError: unknown corpus, or a folder made with other options.
      FileNotFoundError: the data set is not on this machine; says what to do.
    """
    if name not in CORPORA:
        raise ValueError(f"corpus must be one of {sorted(CORPORA)}, got {name!r}")
    paths = {part: folder / f"{part}.jsonl" for part in PARTS}
    done, settings = folder / "corpus.json", {"corpus": name, **options}
    if done.is_file():
        found = json.loads(done.read_text())
        if found != json.loads(json.dumps(settings)):
            raise ValueError(f"{folder} holds another corpus: {found}, expected {settings}")
        return paths
    folder.mkdir(parents=True, exist_ok=True)
    for part, rows in CORPORA[name](folder, **options).items():
        manifest.write(paths[part], rows)
    # Last of all: its presence says that everything before was written.
    with files.atomic_write(done, "w") as f:
        json.dump(settings, f)
    return paths


def write_wave(path: Path, samples: np.ndarray, rate: int) -> None:
    """16-bit mono WAV of samples in that range."""
    with files.atomic_write(path) as f, wave.open(f, "wb") as out:
        out.setnchannels(1)
        out.setsampwidth(2)
        out.setframerate(rate)
        out.writeframes(np.clip(np.round(samples), -32768, 32767).astype("<i2").tobytes())


# --- connected digits -----------------------------------------------------------------------------


def _recordings(path: Path) -> dict[tuple[str, int], list[np.ndarray]]:
    """(speaker, take) -> the ten digits, float64 samples."""
    found: dict[tuple[str, int], list[np.ndarray]] = {}
    with zipfile.ZipFile(path) as archive:
        for name in sorted(n for n in archive.namelist() if n.endswith(".wav")):
            digit, speaker, take = Path(name).stem.split("_")
            samples = audio.read(io.BytesIO(archive.read(name)), FSDD_RATE, name)
            takes = found.setdefault((speaker, int(take)), [np.zeros(0)] * 10)
            takes[int(digit)] = samples.astype(np.float64)
    return found


def _background(samples: np.ndarray) -> float:
    """Standard deviation of the quietest 10 ms of a recording, at least one step."""
    hop = FSDD_RATE // 100
    frames = samples[: len(samples) // hop * hop].reshape(-1, hop)
    return max(1.0, float(frames.std(axis=1).min()))


def digit_string(
    rng: np.random.Generator, takes: list[list[np.ndarray]], length: int, pause: tuple[float, float]
) -> tuple[np.ndarray, list[tuple[str, float, float]]]:
    """(samples, [(word, start, end)]) of `length` random digits of random takes."""
    pieces, words, position = [], [], 0
    for number in range(length + 1):
        digit = int(rng.integers(10))
        recording = takes[int(rng.integers(len(takes)))][digit]
        size = int(rng.uniform(*pause) * FSDD_RATE)
        pieces.append(rng.normal(0.0, _background(recording), size))
        position += size
        if number == length:
            break  # the string ends with a pause, too
        pieces.append(recording)
        start, position = position, position + len(recording)
        words.append((DIGITS[digit], round(start / FSDD_RATE, 4), round(position / FSDD_RATE, 4)))
    return np.concatenate(pieces), words


def fsdd(
    folder: Path,
    train: int = 3000,
    valid: int = 150,
    test: int = 300,
    shortest: int = 1,
    longest: int = 7,
    pause: tuple[float, float] = (0.02, 0.25),
    test_speaker: str = FSDD_TEST_SPEAKER,
    seed: int = 0,
) -> dict[str, list[dict[str, Any]]]:
    """Connected digits; numbers of strings of each part, digits of a string, pauses in seconds.

    Training and validation share speakers but no recording; the test speaker is in neither.
    """
    recordings = _recordings(find_dataset("fsdd") / "recordings.zip")
    speakers = sorted({speaker for speaker, _ in recordings})
    if test_speaker not in speakers:
        raise ValueError(f"test_speaker must be one of {speakers}, got {test_speaker!r}")
    rng = np.random.default_rng(seed)
    others = [s for s in speakers if s != test_speaker]
    parts: dict[str, list[dict[str, Any]]] = {}
    for part, count in (("train", train), ("valid", valid), ("test", test)):
        (folder / part).mkdir(exist_ok=True)
        parts[part] = rows = []
        for number in range(count):
            speaker = test_speaker if part == "test" else others[number % len(others)]
            takes = [
                digits
                for (who, take), digits in recordings.items()
                if who == speaker
                and (part == "test" or (take in FSDD_VALID_TAKES) == (part == "valid"))
            ]
            length = int(rng.integers(shortest, longest + 1))
            samples, words = digit_string(rng, takes, length, pause)
            name = f"{part}/{speaker}_{number:05d}.wav"
            write_wave(folder / name, samples, FSDD_RATE)
            rows.append(
                {
                    "audio": name,
                    "text": " ".join(word for word, _, _ in words),
                    "speaker": speaker,
                    "duration": round(len(samples) / FSDD_RATE, 4),
                    "words": [list(word) for word in words],
                }
            )
    return parts


# --- AN4 ------------------------------------------------------------------------------------------


def an4(folder: Path) -> dict[str, list[dict[str, Any]]]:
    """CMU AN4: stored MFCC of spelled names, numbers and commands; validation by speaker."""
    source = find_dataset("an4_mfcc")
    rows = {part: _an4_part(source, part, folder) for part in ("train", "test")}
    speakers = sorted({row["speaker"] for row in rows["train"]})
    held_out = set(speakers[-AN4_VALID_SPEAKERS:])
    valid = [row for row in rows["train"] if row["speaker"] in held_out]
    train = [row for row in rows["train"] if row["speaker"] not in held_out]
    return {"train": train, "valid": valid, "test": rows["test"]}


def _an4_part(source: Path, part: str, folder: Path) -> list[dict[str, Any]]:
    (folder / part).mkdir(exist_ok=True)
    with np.load(source / f"{part}.npz", allow_pickle=False) as stored:
        features, lengths = stored["features"].astype(np.float32), stored["lengths"]
    rows, first = [], 0
    with open(source / f"{part}.tsv", encoding="utf-8", newline="") as f:
        table = list(csv.DictReader(f, delimiter="\t"))
    if len(table) != len(lengths) or lengths.sum() != len(features):
        raise ValueError(f"{source}: {part}.tsv and {part}.npz do not fit each other")
    for row, length in zip(table, lengths, strict=True):
        name = f"{part}/{Path(row['utterance_id']).name}.npy"
        with files.atomic_write(folder / name) as out:
            np.save(out, features[first : first + length])
        first += int(length)
        rows.append(
            {
                "features": name,
                "text": row["transcript"],
                "speaker": row["speaker"],
                "duration": float(length) / 100,
            }
        )
    return rows


# --- TIMIT sample ---------------------------------------------------------------------------------


def timit(folder: Path) -> dict[str, list[dict[str, Any]]]:
    """The public TIMIT sample, whole sentences in lower case; split by speaker."""
    held_out = {
        **dict.fromkeys(phonemes.VALID_SPEAKERS, "valid"),
        **dict.fromkeys(phonemes.TEST_SPEAKERS, "test"),
    }
    parts: dict[str, list[dict[str, Any]]] = {part: [] for part in PARTS}
    with zipfile.ZipFile(find_dataset("timit_sample") / "timit_sample.zip") as archive:
        for name in sorted(n[:-4] for n in archive.namelist() if n.endswith(".wav")):
            samples, rate = phonemes.read_wave(archive.read(f"{name}.wav"), name)
            rows = io.StringIO(archive.read(f"{name}.wrd").decode("ascii", "replace"))
            words = [(w, int(a) / rate, int(b) / rate) for a, b, w in map(str.split, rows)]
            speaker = name.split("/")[0]
            part = held_out.get(speaker, "train")
            file = f"{part}/{name.replace('/', '_')}.wav"
            (folder / part).mkdir(exist_ok=True)
            write_wave(folder / file, samples, rate)
            parts[part].append(
                {
                    "audio": file,
                    "text": " ".join(word for word, _, _ in words),
                    "speaker": speaker,
                    "duration": round(len(samples) / rate, 4),
                    "words": [list(word) for word in words],
                }
            )
    return parts


CORPORA: dict[str, Callable[..., dict[str, list[dict[str, Any]]]]] = {
    "fsdd": fsdd,
    "an4": an4,
    "timit": timit,
}
