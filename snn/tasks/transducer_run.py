# SPDX-License-Identifier: Apache-2.0
"""One training run of a speech recogniser, and the report on what came out of it."""

from __future__ import annotations

import contextlib
import dataclasses
import json
import sys
import time
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import jax
import numpy as np

from core import config as config_lib
from core import files, optim, plots
from core import params as params_lib
from core.cli import UserError, explain
from core.loop import Trainer
from core.task import PyTree, TrainConfig
from snn.speech import accounting, corpora, manifest, pictures, recogniser, scoring, tokenizer
from snn.speech.audio import AudioError
from snn.speech.augment import AugmentConfig
from snn.speech.features import FeatureConfig
from snn.speech.network import Transducer, TransducerConfig
from snn.speech.tokenizer import Tokenizer
from snn.speech.utterances import UtteranceError, Utterances, check_sound, load
from snn.tasks import selection
from snn.tasks.transducer import LossConfig, TransducerTask

TIMED_UTTERANCES = 20  # streams that latency is measured on


@dataclasses.dataclass(frozen=True)
class SpeechDataConfig:
    """Utterances: either a named corpus, or manifests (see `snn.speech.manifest`).

    Attributes:
      corpus: a corpus of `snn.speech.corpora`, written below the workdir; "" to name manifests.
      options: arguments of that corpus.
      train, valid, test: manifests; test may be "".
      tokens: kind of labels; see `snn.speech.tokenizer`.
      subwords: number of subwords, for that kind.
      buckets: shapes of training batches (evaluation has as many).
      eval_batch_size: utterances in an evaluation batch.
      max_seconds: longer utterances are bad ones.
      skip_bad: leave bad lines and utterances out, and say so, instead of stopping.
    """

    corpus: str = ""
    options: tuple[tuple[str, Any], ...] = ()
    train: str = ""
    valid: str = ""
    test: str = ""
    tokens: str = "characters"
    subwords: int = 0
    buckets: int = 3
    eval_batch_size: int = 32
    max_seconds: float = 30.0
    skip_bad: bool = False

    def __post_init__(self) -> None:
        if bool(self.corpus) == bool(self.train and self.valid):
            raise ValueError(
                "expected either a corpus, or the manifests train and valid; got"
                f" {self.corpus=}, {self.train=}, {self.valid=}"
            )
        if self.tokens not in tokenizer.KINDS:
            raise ValueError(f"tokens must be one of {tokenizer.KINDS}, got {self.tokens!r}")
        if min(self.buckets, self.eval_batch_size) < 1:
            raise ValueError(f"{self.buckets=} and {self.eval_batch_size=} must be at least 1")


@dataclasses.dataclass(frozen=True)
class RunConfig:
    """A whole configuration file."""

    task: str
    train: TrainConfig
    data: SpeechDataConfig
    features: FeatureConfig = FeatureConfig()
    augment: AugmentConfig = AugmentConfig()
    model: TransducerConfig = TransducerConfig()
    loss: LossConfig = LossConfig()
    optimizer: optim.AdamWConfig = optim.AdamWConfig()


def build_config(values: Any) -> RunConfig:
    """Checks a ConfigDict."""
    return config_lib.build(RunConfig, values)


@dataclasses.dataclass(frozen=True)
class Corpus:
    """Manifest items of each part, and the tokenizer of the training part."""

    items: Mapping[str, list[manifest.Item]]
    tokens: Tokenizer
    complaints: tuple[str, ...]


def load_corpus(cfg: SpeechDataConfig, folder: Path) -> Corpus:
    """Reads the manifests, after writing those of a named corpus below `folder`."""
    paths = {part: getattr(cfg, part) for part in corpora.PARTS}
    if cfg.corpus:
        print(f"{cfg.corpus}: utterances and manifests in {folder}", file=sys.stderr, flush=True)
        paths = corpora.prepare(cfg.corpus, folder, **dict(cfg.options))
    items, complaints = {}, []
    for part, path in paths.items():
        if path:
            items[part], bad = manifest.read(path, cfg.skip_bad)
            complaints += bad
    for line in complaints:
        print(f"left out: {line}", file=sys.stderr)
    texts = [item.text for item in items["train"]]
    others = [item.text for part, own in items.items() if part != "train" for item in own]
    tokens = tokenizer.build(cfg.tokens, texts, cfg.subwords, others)
    return Corpus(items, tokens, tuple(complaints))


def make_source(cfg: RunConfig, corpus: Corpus, part: str) -> Utterances:
    """Batches of a part: shuffled and distorted for training, as they are otherwise."""
    training = part == "train"
    return Utterances(
        corpus.items[part],
        corpus.tokens,
        cfg.features,
        cfg.train.batch_size if training else cfg.data.eval_batch_size,
        seed=cfg.train.seed if training else None,
        buckets=cfg.data.buckets,
        augmentation=cfg.augment,
        max_seconds=cfg.data.max_seconds,
        skip_bad=cfg.data.skip_bad,
    )


def make_trainer(cfg: RunConfig, workdir: Path, report: Any = None) -> tuple[Trainer, Corpus]:
    """Builds data, network, task and optimiser; compiles nothing yet."""
    corpus = load_corpus(cfg.data, workdir / "corpus")
    net = Transducer(cfg.model, cfg.features.size, corpus.tokens.size)
    source = make_source(cfg, corpus, "train")
    task = TransducerTask(
        net,
        cfg.features,
        cfg.loss,
        cfg.augment,
        make_source(cfg, corpus, "valid"),
        cfg.data.eval_batch_size,
    )
    run_config = {**config_lib.to_dict(cfg), "tokenizer": corpus.tokens.describe()}
    tx = optim.adamw(cfg.optimizer, task.param_specs(), cfg.train.steps)
    trainer = Trainer(task, tx, source, cfg.train, workdir, run_config=run_config, report=report)
    return trainer, corpus


def main(config: Any, workdir: str) -> None:
    """Trains as configured; writes report.json, transcripts of the test part, and pictures."""
    cfg = build_config(config)
    out = Path(workdir).expanduser().resolve()
    with explain():
        trainer, corpus = make_trainer(cfg, out)
        task: TransducerTask = trainer.task  # type: ignore[assignment]
        sources: dict[str, Utterances] = {"valid": task.eval_source}
        if "test" in corpus.items:  # its transcripts are checked now, not after the training
            sources["test"] = make_source(cfg, corpus, "test")
    source: Any = trainer.source
    print(
        f"{cfg.data.corpus or cfg.data.train}: {len(source.items)} utterances,"
        f" {corpus.tokens.size} labels, shapes {source.shapes};"
        f" {params_lib.count(trainer.specs):,} parameters",
        file=sys.stderr,
    )
    start = time.monotonic()
    with _bad_sound():
        state = trainer.run()
    seconds = time.monotonic() - start
    params, chosen = selection.selected(trainer, state)
    if jax.process_index() != 0:
        return
    with _bad_sound():
        result = report(cfg, trainer, params, sources, out)
        result.update(chosen, seconds=round(seconds, 1))
        result.update(costs(cfg, trainer, params, sources.get("test", sources["valid"]), out))
    with files.atomic_write(out / "report.json", "w") as f:
        json.dump(result, f, indent=2)
    print(json.dumps(result, indent=2))
    plots.loss_curve(
        out / "metrics.jsonl",
        out / "loss.png",
        f"{result['data']}: {result['encoder']}",
        ("nll", "transducer loss (nats a label)"),
        ("eval/label_errors", "label errors, validation"),
    )


@contextlib.contextmanager
def _bad_sound() -> Iterator[None]:
    """Sound is read when its turn comes; one line for what cannot be used."""
    try:
        yield
    except (UtteranceError, AudioError) as error:
        raise UserError(str(error)) from error


def transcripts(task: TransducerTask, params: PyTree, source: Utterances) -> list[tuple[int, str]]:
    """(index of the item, recognised text) of every utterance of a source, each once."""
    found: dict[int, str] = {}
    run = jax.jit(task.transcribe)
    for first in range(0, len(source), source.batch_size):
        indices = np.arange(first, first + source.batch_size)
        rows, _, _ = source.rows_of(indices)
        batch = source.get(indices)
        decoded = jax.device_get(run(params, batch))
        for i, row in enumerate(rows):
            if batch["weight"][i] and int(row) not in found:
                labels = decoded.labels[i, : decoded.counts[i]]
                found[int(row)] = source.tokenizer.decode(int(k) for k in labels)
    return sorted(found.items())


def report(
    cfg: RunConfig,
    trainer: Trainer,
    params: PyTree,
    sources: Mapping[str, Utterances],
    out: Path,
) -> dict[str, Any]:
    """Word error rates of each part (of phones, where labels are phones), and what the run was."""
    task: TransducerTask = trainer.task  # type: ignore[assignment]
    result: dict[str, Any] = {
        "task": cfg.task,
        "data": cfg.data.corpus or cfg.data.train,
        "encoder": " ".join(cfg.model.encoder.cell),
        "prediction": " ".join(cfg.model.prediction.cell),
        "parameters": params_lib.count(trainer.specs),
        "seed": cfg.train.seed,
    }
    for part, source in sources.items():
        rows = transcripts(task, params, source)
        tokens = source.tokenizer
        wanted = [tokens.decode(tokens.encode(source.items[i].text)) for i, _ in rows]
        score = scoring.score(wanted, [text for _, text in rows])
        result.update({f"{part}_{k}": v for k, v in score.summary().items()})
        with files.atomic_write(out / f"{part}_transcripts.jsonl", "w") as f:
            for (i, text), reference in zip(rows, wanted, strict=True):
                line = {"file": str(source.items[i].path), "text": reference, "found": text}
                f.write(json.dumps(line, ensure_ascii=False) + "\n")
        with files.atomic_write(out / f"{part}_alignment.txt", "w") as f:
            f.write(score.alignment)
    return result


def first_sounds(source: Utterances, most: int, skip_bad: bool) -> list[tuple[Any, np.ndarray]]:
    """At most `most` items with their samples; bad ones were named when they were transcribed."""
    sounds: list[tuple[Any, np.ndarray]] = []
    for item in source.items:
        if len(sounds) == most:
            break
        try:
            samples = load(item, source.cfg)
            check_sound(item, samples, source.cfg)
        except (UtteranceError, AudioError, OSError):
            if not skip_bad:
                raise
            continue
        sounds.append((item, samples))
    return sounds


def costs(
    cfg: RunConfig, trainer: Trainer, params: PyTree, source: Utterances, out: Path
) -> dict[str, Any]:
    """Operations, spikes and latency on held-out utterances; the table, and a picture of one."""
    task: TransducerTask = trainer.task  # type: ignore[assignment]
    tokens = source.tokenizer
    place = lambda tree: jax.tree.map(jax.numpy.asarray, tree)
    params, batch = place(params), place(source.get(np.arange(source.batch_size)))
    x, frames = task.inputs(batch, None)
    rates = accounting.firing_rates(task.net, params, x, frames, batch["labels"], batch["counts"])
    seconds = sum(item.duration for item in source.items)
    labels = sum(len(tokens.encode(item.text)) for item in source.items)
    parts = accounting.account(task.net, cfg.features, labels / seconds, rates)
    with files.atomic_write(out / "costs.md", "w") as f:
        f.write(accounting.table(parts) + "\n")
    result: dict[str, Any] = {"labels_per_second": labels / seconds, **accounting.totals(parts)}
    result["firing_rates"] = rates
    trained = recogniser.Recogniser(task.net, params, cfg.features, tokens, cfg.loss.max_symbols)
    if cfg.features.kind == "given":
        return result
    sounds = first_sounds(source, TIMED_UTTERANCES, cfg.data.skip_bad)
    if not sounds:
        return result
    if trained.streams:
        result.update(accounting.latency(trained, sounds))
    shown = max(sounds, key=lambda sound: sound[0].duration)
    pictures.utterance(trained, shown[1], shown[0], out / "utterance.png")
    return result
