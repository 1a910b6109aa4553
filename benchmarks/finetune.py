# SPDX-License-Identifier: Apache-2.0
"""Ways of fine-tuning one base, side by side: a style of text, and a task given as conversations.

    python -m rwkvjax.train --config=configs/rwkvjax/wikitext2.py --workdir=runs/wikitext2
    python -m benchmarks.finetune --base=runs/wikitext2 --workdir=runs/finetune

Text: Tiny Shakespeare (configs/rwkvjax/lora.py and state_tuning.py), bits per byte of its held-out
end. Conversations: the CMU pronouncing dictionary, "User: abode / Assistant: AH0 B OW1 D"
(configs/rwkvjax/chat.py), bits per byte of the answers to held-out words. The base itself is the
first row of both. Finished runs are not repeated. Writes results.md and results.jsonl into the
workdir.
"""

from __future__ import annotations

import gzip
import json
import pathlib
import sys
import time
from typing import Any

import numpy as np
from absl import flags

from configs.rwkvjax import chat, lora, state_tuning
from core import cli, files
from core import params as params_lib
from core.datasets import find_dataset
from rwkvjax import experiment
from rwkvjax.finetune.run import export
from rwkvjax.finetune.task import AdapterTask

_FLAGS = flags.FlagValues()
flags.DEFINE_string("base", "runs/wikitext2", "What is fine-tuned.", flag_values=_FLAGS)
flags.DEFINE_string("workdir", "runs/finetune", "Where runs lie.", flag_values=_FLAGS)
flags.DEFINE_list(
    "methods", ["state", "lora", "pissa", "full"], "Methods to train.", flag_values=_FLAGS
)
flags.DEFINE_list("tasks", ["text", "chat"], "Data to train on.", flag_values=_FLAGS)
flags.DEFINE_integer("steps", 150, "Steps of each run.", 1, flag_values=_FLAGS)
flags.DEFINE_list(
    "set",
    [],
    "block.key=number for every run, e.g. optimizer.learning_rate=0.1",
    flag_values=_FLAGS,
)

_HELDOUT = 200  # words
_WORDS = 4000


def make_conversations(folder: pathlib.Path) -> tuple[pathlib.Path, pathlib.Path]:
    """Writes (train.jsonl, heldout.jsonl) of words drawn once from the dictionary."""
    with gzip.open(find_dataset("cmudict") / "cmudict.gz", "rt", encoding="ascii") as file:
        entries = [line.split(maxsplit=2) for line in file]
    words = [(w.lower(), p.strip()) for w, n, p in entries if n == "1" and w.isalpha()]
    order = np.random.default_rng(0).permutation(len(words))[: _WORDS + _HELDOUT]
    lines = [json.dumps({"prompt": words[i][0], "response": words[i][1]}) for i in order]
    paths = folder / "train.jsonl", folder / "heldout.jsonl"
    for path, part in zip(paths, (lines[_HELDOUT:], lines[:_HELDOUT]), strict=True):
        files.write_text(path, "".join(f"{line}\n" for line in part))
    return paths


def run_config(task: str, method: str, values: flags.FlagValues) -> experiment.RunConfig:
    """Configuration of one run."""
    if task == "chat":
        config = chat.get_config(method)
        train, heldout = make_conversations(pathlib.Path(values.workdir))
        config.data.train, config.data.heldout = (str(train),), (str(heldout),)
        config.data.context = 64 if method == "state" else 128
    else:
        config = state_tuning.get_config() if method == "state" else lora.get_config(method)
    config.finetune.base, config.train.steps = values.base, values.steps
    for item in values.set:
        place, number = item.split("=")
        block, key = place.split(".")
        config[block][key] = float(number)
    return experiment.build_config(config)


def measure(task: str, method: str, values: flags.FlagValues) -> list[dict[str, Any]]:
    """Records of the untouched base and of the trained model."""
    cfg = run_config(task, method, values)
    out = pathlib.Path(values.workdir) / f"{task}-{method}"
    trainer = experiment.make_trainer(cfg, out)
    adapted = isinstance(trainer.task, AdapterTask)
    frozen = params_lib.flatten(trainer.task.frozen) if adapted else ()
    before = {path: np.asarray(x).tobytes() for path, x in frozen}
    record: dict[str, Any] = {"task": task, "method": "base"}
    records = [{**record, **_quality(trainer, trainer._init_params)}]
    start, cpu = time.perf_counter(), time.process_time()
    state = trainer.run()
    seconds, cpu = time.perf_counter() - start, time.process_time() - cpu
    record = {"task": task, "method": method, **_quality(trainer, state.params)}
    record["trained"] = params_lib.count(trainer.specs)
    record |= {"seconds": round(seconds, 1), "cpu_seconds": round(cpu, 1)}
    if adapted:
        export(trainer.task, state.params, out)
        record["file_kib"] = round((out / "adapter.safetensors").stat().st_size / 1024, 1)
        after = {p: np.asarray(x).tobytes() for p, x in params_lib.flatten(trainer.task.frozen)}
        record["base_bit_identical"] = before == after
    else:
        record["file_kib"] = round(4 * record["trained"] / 1024, 1)
    return [*records, record]


def _quality(trainer: Any, params: Any) -> dict[str, Any]:
    return {"bits_per_byte": round(trainer.evaluate(params)["eval/bits_per_byte"], 4)}


def table(results: list[dict[str, Any]]) -> str:
    """A Markdown table."""
    lines = [
        "| data | method | trained parameters | file (KiB) | bits per byte | CPU seconds |",
        "|---|---|---|---|---|---|",
    ]
    for r in results:
        trained = f"{r['trained']:,}" if "trained" in r else "0"
        lines.append(
            f"| {r['task']} | {r['method']} | {trained} | {r.get('file_kib', '')}"
            f" | {r['bits_per_byte']:.4f} | {r.get('cpu_seconds', '')} |"
        )
    return "\n".join(lines)


def main(values: flags.FlagValues) -> None:
    """Trains everything, then writes the results."""
    root = pathlib.Path(values.workdir)
    root.mkdir(parents=True, exist_ok=True)
    results: list[dict[str, Any]] = []
    for task in values.tasks:
        seen_base = False
        for method in values.methods:
            print(f"== {task}, {method}", file=sys.stderr)
            base, trained = measure(task, method, values)
            results += [trained] if seen_base else [base, trained]
            seen_base = True
            print(json.dumps(results[-2:]), flush=True)
    with files.atomic_write(root / "results.jsonl", "w") as f:
        f.writelines(json.dumps(r) + "\n" for r in results)
    files.write_text(root / "results.md", table(results) + "\n")
    print(table(results))


if __name__ == "__main__":
    cli.program(main, _FLAGS, __doc__ or "")
