# SPDX-License-Identifier: Apache-2.0
"""Tokenises text into a binidx file, in parallel, and goes on where a killed run stopped.

Documents keep the order of the inputs, or, with `epochs`, are written that many times, each time
in another order (as RWKV's `make_data.py` does; here they are tokenised only once, into
NAME.unshuffled). The result depends on the inputs and the options only: neither the number of
workers nor an interruption changes a byte.
"""

from __future__ import annotations

import dataclasses
import hashlib
import json
import os
import sys
from collections.abc import Callable, Iterator
from typing import Any

import numpy as np

from core.permute import shuffled
from rwkvjax.data.binidx import MmapTokens, binidx_paths
from rwkvjax.data.binidx_builder import BinidxBuilder, stats_path
from rwkvjax.data.encode import Encoder, Place, TextChunk, parallel_encode
from rwkvjax.data.inputs import InputFile, list_inputs
from rwkvjax.data.progress import Progress
from rwkvjax.data.text import DocumentReader, Position, ReadOptions

_SHUFFLE_BLOCK = 1 << 14


@dataclasses.dataclass(frozen=True)
class PrepareOptions:
    """What to tokenise, and how.

    Attributes:
      inputs: specifications, see `inputs`.
      output: NAME of the token file.
      tokenizer: "byte", "world" or the path of a vocabulary file.
      format: "text", "jsonl" or "auto".
      read: how to read documents.
      end_of_document: append the tokenizer's end-of-document token to each document.
      epochs: 0 keeps the order of the inputs; n >= 1 writes all documents n times, shuffled.
      seed: of the shuffling.
      workers: processes that tokenise; 1 for none but this one.
      verify: decode each document again and compare.
      overwrite: replace an existing token file.
      restart: drop the work of a killed run instead of going on with it.
      chunk_bytes: text handed to a worker at a time.
      checkpoint_seconds: time between two savings of the progress.
    """

    inputs: tuple[str, ...]
    output: str
    tokenizer: str = "world"
    format: str = "auto"
    read: ReadOptions = ReadOptions()
    end_of_document: bool = True
    epochs: int = 0
    seed: int = 0
    workers: int = 1
    verify: bool = False
    overwrite: bool = False
    restart: bool = False
    chunk_bytes: int = 1 << 20
    checkpoint_seconds: float = 10.0

    def __post_init__(self):
        for name, least in (("epochs", 0), ("workers", 1), ("chunk_bytes", 1)):
            if getattr(self, name) < least:
                raise ValueError(f"{name} must be at least {least}, got {getattr(self, name)}")


@dataclasses.dataclass
class Statistics:
    """What a token file holds.

    Attributes:
      documents, tokens: in the file, end-of-document tokens included.
      text_bytes: UTF-8 bytes of all documents.
      skipped_lines: broken JSONL lines left out.
      files: input files read.
      tokenizer, digest: name and vocabulary digest.
      vocab_size, end_of_document: of the tokenizer; the latter None if none was appended.
    """

    documents: int = 0
    tokens: int = 0
    text_bytes: int = 0
    skipped_lines: int = 0
    files: int = 0
    tokenizer: str = ""
    digest: str = ""
    vocab_size: int = 0
    end_of_document: int | None = None

    @property
    def bytes_per_token(self) -> float:
        """Bytes of text for each token of text."""
        appended = self.documents if self.end_of_document is not None else 0
        return self.text_bytes / max(self.tokens - appended, 1)


def prepare(options: PrepareOptions, log: Callable[[str], None] | None = None) -> Statistics:
    """Makes the token file; see the module docstring.

    Args:
      options: what to do.
      log: gets progress lines; standard error by default.

    Returns:
      Statistics of the whole file, which are also stored as NAME.stats.json.

    Raises:
      FileExistsError: the token file exists and overwrite is false.
      FileNotFoundError, DocumentError, ValueError: inputs or options that cannot be used.
      core.files.DiskFullError: no room; call again with the same options to go on.
    """
    log = log or _to_stderr
    files = list_inputs(options.inputs, options.format)
    encoder = Encoder.make(options.tokenizer, options.end_of_document, options.verify)
    settings = _settings(options, files, encoder)
    unshuffled = f"{_name(options.output)}.unshuffled"
    with _open_builder(options.output, options, settings, log) as builder:
        if not builder.is_complete:
            arguments = (options, files, encoder, settings, log)
            if options.epochs:
                once = _unshuffled(unshuffled, *arguments)
                statistics = _write_shuffled(builder, unshuffled, once, options, settings, log)
            else:
                statistics = _tokenise(builder, *arguments)
            builder.finish(dataclasses.asdict(statistics))
        else:
            builder.finish()
    if options.epochs:
        _remove(unshuffled)
    return load_statistics(options.output)


def load_statistics(path: str | os.PathLike[str]) -> Statistics:
    """Statistics of the token file NAME, from NAME.stats.json.

    Raises:
      FileNotFoundError: NAME was not made by `prepare`.
      ValueError: the file is damaged.
    """
    file = stats_path(path)
    if not file.is_file():
        raise FileNotFoundError(f"no {file}: the token file was not made by prepare_data")
    try:
        return Statistics(**json.loads(file.read_text(encoding="utf-8")))
    except (TypeError, ValueError) as error:
        raise ValueError(f"{file}: expected statistics of a token file: {error}") from error


def _to_stderr(line: str) -> None:
    print(line, file=sys.stderr, flush=True)


def _name(path: str) -> str:
    return os.fspath(binidx_paths(path)[0])[:-4]


def _remove(name: str) -> None:
    # The index goes first: tokens without an index are no token file.
    for path in (binidx_paths(name)[1], binidx_paths(name)[0], stats_path(name)):
        path.unlink(missing_ok=True)


def _settings(options: PrepareOptions, files: list[InputFile], encoder: Encoder) -> dict[str, str]:
    """A digest of everything that decides about the content, one for each kind."""
    contents: list[Any] = []
    for file in files:
        status = file.path.stat()
        contents.append([os.path.realpath(file.path), status.st_size, status.st_mtime_ns])
    parts = {
        "inputs": contents,
        "format": [[file.format for file in files], dataclasses.asdict(options.read)],
        "tokenizer": [encoder.tokenizer.digest, encoder.end_of_document],
        "order": [options.epochs, options.seed if options.epochs else 0],
    }
    return {
        key: hashlib.sha256(json.dumps(value).encode()).hexdigest()[:16]
        for key, value in parts.items()
    }


def _open_builder(
    name: str, options: PrepareOptions, settings: dict[str, str], log: Callable[[str], None]
) -> BinidxBuilder:
    builder = BinidxBuilder(
        name, np.uint16, overwrite=options.overwrite, resume=not options.restart
    )
    if builder.note is None or builder.is_complete:
        return builder
    before = builder.note.get("settings", {})
    changed = [key for key in settings if before.get(key) != settings[key]]
    if changed:
        builder.close()
        raise ValueError(
            f"{_name(name)}.partial holds unfinished work with another choice of "
            f"{', '.join(changed)}; repeat that call to go on with it, or pass restart to drop it"
        )
    log(f"going on with {name} after {builder.num_documents:,} documents")
    return builder


# --- tokenising ---------------------------------------------------------------------------------


def _tokenise(
    builder: BinidxBuilder,
    options: PrepareOptions,
    files: list[InputFile],
    encoder: Encoder,
    settings: dict[str, str],
    log: Callable[[str], None],
) -> Statistics:
    text_bytes, place = 0, Place()
    if builder.note:
        text_bytes, fields = builder.note["text_bytes"], builder.note["place"]
        position = Position(**fields["position"]) if fields["position"] else None
        place = Place(**{**fields, "position": position})
    total = sum(file.path.stat().st_size for file in files)
    progress = Progress(log, total, options.checkpoint_seconds)
    chunks = _chunks(files, options, place)
    for chunk in parallel_encode(encoder, chunks, options.workers):
        start = 0
        for length in chunk.lengths.tolist():
            builder.add_document(chunk.tokens[start : start + length])
            start += length
        text_bytes, place = text_bytes + chunk.text_bytes, chunk.place
        progress.update(
            builder.num_documents, builder.num_tokens, chunk.text_bytes, place.done_bytes
        )
        if progress.checkpoint_due():
            note = {"text_bytes": text_bytes, "place": dataclasses.asdict(place)}
            builder.checkpoint({"settings": settings, **note})
    return Statistics(
        documents=builder.num_documents,
        tokens=builder.num_tokens,
        text_bytes=text_bytes,
        skipped_lines=place.skipped_lines,
        files=len(files),
        tokenizer=encoder.tokenizer.name,
        digest=encoder.tokenizer.digest,
        vocab_size=encoder.tokenizer.vocab_size,
        end_of_document=encoder.end_of_document,
    )


def _chunks(files: list[InputFile], options: PrepareOptions, start: Place) -> Iterator[TextChunk]:
    """Documents from `start` on in groups of about `chunk_bytes`, each with the place after it."""
    position, skipped = start.position, start.skipped_lines
    texts: list[str] = []
    size = 0
    finished_bytes = sum(file.path.stat().st_size for file in files[: start.file])
    for number in range(start.file, len(files)):
        reader = DocumentReader(files[number], options.read, position)
        position = None
        for text in reader:
            texts.append(text)
            size += len(text)
            if size >= options.chunk_bytes:
                done = finished_bytes + reader.read_bytes
                yield TextChunk(texts, Place(number, reader.position, skipped, done))
                texts, size = [], 0
        skipped += reader.position.skipped
        finished_bytes += files[number].path.stat().st_size
    yield TextChunk(texts, Place(len(files), None, skipped, finished_bytes))


# --- shuffling ----------------------------------------------------------------------------------


def _unshuffled(
    name: str,
    options: PrepareOptions,
    files: list[InputFile],
    encoder: Encoder,
    settings: dict[str, str],
    log: Callable[[str], None],
) -> Statistics:
    """Tokenises into the token file `name`, unless a killed run has already done that."""
    settings = {key: value for key, value in settings.items() if key != "order"}
    summary = stats_path(name)
    if binidx_paths(name)[1].exists() and summary.exists() and not options.restart:
        found = json.loads(summary.read_text(encoding="utf-8"))
        if found.pop("settings", None) == settings:
            return Statistics(**found)
    overwriting = dataclasses.replace(options, overwrite=True)  # the name is ours
    with _open_builder(name, overwriting, settings, log) as builder:
        if builder.is_complete:
            builder.finish()
            return _unshuffled(name, options, files, encoder, settings, log)
        statistics = _tokenise(builder, options, files, encoder, settings, log)
        builder.finish({**dataclasses.asdict(statistics), "settings": settings})
    return statistics


def _write_shuffled(
    builder: BinidxBuilder,
    name: str,
    once: Statistics,
    options: PrepareOptions,
    settings: dict[str, str],
    log: Callable[[str], None],
) -> Statistics:
    """Copies the documents of the token file `name` in shuffled order, `epochs` times."""
    source = MmapTokens(name, check=False)
    total = options.epochs * len(source)
    width = source.dtype.itemsize
    first = builder.num_documents
    progress = Progress(
        log,
        total=options.epochs * source.num_tokens * width,
        checkpoint_seconds=options.checkpoint_seconds,
        action="shuffled",
    )
    for start in range(first, total, _SHUFFLE_BLOCK):
        places = np.arange(start, min(start + _SHUFFLE_BLOCK, total))
        before = builder.num_tokens
        for document in shuffled(places, len(source), options.seed).tolist():
            builder.add_document(source.get(document))
        size = (builder.num_tokens - before) * width
        progress.update(builder.num_documents, builder.num_tokens, size, builder.num_tokens * width)
        if progress.checkpoint_due():
            builder.checkpoint({"settings": settings})
    return dataclasses.replace(
        once,
        documents=builder.num_documents,
        tokens=builder.num_tokens,
        text_bytes=once.text_bytes * options.epochs,
    )
