# SPDX-License-Identifier: Apache-2.0
"""How each printed command is checked: one table.

    story    run in order, by `EXECUTED` and `EXECUTED_SLOWLY` of documented_test.py
    shrunk   run with the flags of the table appended; with a configuration of ours also those of
             shrunk.py (slow)
    served   started, answers at the address that it prints, and ended (slow)
    read     flags and configuration are read by the program, which does nothing; the table says why

The first rule whose pattern is found in the command (without "python -m") holds. Every command is
also read by its program, in a test that always runs.
"""

from __future__ import annotations

import re
from typing import NamedTuple

from tests import shrunk
from tests.documented import Command


class Way(NamedTuple):
    """How one command is checked: flags that make it small, or why it is only read."""

    way: str
    flags: str = ""
    why: str = ""


_SMALL_SPEECH = (
    f"{shrunk.SPEECH} --config.model.encoder.hidden=(4,) --config.model.prediction.hidden=(4,)"
)
_TINY_LM = "--config.model.dim=32 --config.model.layers=1"

RULES: tuple[tuple[str, Way], ...] = (
    ("--distributed=", Way("read", why="needs several machines; tests/core/distributed_test.py")),
    ("size=published", Way("read", why="the paper's sizes need an accelerator; small ones run")),
    ("pictures=original", Way("read", why="the original pictures are not redistributed")),
    ("^core.doctor", Way("shrunk")),
    # --- programs that serve until they are ended
    ("^rwkvjax.serve .*--adapters", Way("served", "--port=0 --checkpoint=model.pth --slots=2")),
    ("^rwkvjax.serve", Way("served", "--port=0 --checkpoint=model.pth --slots=2")),
    ("^perception.oddity_play", Way("served", "--port=0 --models= --answers=played.jsonl")),
    # --- RWKV
    ("^rwkvjax.chat", Way("shrunk", "--checkpoint=model.pth --max_tokens=2")),
    ("^rwkvjax.generate", Way("shrunk", "--checkpoint=model.pth --tokens=2")),
    ("^rwkvjax.embed .*--layer", Way("shrunk", "--checkpoint=model.pth --layer=1")),
    ("^rwkvjax.embed", Way("shrunk", "--checkpoint=model.pth")),
    ("^rwkvjax.convert .*--upcycle", Way("shrunk", "--src=eagle.pth")),
    ("^rwkvjax.convert", Way("shrunk", "--src=model.pth --overwrite")),
    (
        "^rwkvjax.merge",
        Way("shrunk", "--base=model.pth --adapter=runs/lora/adapter.safetensors --overwrite"),
    ),
    ("^rwkvjax.quantize .*--group_size", Way("shrunk", "--src=model.pth --group_size=16")),
    ("^rwkvjax.quantize", Way("shrunk", "--src=model.pth")),
    ("^rwkvjax.prepare_data", Way("shrunk", "--input=lines.txt --tokenizer=byte")),
    ("configs/rwkvjax/quickstart.py.*version=7", Way("shrunk", f"{shrunk.LM} {_TINY_LM}")),
    # --- spiking networks
    ("^snn.train .*corpus=", Way("shrunk", f"{_SMALL_SPEECH} --config.data.tokens=characters")),
    ("^snn.transcribe", Way("shrunk", "--checkpoint=runs/asr_fsdd")),
    (
        "^snn.robustness",
        Way(
            "shrunk",
            "--model=runs/ttfs_digits/model.safetensors --data=digits --trials=1"
            " --test_examples=20 --finetune_steps=1",
        ),
    ),
    ("^snn.convert .*--model", Way("shrunk")),
    # --- perception
    ("^perception.evaluate .*--sets", Way("shrunk", "--runs=runs/svrt1 --size=8")),
    ("^perception.evaluate", Way("shrunk", "--runs=runs/svrt1")),
    ("^perception.oddity_report", Way("shrunk", "--runs=runs/oddity_snu*")),
    ("^perception.show .*--image", Way("shrunk", "--glimpses=2")),
    ("^perception.show", Way("shrunk", "--rows=1 --glimpses=2")),
    ("^perception.contact_sheet", Way("shrunk", "--rows=1 --columns=2")),
    # --- subjective texts
    ("^nlp.acquire --project.*--tasks", Way("shrunk", "--project=other.sqlite")),
    ("^nlp.acquire --project.*--ask", Way("shrunk", "--ask=4")),
    ("^nlp.acquire --project", Way("shrunk")),
    ("^nlp.evaluate .*--compare", Way("shrunk", "--config.tasks=('spam',)")),
    # --- benchmarks: the smallest sizes that their flags allow
    ("^benchmarks.acquisition", Way("shrunk", "--limit=60 --features=64")),
    ("^benchmarks.architectures", Way("shrunk", "--steps=2 --models=6")),
    (
        "^benchmarks.context_parallel",
        Way("shrunk", "--contexts=64 --devices=1,2 --dim=64 --layers=1 --repeats=1"),
    ),
    ("^benchmarks.(decode|prefill)", Way("shrunk", "--tokens=2 --rounds=1 --size=finch-0.1b")),
    (
        "^benchmarks.embeddings",
        Way("shrunk", "--checkpoint=model.pth --train=40 --test=20 --poolings=mean --layers=1"),
    ),
    ("^benchmarks.finetune", Way("shrunk", "--base=model.pth --steps=1 --methods=state,lora")),
    ("^benchmarks.gap_frontend", Way("shrunk", "--images=8 --torch_images=1 --rounds=1")),
    ("^benchmarks.gap_cues", Way("shrunk", "--images=4")),
    ("^benchmarks.gap ", Way("shrunk", "--only=none", "its runs are those of perception.train")),
    ("^benchmarks.load_weights", Way("shrunk", "--size=finch-0.1b --repeats=1")),
    ("^benchmarks.mqar", Way("shrunk", "--lengths=16 --dims=32 --steps=2")),
    ("^benchmarks.nlp_evaluate", Way("shrunk", "--items=20 --repeats=1")),
    ("^benchmarks.oddity_generator", Way("shrunk", "--authors= --riddles=1 --rounds=1")),
    ("^benchmarks.ostl_peers", Way("shrunk", "--steps=3 --rounds=1")),
    ("^benchmarks.ostl_rwkv", Way("shrunk", "--bytes=2 --learn=0 --train=1 --versions=4")),
    ("^benchmarks.ostl", Way("shrunk", "--parts=time --rounds=1")),
    ("^benchmarks.personalization", Way("shrunk", "--sizes=200")),
    (
        "^benchmarks.position",
        Way(
            "shrunk", "--checkpoints=model.pth --text=lines.txt --length=16 --segment=8 --windows=2"
        ),
    ),
    (
        "^benchmarks.quantize .*quality",
        Way("shrunk", "--checkpoint=runs/quickstart --models= --bytes=1024 --context=8"),
    ),
    (
        "^benchmarks.quantize",
        Way("shrunk", "--dim=256 --layers=1 --vocab=256 --batches=1 --rounds=3 --tokens=1"),
    ),
    ("^benchmarks.report$", Way("read", why="writes RESULTS.md; results_test.py compares it")),
    ("^benchmarks.report .*--run", Way("read", why="writes a record; results_test.py makes one")),
    (
        "^benchmarks.serve",
        Way(
            "shrunk",
            "--checkpoint=model.pth --slots=2 --tokens=2 --repeats=1 --lengths=8",
        ),
    ),
    (
        "^benchmarks.simulate",
        Way("shrunk", "--sizes=finch-0.1b --devices=2 --layers=1 --context=64"),
    ),
    ("^benchmarks.speech", Way("shrunk", "--runs=runs/asr_fsdd --utterances=1 --width=4")),
    (
        "^benchmarks.step_memory",
        Way("shrunk", "--size=finch-0.1b --context=64 --vocab=256 --norun"),
    ),
    ("^benchmarks.svrt_generators", Way("shrunk", "--images=2 --plain_images=2 --problems=1")),
    ("^benchmarks.tokenizer", Way("shrunk", "--repeats=1")),
    (
        "^benchmarks.train_step",
        Way("shrunk", "--dim=64 --layers=1 --batch=1 --context=8 --repeats=1"),
    ),
    (
        "^benchmarks.transducer_loss",
        Way("shrunk", "--sizes=1,4,2 --vocabularies=5 --joint=4 --repeats=1 --rounds=1"),
    ),
    ("^benchmarks.ttfs", Way("shrunk", "--repeats=1 --sections=solver")),
    (
        "^benchmarks.wkv",
        Way("shrunk", "--batch=1 --steps=16 --heads=1 --size=16 --repeats=1 --longest=1024"),
    ),
)

_CONFIG = re.compile(r"--config=configs/([\w/]+)\.py")


def way(command: Command) -> Way | None:
    """The way of a command that is not in the story; None if the table does not have it."""
    text = command.text.removeprefix("python -m ")
    for pattern, found in RULES:
        if re.search(pattern, text):
            return found
    config = _CONFIG.search(text)
    if config and config[1] in shrunk.SHRUNK:
        return Way("shrunk", shrunk.SHRUNK[config[1]][1])
    return Way("shrunk") if "--help" in command.arguments else None
