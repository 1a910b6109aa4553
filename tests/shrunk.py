# SPDX-License-Identifier: Apache-2.0
"""Flags that make the run of each configuration small, and the files that those runs read."""

from __future__ import annotations

import importlib.util
import json
import pathlib
import wave
from collections.abc import Sequence
from typing import Any

import numpy as np

from core import jobs
from core.datasets import find_dataset

STEPS = "--config.train.steps=2 --config.train.log_every=1"
LM = (
    f"{STEPS} --config.train.batch_size=2 --config.data.context=8 --config.train.eval_every=0"
    " --config.model.dim=32 --config.model.layers=1 --config.model.wkv=scan"
    " --config.data.train=lines.txt --config.data.heldout= --config.data.heldout_tokens=32"
    " --config.sample.prompts=()"
)
TUNED = (
    f"{STEPS} --config.finetune.base=runs/base --config.train.batch_size=2"
    " --config.train.eval_every=0 --config.data.context=8 --config.data.train=lines.txt"
    " --config.data.heldout_tokens=32 --config.sample.prompts=()"
)
TALKS = (
    f"{STEPS} --config.finetune.base=runs/base --config.train.batch_size=2"
    " --config.train.eval_every=0 --config.data.context=64 --config.data.train=talks.jsonl"
    " --config.data.heldout=talks.jsonl --config.sample.prompts=()"
)
SEQUENCE = f"{STEPS} --config.train.eval_every=2 --config.train.batch_size=2"
IMAGES = (
    f"{STEPS} --config.train.eval_every=2 --config.train.batch_size=4"
    " --config.data.train_examples=80 --config.data.test_examples=20 --config.data.validation=20"
    " --config.data.certify_examples=20"
)
SPEECH = f"{STEPS} --config.train.eval_every=2 --config.train.batch_size=2"
DIGITS = f"{SPEECH} --config.data.options.train=200 --config.data.options.test=4"
LOOK = (
    f"{STEPS} --config.train.eval_every=2 --config.train.batch_size=4 --config.data.train=8"
    " --config.data.test=8 --config.data.validation=8 --config.data.eval_batch_size=8"
)
GLIMPSES = f"{LOOK} --config.data.test_others=8 --config.data.others=()"

HEADS = "--config.heads.epochs=1 --config.folds=3 --config.thetas=(0.1,)"
# The sentence encoder takes seconds to load and a minute for whole sets.
NO_SENTENCES = "--config.encoders[{}].kind=hashing"
PERSONAL = (
    "--config.folds=3 --config.seeds=1 --config.train_limit=90 --config.test_limit=30"
    " --config.fit.epochs=1 --config.models=('id_only','hubi_medium')"
)
AUGMENTED = (
    "--config.train=12 --config.validation=12 --config.test=12 --config.training.seeds=1"
    " --config.training.heads.epochs=1"
)

# Configuration -> (what follows its colon, flags that make it small). {url} is a local endpoint.
SHRUNK = {
    "rwkvjax/quickstart": ("", LM),
    "rwkvjax/wikitext2": ("", LM),
    "rwkvjax/compare": ("6", LM),
    "rwkvjax/lora": ("", TUNED),
    "rwkvjax/state_tuning": ("", TUNED),
    "rwkvjax/chat": ("state", TALKS),
    # Its program reads the recipe itself.
    "rwkvjax/mqar": (None, "--lengths=16 --dims=32 --steps=2"),
    "snn/ttfs_digits": ("", IMAGES),
    "snn/ttfs_digits_lif": ("", IMAGES),
    "snn/ttfs_mnist": ("", IMAGES),
    "snn/ttfs_mnist_lenet": ("", IMAGES),
    "snn/ttfs_mnist_lenet_bn": ("", IMAGES),
    "snn/ttfs_fashion": ("", IMAGES),
    "snn/ttfs_cifar10": ("", IMAGES),
    "snn/ttfs_cifar10_vgg15": (
        "",
        f"{IMAGES} --config.model.channels=((2,2),(2,2),(2,2,2),(2,2,2),(2,2,2))"
        " --config.model.hidden=(4,)",
    ),
    "snn/ostl_jsb": ("bptt,recurrent", SEQUENCE),
    "snn/jsb_best": ("ssnu", SEQUENCE),
    "snn/ostl_rate_mnist": ("bptt", SEQUENCE),
    "snn/ostl_rows_mnist": ("bptt", SEQUENCE),
    "snn/ostl_timit": ("bptt,ssnu", SEQUENCE),
    "snn/ostl_wikitext2": ("bptt,byte", SEQUENCE),
    "snn/asr_fsdd": ("ssnu,16", DIGITS),
    "snn/asr_an4": ("ssnu,16", SPEECH),
    "snn/asr_paper": (
        "lstm",
        f"{SPEECH} --config.data.train=said.jsonl --config.data.valid=said.jsonl"
        " --config.data.test=said.jsonl --config.data.buckets=1"
        " --config.model.encoder.hidden=(4,4) --config.model.prediction.hidden=(4,)"
        " --config.model.joint_size=4",
    ),
    "perception/gap_svrt": ("problem=1", GLIMPSES),
    "perception/gap_svrt_ood": ("", GLIMPSES),
    "perception/gap_art": ("task=same_different", GLIMPSES),
    "perception/gap_clevr_lite": ("task=rmts", GLIMPSES),
    "perception/oddity_snu": ("riddle=topology,resolution=32", LOOK),
    "nlp/personalize_convabuse": ("", f"{PERSONAL} {NO_SENTENCES.format(2)}"),
    "nlp/personalize_multipico": ("", f"{PERSONAL} {NO_SENTENCES.format(1)}"),
    "nlp/personalize_llm": (
        "runs/base",
        f"{PERSONAL} --config.llm.epochs=1 --config.llm.max_tokens=32"
        " --config.llm.variants=('Q','CLS-P','CLS-state','LM-P@1')",
    ),
    "nlp/acquire_convabuse": (
        "",
        f"{HEADS} --config.limit=60 --config.simulation.rounds=1 --config.simulation.seeds=1"
        f" --config.simulation.start=20 --config.simulation.step=10 {NO_SENTENCES.format(1)}",
    ),
    "nlp/acquire_unhealthy": ("", f"{HEADS} --config.limit=60 --config.reproduce=('min_mode',)"),
    "nlp/acquire_goemotions": ("", f"{HEADS} --config.limit=60"),
    "nlp/augment_tweeteval": (
        "runs/base",
        f"{AUGMENTED} --config.small.model.dim=32 --config.small.model.layers=1"
        " --config.small.model.steps=2",
    ),
    "nlp/augment_endpoint": ("any-model", f"{AUGMENTED} --config.model.base_url={{url}}"),
    "nlp/endpoint": (
        "",
        "--config.tasks=('spam','tweet_sent') --config.limit=4 --config.resamples=10"
        " --config.models[0].base_url={url}",
    ),
    "nlp/rwkv": ("runs/base", "--config.tasks=('spam','convabuse_per') --config.limit=2"),
    "nlp/replay": ("answers.jsonl", "--config.limit=2 --config.resamples=10"),
}


def fill(folder: pathlib.Path, repo: pathlib.Path) -> None:
    """Texts, conversations, sound and stored answers of the names that the flags have."""
    (folder / "configs").symlink_to(repo / "configs")
    (folder / "lines.txt").write_text("some words, again and again.\n" * 80)
    talk = {"messages": [{"role": "user", "content": "a"}, {"role": "assistant", "content": "b"}]}
    _lines(folder / "talks.jsonl", [talk] * 8)
    _lines(folder / "answers.jsonl", [{"item": str(i), "text": '["spam"]'} for i in range(6000)])
    for name in "abcd":
        tone(folder / f"{name}.wav", 300 + 40 * ord(name))
    said = [{"audio": f"{n}.wav", "text": n * 2, "duration": 0.5} for n in "abcd"]
    _lines(folder / "said.jsonl", said)


def _lines(path: pathlib.Path, records: Sequence[Any]) -> None:
    path.write_text("".join(json.dumps(record) + "\n" for record in records))


def tone(path: pathlib.Path, hertz: float) -> None:
    """Half a second at 8 kHz."""
    sound = 0.3 * np.sin(2 * np.pi * hertz * np.arange(4000) / 8000)
    with wave.open(str(path), "wb") as out:
        out.setparams((1, 2, 8000, 0, "NONE", ""))
        out.writeframes((sound * 32767).astype("<i2").tobytes())


def lacks(config: str) -> str:
    """What a configuration lacks on this machine: a data set or a package; "" for nothing.

    Language models get a text of the test instead of their data set.
    """
    (job,) = [job for job in jobs.JOBS if job.config == config]
    for name in () if config.startswith("rwkvjax/") else job.data:
        try:
            find_dataset(name)
        except FileNotFoundError as error:
            return str(error)
    missing = [m for m in job.modules if not importlib.util.find_spec(m)]
    return f"{missing} not installed" if missing else ""
