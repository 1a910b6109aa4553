# SPDX-License-Identifier: Apache-2.0
"""Batches of utterances, sorted into buckets of like length so that few shapes are compiled.

Every bucket has one width for sound and one for labels; a batch comes from one bucket. Which
utterances batch s of an epoch holds is a pure function of (seed, s), as `core.data` asks.
"""

from __future__ import annotations

import dataclasses
import sys
from collections.abc import Sequence

import numpy as np

from core import permute
from snn.speech import audio as audio_lib
from snn.speech import augment
from snn.speech.augment import AugmentConfig
from snn.speech.features import FeatureConfig
from snn.speech.manifest import Item, ManifestError
from snn.speech.tokenizer import TokenError, Tokenizer

CACHE_BYTES = 1 << 30
# Manifests are rounded, and front ends differ in what they do at the ends: so many seconds, and the
# same share of the whole, may be missing.
DURATION_ERROR = 0.05


class UtteranceError(ValueError):
    """An utterance that cannot be trained on; the message names it."""


def load(item: Item, cfg: FeatureConfig) -> np.ndarray:
    """Sound float32 [N] at the rate of the front end, or stored features float32 [T, F].

    Raises:
      FileNotFoundError, AudioError, UtteranceError: the item cannot be used.
    """
    name = f"{item.path} ({item.where})" if item.where else str(item.path)
    if item.is_features != (cfg.kind == "given"):
        raise UtteranceError(
            f"{name}: the front end of kind {cfg.kind!r} does not go with"
            f" {'stored features' if item.is_features else 'sound'}"
        )
    if not item.is_features:
        return audio_lib.read(item.path, cfg.rate, name, item.offset, item.duration)
    if not item.path.is_file():
        raise FileNotFoundError(f"{name}: no such file")
    try:
        x = np.load(item.path, allow_pickle=False)
    except (ValueError, OSError, EOFError) as error:
        raise UtteranceError(f"{name}: not a .npy file ({error})") from error
    if x.ndim != 2 or x.shape[1] != cfg.coefficients or not np.isfinite(x).all():
        raise UtteranceError(
            f"{name}: expected finite features [T, {cfg.coefficients}], got {x.shape}"
        )
    return x.astype(np.float32)


def check_sound(item: Item, samples: np.ndarray, cfg: FeatureConfig) -> None:
    """Raises UtteranceError for sound too short for one input frame, of another length than the
    manifest says (shorter; features also longer, of which the end would be lost), or words
    without sound."""
    frames = cfg.count(len(samples)) if cfg.kind != "given" else len(samples)
    if cfg.stacked_count(frames) < 1:
        raise UtteranceError(
            f"{item.path} ({item.where}): too short, {len(samples)} samples or frames"
        )
    rate = 1000 / cfg.hop_ms if cfg.kind == "given" else cfg.rate
    seconds = len(samples) / rate
    missing = item.duration - seconds
    if cfg.kind == "given":
        missing = abs(missing)
    if missing > DURATION_ERROR * (1 + item.duration):
        raise UtteranceError(
            f"{item.path} ({item.where}): {seconds:.2f} s, but its duration is {item.duration} s"
        )
    if cfg.kind != "given" and item.text.strip() and audio_lib.is_silent(samples):
        raise UtteranceError(f"{item.path} ({item.where}): silent, but its text is {item.text!r}")


@dataclasses.dataclass(frozen=True)
class _Bucket:
    rows: np.ndarray  # indices of items
    width: int  # samples or frames
    labels: int


class Utterances:
    """A `core.data.Source` of padded batches.

    A batch is {"input" float32 [B, N] or [B, T, F], "size" int32 [B], "labels" int32 [B, U],
    "counts" int32 [B], "weight" float32 [B]}; weight 0 marks rows that only fill a batch.
    """

    def __init__(
        self,
        items: Sequence[Item],
        tokenizer: Tokenizer,
        cfg: FeatureConfig,
        batch_size: int,
        *,
        seed: int | None = 0,
        buckets: int = 3,
        augmentation: AugmentConfig | None = None,
        max_seconds: float = 30.0,
        skip_bad: bool = False,
    ):
        """Checks every transcript and length; sound is read when it is used.

        Args:
          items: utterances.
          tokenizer, cfg: labels and front end.
          batch_size: utterances in a batch; a batch must be asked for as a whole.
          seed: of the order and of the speeds; None: the order of lengths, without distortion.
          buckets: number of shapes.
          augmentation: its speeds are applied here.
          max_seconds: longer utterances are bad ones.
          skip_bad: leave bad utterances out, and say so, instead of raising.

        Raises:
          UtteranceError, TokenError: a bad item, or none that is good.
        """
        self.tokenizer, self.cfg, self.batch_size = tokenizer, cfg, batch_size
        self.complaints: list[str] = []
        self._seed, self._skip = seed, skip_bad
        self._augment = augmentation if seed is not None and augmentation else AugmentConfig()
        self.items: list[Item] = []
        self._labels: list[list[int]] = []
        for item in items:
            try:
                if item.duration > max_seconds:
                    raise UtteranceError(
                        f"{item.path} ({item.where}): {item.duration} s is longer than"
                        f" max_seconds {max_seconds}"
                    )
                labels = tokenizer.encode(item.text, f"{item.path} ({item.where})")
            except (UtteranceError, TokenError) as error:
                self._complain(error)
                continue
            self.items.append(item)
            self._labels.append(labels)
        if not self.items:
            raise UtteranceError(f"no utterance to read; {'; '.join(self.complaints[:3])}")
        self._buckets = self._sorted_into(buckets)
        self._counts = [-(-len(b.rows) // batch_size) for b in self._buckets]
        self._cache: dict[int, np.ndarray] = {}
        self._cached_bytes = 0

    def _complain(self, error: Exception) -> None:
        if not self._skip:
            raise error
        if str(error) not in self.complaints:
            self.complaints.append(str(error))
            print(f"left out: {error}", file=sys.stderr, flush=True)

    def _sorted_into(self, count: int) -> list[_Bucket]:
        rate = 1000 / self.cfg.hop_ms if self.cfg.kind == "given" else self.cfg.rate
        slowest = min(self._augment.speeds, default=1.0)
        sizes = np.array([i.duration for i in self.items]) * rate / min(slowest, 1.0)
        parts = np.array_split(np.argsort(sizes, kind="stable"), min(count, len(sizes)))
        # One millisecond of room: durations in manifests are rounded.
        return [
            _Bucket(
                rows,
                max(self._least_size(), int(np.ceil(sizes[rows].max() + rate / 1000))),
                max(1, max(len(self._labels[i]) for i in rows)),
            )
            for rows in parts
        ]

    def __len__(self) -> int:
        return sum(self._counts) * self.batch_size

    @property
    def shapes(self) -> list[tuple[int, int]]:
        """(samples or frames, labels) of each bucket: what is compiled."""
        return [(b.width, b.labels) for b in self._buckets]

    def rows_of(self, indices: np.ndarray) -> tuple[np.ndarray, np.ndarray, _Bucket]:
        """(items, weights, bucket) of a batch's global indices."""
        indices = np.asarray(indices, np.int64)
        batches = sum(self._counts)
        epoch, place = divmod(int(indices[0]) // self.batch_size, batches)
        if self._seed is not None:
            order = permute.shuffled(np.array([epoch * batches + place]), batches, self._seed)
            place = int(order[0])
        number = 0
        while place >= self._counts[number]:
            place -= self._counts[number]
            number += 1
        bucket = self._buckets[number]
        position = place * self.batch_size + indices % self.batch_size
        size = len(bucket.rows)
        weights = (position < size).astype(np.float32)
        if self._seed is None:
            return bucket.rows[position % size], weights, bucket
        seed = permute.derive_seed(self._seed, "bucket", number)
        # The last batch of a bucket is filled up with the bucket's first rows.
        rows = bucket.rows[permute.shuffled(epoch * size + position % size, size, seed)]
        return rows, np.ones_like(weights), bucket

    def get(self, indices: np.ndarray) -> dict[str, np.ndarray]:
        """See `core.data.Source.get` and the class."""
        rows, weights, bucket = self.rows_of(indices)
        given = self.cfg.kind == "given"
        tail = (self.cfg.coefficients,) if given else ()
        batch = {
            "input": np.zeros((len(rows), bucket.width, *tail), np.float32),
            "size": np.full(len(rows), min(bucket.width, self._least_size()), np.int32),
            "labels": np.ones((len(rows), bucket.labels), np.int32),
            "counts": np.zeros(len(rows), np.int32),
            "weight": weights,
        }
        for i, (row, use) in enumerate(zip(rows, np.asarray(indices), strict=True)):
            try:
                x = self._distorted(int(row), int(use))[: bucket.width]
            except (ManifestError, UtteranceError, audio_lib.AudioError, OSError) as error:
                self._complain(error)
                batch["weight"][i] = 0
                continue
            labels = self._labels[row]
            batch["input"][i, : len(x)] = x
            batch["size"][i] = len(x)
            batch["labels"][i, : len(labels)] = labels
            batch["counts"][i] = len(labels)
        return batch

    def _least_size(self) -> int:
        """Samples or frames of one input frame."""
        frames = self.cfg.stack
        if self.cfg.kind == "given":
            return frames
        return self.cfg.window + (frames - 1) * self.cfg.hop

    def _distorted(self, row: int, use: int) -> np.ndarray:
        x = self._read(row)
        if self._seed is None or self.cfg.kind == "given":
            return x
        factor = augment.draw_speed(self._augment, self._seed, use)
        return augment.change_speed(x, factor, self.cfg.rate)

    def _read(self, row: int) -> np.ndarray:
        if row in self._cache:
            return self._cache[row]
        x = load(self.items[row], self.cfg)
        check_sound(self.items[row], x, self.cfg)
        if self._cached_bytes + x.nbytes <= CACHE_BYTES:
            self._cached_bytes += x.nbytes
            self._cache[row] = x
        return x
