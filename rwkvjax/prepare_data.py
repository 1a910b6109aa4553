# SPDX-License-Identifier: Apache-2.0
"""Tokenises text for training.

    python -m rwkvjax.prepare_data --input=corpus.jsonl --output=corpus --tokenizer=world
    python -m rwkvjax.prepare_data --input=stdlib:train --output=stdlib --tokenizer=byte

writes corpus.bin and corpus.idx (the "binidx" format of RWKV's own tools) and corpus.stats.json.
Inputs are text or JSONL files (.gz, .bz2 and .xz, too), folders, patterns such as "data/**/*.txt",
or "stdlib:", "stdlib:train", "stdlib:heldout", the source of Python's standard library.

A run that was killed goes on where it stopped when the same command is given again.
"""

from __future__ import annotations

from collections.abc import Sequence

from absl import flags

from core import cli
from rwkvjax.data.magic_prime import magic_prime
from rwkvjax.data.prepare import PrepareOptions, Statistics, prepare
from rwkvjax.data.text import ReadOptions


def define_flags(flag_values: flags.FlagValues) -> None:
    """Adds the flags of this program; not done by importing it."""
    add: dict = {"flag_values": flag_values}
    flags.DEFINE_multi_string(
        "input", None, "File, folder, pattern, or stdlib:[train|heldout].", required=True, **add
    )
    flags.DEFINE_string(
        "output", None, "Name of the token file, without .bin.", required=True, **add
    )
    flags.DEFINE_string("tokenizer", "world", "byte, world, or a vocabulary file.", **add)
    flags.DEFINE_enum("format", "auto", ["auto", "text", "jsonl"], "Format of the inputs.", **add)
    flags.DEFINE_string("field", "text", "JSONL field that holds the text.", **add)
    flags.DEFINE_string("separator", None, "Line that parts the documents of a text file.", **add)
    flags.DEFINE_enum(
        "errors",
        "strict",
        ["strict", "replace"],
        "What to do about bytes that are not UTF-8.",
        **add,
    )
    flags.DEFINE_bool("skip_broken", False, "Skip and count broken JSONL lines.", **add)
    flags.DEFINE_bool("eod", True, "End each document with the tokenizer's token for that.", **add)
    flags.DEFINE_integer(
        "epochs",
        0,
        "Write all documents this many times, each time shuffled; 0 keeps the order of the inputs.",
        lower_bound=0,
        **add,
    )
    flags.DEFINE_integer("seed", 0, "Seed of the shuffling.", **add)
    flags.DEFINE_multi_integer("ctx", [512, 4096], "Contexts to print the magic prime for.", **add)
    flags.DEFINE_integer("workers", 1, "Processes that tokenise.", lower_bound=1, **add)
    flags.DEFINE_bool("verify", False, "Decode each document again and compare.", **add)
    flags.DEFINE_bool("overwrite", False, "Replace an existing token file.", **add)
    flags.DEFINE_bool("restart", False, "Drop the work of a killed run.", **add)
    flags.DEFINE_float(
        "checkpoint_seconds",
        10.0,
        "Time between two savings of the progress.",
        lower_bound=0,
        **add,
    )


def options_from(values: flags.FlagValues) -> PrepareOptions:
    """The options that the flags describe."""
    return PrepareOptions(
        inputs=tuple(values.input),
        output=values.output,
        tokenizer=values.tokenizer,
        format=values.format,
        read=ReadOptions(
            field=values.field,
            errors=values.errors,
            broken_lines="skip" if values.skip_broken else "error",
            separator=values.separator,
        ),
        end_of_document=values.eod,
        epochs=values.epochs,
        seed=values.seed,
        workers=values.workers,
        verify=values.verify,
        overwrite=values.overwrite,
        restart=values.restart,
        checkpoint_seconds=values.checkpoint_seconds,
    )


def summary(name: str, statistics: Statistics, contexts: Sequence[int]) -> str:
    """What the program prints at the end."""
    lines = [
        f"{name}.bin, {name}.idx",
        f"documents    {statistics.documents:,}",
        f"tokens       {statistics.tokens:,}",
        f"text         {statistics.text_bytes:,} bytes, "
        f"{statistics.bytes_per_token:.4f} bytes/token",
    ]
    if statistics.skipped_lines:
        lines.append(f"skipped      {statistics.skipped_lines:,} broken lines")
    for ctx in contexts:
        try:
            prime: object = magic_prime(statistics.tokens, ctx)
        except ValueError as error:
            prime = f"none: {error}"
        lines.append(f"magic prime  {prime} (ctx {ctx})")
    return "\n".join(lines)


def main(values: flags.FlagValues) -> None:
    """Runs with the parsed flags."""
    with cli.explain():
        options = options_from(values)
        statistics = prepare(options)
    print(summary(options.output, statistics, values.ctx))


if __name__ == "__main__":
    _FLAGS = flags.FlagValues()
    define_flags(_FLAGS)
    cli.program(main, _FLAGS, __doc__ or "")
