# SPDX-License-Identifier: Apache-2.0
"""Writes down what is said in sound files, or in a pipe while it is said.

    python -m snn.transcribe --checkpoint=runs/asr_fsdd a.wav b.flac
    python -m snn.transcribe --checkpoint=runs/asr_fsdd --words a.wav
    arecord -t raw -f S16_LE -r 16000 | python -m snn.transcribe --checkpoint=runs/asr_fsdd \\
        --pcm_rate=16000 --partial -

"-" stands for raw 16-bit little-endian mono PCM from standard input. Files may have any rate and
any number of channels, which are averaged. Several files are printed with their names.
"""

from __future__ import annotations

import sys
from collections.abc import Iterator

import numpy as np
from absl import flags

from core import cli
from snn.speech import audio
from snn.speech.beam import BeamConfig
from snn.speech.recogniser import Recogniser, Stream, Transcript, load

_FLAGS = flags.FlagValues()
flags.DEFINE_string("checkpoint", "", "Workdir or checkpoint of a run.", flag_values=_FLAGS)
flags.DEFINE_integer("beam", 1, "1: greedy; more: beam search.", 1, flag_values=_FLAGS)
flags.DEFINE_bool("words", False, "Print each word with its times.", flag_values=_FLAGS)
flags.DEFINE_bool("partial", False, "Print the text whenever it grows.", flag_values=_FLAGS)
flags.DEFINE_integer("pcm_rate", 16_000, "Samples a second of the pipe.", flag_values=_FLAGS)
flags.DEFINE_bool("keep_going", False, "Go on after a file that fails.", flag_values=_FLAGS)

# A search looks at the whole utterance; longer sound is for greedy decoding.
LONGEST_SEARCH_SECONDS = 120.0


def main(values: flags.FlagValues, files: list[str]) -> None:
    """Prints the text of each file."""
    if not values.checkpoint or not files:
        raise cli.UserError("give --checkpoint=... and at least one file (- for standard input)")
    with cli.explain():
        recogniser = load(values.checkpoint)
    failed = 0
    for name in files:
        try:
            with cli.explain():
                show(name, transcribe(recogniser, name, values), values, len(files) > 1)
        except cli.UserError as error:
            if not values.keep_going:
                raise
            failed += 1
            print(f"left out: {error}", file=sys.stderr)
    if failed:
        raise cli.UserError(f"{failed} of {len(files)} files could not be transcribed")


def transcribe(recogniser: Recogniser, name: str, values: flags.FlagValues) -> Transcript:
    """The transcript of one file or of the pipe; see the module.

    Raises:
      FileNotFoundError, ValueError: sound that cannot be used.
    """
    whole = values.beam > 1 or not recogniser.streams
    if not whole:
        stream = Stream(recogniser)
        for piece in pieces(recogniser, name, values.pcm_rate):
            before = len(stream.text)
            text = stream.feed(piece).text
            if values.partial and len(text) > before:
                print(text, flush=True)
        return stream.finish()
    samples = np.concatenate(list(pieces(recogniser, name, values.pcm_rate)) or [np.zeros(0)])
    seconds = len(samples) / recogniser.rate
    if seconds > LONGEST_SEARCH_SECONDS:
        raise ValueError(
            f"{name}: {seconds:.0f} s of sound are too much for a search over the whole of it (at"
            f" most {LONGEST_SEARCH_SECONDS:.0f} s); use --beam=1 and a unidirectional encoder"
        )
    if values.beam > 1:
        return recogniser.search(samples, BeamConfig(beam=values.beam))[0]
    return recogniser.transcribe(samples)


def pieces(recogniser: Recogniser, name: str, pcm_rate: int) -> Iterator[np.ndarray]:
    """Samples of a file or of the pipe."""
    if name == "-":
        return audio.pipe(sys.stdin.buffer, pcm_rate, recogniser.rate)
    return audio.stream(name, recogniser.rate)


def show(name: str, found: Transcript, values: flags.FlagValues, with_name: bool) -> None:
    """Prints a transcript: one line, or one for each word."""
    prefix = f"{name}\t" if with_name else ""
    if not values.words:
        print(f"{prefix}{found.text}", flush=True)
    for word in found.words if values.words else ():
        print(f"{prefix}{word.start:.2f}\t{word.end:.2f}\t{word.text}", flush=True)


if __name__ == "__main__":
    cli.program(main, _FLAGS, __doc__ or "", arguments=True)
