# SPDX-License-Identifier: Apache-2.0
"""From a configuration to a training run of a language model."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import numpy as np
from ml_collections import ConfigDict
from ml_collections.config_dict import placeholder

from core import config as config_lib
from core import optim, sharding
from core.loop import TrainConfig, Trainer
from rwkvjax.config import SIZES, Config, get_config
from rwkvjax.data import (
    BinidxWindows,
    PackedDocuments,
    ReadOptions,
    build_mixture,
    load_recipe,
    sequential_windows,
)
from rwkvjax.data.conversations import ConversationWindows, read_conversations
from rwkvjax.data.corpus import open_corpus
from rwkvjax.data.windows import TokenSlice, TokenStore
from rwkvjax.finetune import FinetuneConfig
from rwkvjax.finetune import run as finetune_run
from rwkvjax.optim import group_fn
from rwkvjax.task import LanguageModelTask, TaskConfig
from rwkvjax.tokenizers import Tokenizer, get_tokenizer


@dataclasses.dataclass(frozen=True)
class DataConfig:
    """What is read, and how it is cut into windows.

    Attributes:
      recipe: a corpus recipe (TOML) whose sources are mixed in its proportions; then `sources`
        gives the binidx file of each source, and `train` stays empty.
      train, heldout: inputs; text files, folders, patterns, "stdlib:train", or one binidx file.
      tokenizer: "byte", "world", or a vocabulary file.
      context: tokens predicted in each window (T).
      packing: "concat" (documents one after the other, state reset between them), "best_fit"
        (windows filled with whole documents), or "windows" (the official way: no resets).
      order: "shuffled", "sequential", or "magic_prime" (only for "windows").
      heldout_fraction: without `heldout`, hold out this last part of the training tokens.
      heldout_tokens: evaluate on the first so many held-out tokens; 0 for all.
      eval_batch_size: windows in one evaluation batch; 0 takes the training batch.
      field: JSONL field that holds the text.
      format: "text", or "chat" for JSONL conversations (`rwkvjax.data.conversations`) of which only
        the answers are predicted; then `packing` is "best_fit" or "none" (one to a window).
      too_long: chat: conversations that do not fit a window: "error", "cut" or "skip".
    """

    train: tuple[str, ...] = ()
    heldout: tuple[str, ...] = ()
    recipe: str = ""
    sources: tuple[tuple[str, str], ...] = ()
    heldout_fraction: float = 0.0
    tokenizer: str = "byte"
    context: int = 256
    packing: str = "concat"
    order: str = "shuffled"
    heldout_tokens: int = 0
    eval_batch_size: int = 0
    field: str = "text"
    format: str = "text"
    too_long: str = "error"

    def __post_init__(self) -> None:
        if not 0 <= self.heldout_fraction < 1:
            raise ValueError(f"heldout_fraction must be in [0, 1), got {self.heldout_fraction}")
        # The flag `--config.data.heldout=` gives one empty name, which would mean this folder.
        for key in ("train", "heldout"):
            object.__setattr__(self, key, tuple(name for name in getattr(self, key) if name))
        if self.heldout and self.heldout_fraction:
            raise ValueError("give either heldout inputs or a heldout_fraction, not both")
        if self.recipe and (self.train or self.heldout_fraction):
            raise ValueError("a recipe brings its own sources: leave train and the fraction empty")
        if self.format not in ("text", "chat"):
            raise ValueError(f"format must be text or chat, got {self.format!r}")
        if self.format == "chat" and (self.recipe or self.heldout_fraction):
            raise ValueError("chat data: name the files in train and heldout")
        if self.format == "chat" and self.packing not in ("best_fit", "none"):
            raise ValueError(f"chat data: packing must be best_fit or none, got {self.packing!r}")


@dataclasses.dataclass(frozen=True)
class SampleConfig:
    """Continuations printed at the end of a run."""

    prompts: tuple[str, ...] = ()
    tokens: int = 200
    temperature: float = 0.8
    top_p: float = 0.95


@dataclasses.dataclass(frozen=True)
class RunConfig:
    """A whole configuration file."""

    model: Config
    data: DataConfig
    train: TrainConfig
    optimizer: optim.AdamWConfig = optim.AdamWConfig()
    task: TaskConfig = TaskConfig()
    sample: SampleConfig = SampleConfig()
    finetune: FinetuneConfig = FinetuneConfig()

    def __post_init__(self) -> None:
        whole = self.data.packing in ("windows", "none")
        if self.finetune.method == "state" and not whole:
            raise ValueError(
                "a tuned state holds at the start of a window, so no document may start inside one:"
                f" data.packing must be windows (text) or none (chat), got {self.data.packing!r}"
            )


def build_config(values: Any) -> RunConfig:
    """Checks a ConfigDict and completes its model block.

    `model.size` names a published size whose fields the other keys of the block replace;
    `model.vocab_size` follows the tokenizer where it is not given. Fine-tuning takes the model from
    its base.
    """
    blocks: dict[str, Any] = dict(values.to_dict() if hasattr(values, "to_dict") else values)
    data = config_lib.build(DataConfig, blocks.get("data"), "config.data")
    optimizer = config_lib.build(optim.AdamWConfig, blocks.get("optimizer"), "config.optimizer")
    given = {k: v for k, v in (blocks.get("model") or {}).items() if v is not None}
    finetune = config_lib.build(FinetuneConfig, blocks.get("finetune"), "config.finetune")
    if finetune.method:
        given.pop("size", None)
        blocks["model"] = finetune_run.model_of_base(finetune, given, data.tokenizer)
    else:
        blocks["model"] = _model(given, data.tokenizer, optimizer)
    built = {"data": data, "optimizer": optimizer, "finetune": finetune}
    return config_lib.build(RunConfig, {**blocks, **built})


def default_config() -> ConfigDict:
    """Every key of a configuration with its default, so that the command line can set them all.

    Keys of the model block are empty placeholders: what is not set follows `model.size`, or the
    defaults of `Config`.
    """
    hints = {f.name: type(f.default) for f in dataclasses.fields(Config)}
    blocks = {
        "data": DataConfig(),
        "optimizer": optim.AdamWConfig(),
        "task": TaskConfig(),
        "sample": SampleConfig(),
        "finetune": FinetuneConfig(),
    }
    train = config_lib.to_dict(TrainConfig(steps=1, batch_size=1))
    return ConfigDict(
        {
            "model": {name: placeholder(kind) for name, kind in {"size": str, **hints}.items()},
            "train": {**train, "mesh": {"data": -1, "model": 1}},
            **{
                name: {
                    f.name: getattr(block, f.name)
                    for f in dataclasses.fields(block)  # type: ignore[arg-type]
                }
                for name, block in blocks.items()
            },
        }
    )


def _model(block: dict[str, Any], tokenizer: str, optimizer: optim.AdamWConfig) -> Config:
    size = block.pop("size", "")
    vocab = block.pop("vocab_size", 0) or get_tokenizer(tokenizer).vocab_size
    if size and size not in SIZES:
        raise config_lib.ConfigError(
            f"config.model.size: unknown size {size!r}, expected one of {', '.join(SIZES)}"
        )
    base = config_lib.to_dict(get_config(size)) if size else {}
    values = {**base, **block, "vocab_size": vocab}
    if values.get("version") == "4" and "embedding_init" not in block:
        values["embedding_init"] = optimizer.learning_rate  # as RWKV-4's own trainer did
    return config_lib.build(Config, values, "config.model")


def open_stores(
    cfg: DataConfig, tokenizer: Tokenizer
) -> tuple[TokenStore | None, TokenStore | None]:
    """(training tokens, held-out tokens or None); no training tokens for a recipe."""
    options = ReadOptions(field=cfg.field)
    if cfg.recipe:
        limit = cfg.heldout_tokens
        held = open_corpus(cfg.heldout, tokenizer, options, limit) if cfg.heldout else None
        return None, held
    train = open_corpus(cfg.train, tokenizer, options)
    if cfg.heldout:
        return train, open_corpus(cfg.heldout, tokenizer, options, cfg.heldout_tokens)
    if not cfg.heldout_fraction:
        return train, None
    cut = round(train.num_tokens * (1 - cfg.heldout_fraction))
    size = min(train.num_tokens - cut, cfg.heldout_tokens or train.num_tokens)
    return TokenSlice(train, 0, cut), TokenSlice(train, cut, cut + size)


def train_windows(
    store: TokenStore | None, cfg: DataConfig, train: TrainConfig, vocab_size: int, carry: bool
) -> Any:
    """The training windows; consecutive ones in each row if the state is carried."""
    if store is None:
        return build_mixture(load_recipe(cfg.recipe), dict(cfg.sources), cfg.context)
    if carry:
        return BinidxWindows(
            store,
            cfg.context,
            "sequential",
            streams=train.batch_size,
            document_resets=cfg.packing != "windows",
            vocab_size=vocab_size,
        )
    if cfg.packing == "windows":
        seed = train.seed
        return BinidxWindows(store, cfg.context, cfg.order, seed=seed, vocab_size=vocab_size)
    return PackedDocuments(
        store,
        cfg.context,
        packing=cfg.packing,
        order=cfg.order,
        seed=train.seed,
        cross_document_loss=cfg.packing == "concat",
        vocab_size=vocab_size,
    )


def heldout_windows(store: TokenStore | None, cfg: DataConfig, vocab_size: int) -> Any:
    """The held-out windows, each token predicted once; None if nothing is held out."""
    if store is None:
        return None
    resets = cfg.packing != "windows"
    return sequential_windows(store, cfg.context, document_resets=resets, vocab_size=vocab_size)


def token_lengths(tokenizer: Tokenizer, vocab_size: int) -> np.ndarray:
    """Bytes of each token id; ids without text (end of document, unused) count 0."""
    lengths = np.zeros(vocab_size, np.float32)
    for token in range(min(vocab_size, tokenizer.vocab_size)):
        try:
            lengths[token] = len(tokenizer.decode_bytes([token]))
        except ValueError:  # an id that the vocabulary does not use
            continue
    return lengths


def make_trainer(
    cfg: RunConfig,
    workdir: str | Path,
    report: Callable[[str], None] | None = None,
    init_params: Mapping[str, Any] | None = None,
) -> Trainer:
    """Builds data, task and optimiser of a run; compiles nothing yet."""
    tokenizer = get_tokenizer(cfg.data.tokenizer)
    if tokenizer.vocab_size > cfg.model.vocab_size:
        raise config_lib.ConfigError(
            f"config.model.vocab_size {cfg.model.vocab_size} is smaller than that of the"
            f" {cfg.data.tokenizer} tokenizer, {tokenizer.vocab_size}"
        )
    source, heldout = open_windows(cfg, tokenizer)
    mesh = sharding.make_mesh(dict(cfg.train.mesh))
    rules = sharding.get_rules(cfg.train.sharding)
    lengths = None
    if heldout is not None:  # looking them all up takes a second, and only evaluation asks
        lengths = token_lengths(tokenizer, cfg.model.vocab_size)
    options: dict[str, Any] = {
        "options": cfg.task,
        "shard": sharding.make_shard(mesh, rules),
        "mesh": mesh,
        "eval_source": heldout,
        "eval_batch_size": cfg.data.eval_batch_size or cfg.train.batch_size,
        "token_bytes": lengths,
    }
    task: LanguageModelTask
    if cfg.finetune.has_adapter:
        task, init_params = finetune_run.adapter_task(
            cfg.finetune,
            cfg.model,
            cfg.data.context,
            workdir,
            mesh,
            rules,
            cfg.train.seed,
            **options,
        )
    else:
        task = LanguageModelTask(cfg.model, cfg.data.context, **options)
        if cfg.finetune.method == "full" and init_params is None:
            init_params = finetune_run.load_base(cfg.finetune, cfg.model, mesh, rules)
    return Trainer(
        task,
        optim.adamw(cfg.optimizer, task.param_specs(), cfg.train.steps, group_fn(cfg.task.stage)),
        source,
        cfg.train,
        workdir,
        run_config=config_lib.to_dict(cfg),
        init_params=dict(init_params) if init_params is not None else None,
        report=report,
    )


def open_windows(cfg: RunConfig, tokenizer: Tokenizer) -> tuple[Any, Any]:
    """(training windows, held-out windows or None)."""
    data, size = cfg.data, tokenizer.vocab_size
    if data.format == "text":
        train, heldout = open_stores(data, tokenizer)
        windows = train_windows(train, data, cfg.train, size, cfg.task.carry_state)
        return windows, heldout_windows(heldout, data, size)
    if cfg.task.carry_state:
        raise config_lib.ConfigError("chat data: whole conversations leave no state to carry")
    return (
        chat_windows(data.train, data, tokenizer, cfg.train.seed),
        chat_windows(data.heldout, data, tokenizer, None) if data.heldout else None,
    )


def chat_windows(
    paths: tuple[str, ...], cfg: DataConfig, tokenizer: Tokenizer, seed: int | None
) -> ConversationWindows:
    """Windows of conversations, in the given order if `seed` is None."""
    return ConversationWindows(
        read_conversations(paths, tokenizer),
        cfg.context,
        pack=cfg.packing == "best_fit",
        too_long=cfg.too_long,
        seed=seed,
        vocab_size=tokenizer.vocab_size,
    )
