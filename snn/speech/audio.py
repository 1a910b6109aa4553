# SPDX-License-Identifier: Apache-2.0
"""Sound from files and pipes: one channel, at the rate that is asked for, in the 16-bit range.

Files are read by libsndfile (WAV, FLAC, OGG, MP3), rates are changed by soxr (extra `speech`).
"""

from __future__ import annotations

import os
import re
from collections.abc import Iterator
from typing import IO, Any

import numpy as np

FULL_SCALE = 32768.0  # features are defined on samples in the range of 16-bit integers
LOWEST_RATE, HIGHEST_RATE = 4_000, 192_000
BLOCK_SECONDS = 10.0
# First bytes of files that somebody may send to a pipe of raw samples.
_HEADERS = (b"RIFF", b"fLaC", b"OggS", b"ID3")
# libsndfile's remark on a WAV file whose data are shorter than its header says. Programs that
# write to a pipe cannot know the length and put the largest number there.
_CUT_WAV = re.compile(r"^data : (\d+) \(should be (\d+)\)", re.MULTILINE)
_UNKNOWN_LENGTH = 0x7FFFFFFF


class AudioError(ValueError):
    """Sound that cannot be used; the message names the file."""


def _library(name: str) -> Any:
    import importlib

    try:
        return importlib.import_module(name)
    except (ImportError, OSError) as error:
        raise ImportError(f"sound needs {name}: pip install 'rwkvjax[speech]'") from error


def check_rate(rate: float, where: str) -> None:
    """Raises AudioError for a rate at which speech is not recorded."""
    if not LOWEST_RATE <= rate <= HIGHEST_RATE:
        raise AudioError(f"{where}: expected {LOWEST_RATE} ... {HIGHEST_RATE} Hz, got {rate}")


def resample(samples: np.ndarray, source_rate: float, rate: float, quality: str = "HQ") -> Any:
    """float32 [N] at `source_rate` -> float32 at `rate`."""
    if source_rate == rate:
        return samples
    # soxr computes with what it gets; a copy keeps the caller's memory layout out of it.
    mono = np.ascontiguousarray(samples, np.float32)
    return _library("soxr").resample(mono, source_rate, rate, quality=quality)


def _open(source: str | os.PathLike[str] | IO[bytes], where: str) -> Any:
    sf = _library("soundfile")
    if isinstance(source, (str, os.PathLike)) and not os.path.isfile(source):
        raise FileNotFoundError(f"{where}: no such file")
    try:
        return sf.SoundFile(source)
    except (sf.LibsndfileError, RuntimeError) as error:
        raise AudioError(f"{where}: not a sound file that can be read ({error})") from error


def stream(
    source: str | os.PathLike[str] | IO[bytes], rate: int, where: str = "", start: float = 0.0
) -> Iterator[np.ndarray]:
    """Yields float32 [N] pieces of a file: channels averaged, at `rate`, in constant memory.

    Args:
      source: path or open binary file.
      rate: samples a second of the result.
      where: name in messages; the path by default.
      start: seconds to leave out.

    Raises:
      FileNotFoundError, AudioError: no such file; not readable, cut short, empty, not finite.
    """
    where = where or str(source)
    sf = _library("soundfile")
    with _open(source, where) as file:
        check_rate(file.samplerate, where)
        cut = _CUT_WAV.search(file.extra_info)
        if cut and int(cut[2]) < int(cut[1]) < _UNKNOWN_LENGTH:
            raise AudioError(f"{where}: cut short, {cut[2]} bytes of sound of {cut[1]}")
        begin = round(start * file.samplerate)
        if file.frames <= begin:
            raise AudioError(
                f"{where}: no sound after {start} s; it has {file.frames} samples"
                f" at {file.samplerate} Hz"
            )
        file.seek(begin)
        change = (
            _library("soxr").ResampleStream(file.samplerate, rate, 1, dtype="float32")
            if file.samplerate != rate
            else None
        )
        left = file.frames - begin
        while left > 0:
            try:
                block = file.read(round(BLOCK_SECONDS * file.samplerate), "float32", always_2d=True)
            except (sf.LibsndfileError, RuntimeError) as error:
                raise AudioError(f"{where}: damaged at {file.tell()} samples ({error})") from error
            if not len(block):
                raise AudioError(f"{where}: ends {left} samples before its header says")
            left -= len(block)
            mono = block.mean(axis=1) * np.float32(FULL_SCALE)
            if not np.isfinite(mono).all():
                raise AudioError(f"{where}: holds samples that are not finite")
            yield change.resample_chunk(mono, last=left <= 0) if change else mono


def read(
    source: str | os.PathLike[str] | IO[bytes],
    rate: int,
    where: str = "",
    start: float = 0.0,
    seconds: float = 0.0,
) -> np.ndarray:
    """A whole file as float32 [N]; see `stream`. `seconds` > 0 ends it so long after `start`."""
    wanted = round(seconds * rate) if seconds else None
    parts: list[np.ndarray] = []
    for part in stream(source, rate, where, start):
        parts.append(part)
        if wanted is not None and sum(map(len, parts)) >= wanted:
            break
    return np.concatenate(parts)[:wanted]


def pipe(file: IO[bytes], source_rate: int, rate: int, seconds: float = 0.1) -> Iterator[Any]:
    """Yields float32 pieces of raw 16-bit little-endian mono PCM as they arrive.

    Args:
      file: binary stream, e.g. sys.stdin.buffer.
      source_rate, rate: samples a second of the stream and of the result.
      seconds: length of a piece.

    Raises:
      AudioError: no sound at all, or a sound file with a header.
    """
    check_rate(source_rate, "the pipe")
    change = None
    if source_rate != rate:
        change = _library("soxr").ResampleStream(source_rate, rate, 1, dtype="float32")
    size = 2 * max(1, round(seconds * source_rate))
    first = True
    while True:
        data = file.read(size)
        if first and len(data) < 2:
            raise AudioError("the pipe: no sound")
        if first and data.startswith(_HEADERS):
            raise AudioError("the pipe: expected raw PCM, got a sound file; give its name instead")
        first = False
        last = len(data) < size
        samples = np.frombuffer(data[: len(data) // 2 * 2], "<i2").astype(np.float32)
        if change is not None:
            samples = change.resample_chunk(samples, last=last)
        if len(samples):
            yield samples
        if last:
            return


def is_silent(samples: np.ndarray) -> bool:
    """True if nothing but a constant was recorded (within one step of 16 bits)."""
    return len(samples) == 0 or float(np.ptp(samples)) <= 1.0
