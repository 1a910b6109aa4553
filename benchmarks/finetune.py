# SPDX-License-Identifier: Apache-2.0
"""Ways of fine-tuning one base, side by side: a style of text, and a task given as conversations.

    python -m rwkvjax.train --config=configs/rwkvjax/wikitext2.py --workdir=runs/wikitext2
    python -m benchmarks.finetune --base=runs/wikitext2 --workdir=runs/finetune

Text: Tiny Shakespeare (configs/rwkvjax/lora.py and state_tuning.py), bits per byte of its held-out
end. Conversations: the SMS spam collection, "User: MESSAGE / Assistant: spam" (configs/rwkvjax/
chat.py), as many of each kind, accuracy on held-out messages by which answer is more likely. The
base itself is the first row of both. Finished runs are not repeated. Writes results.md and
results.jsonl into the workdir.
"""

from __future__ import annotations

import csv
import gzip
import json
import pathlib
import sys
import time
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from absl import flags

from configs.rwkvjax import chat, lora, state_tuning
from core import cli, files
from core import params as params_lib
from core.datasets import find_dataset
from rwkvjax import experiment, model
from rwkvjax.data.conversations import encode
from rwkvjax.finetune.run import export
from rwkvjax.finetune.task import AdapterTask
from rwkvjax.tokenizers import Tokenizer, get_tokenizer

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

ANSWERS = ("ham", "spam")
_HELDOUT = 100  # messages of each kind


def make_conversations(folder: pathlib.Path) -> tuple[pathlib.Path, pathlib.Path]:
    """Writes (train.jsonl, heldout.jsonl): equally many spam and other messages."""
    source = find_dataset("sms_spam") / "sms_spam_train.tsv.gz"
    with gzip.open(source, "rt", encoding="utf-8", newline="") as file:
        rows = list(csv.reader(file, delimiter="\t"))[1:]
    kinds = {
        "ham": [r[1] for r in rows if r[2] != "spam"],
        "spam": [r[1] for r in rows if r[2] == "spam"],
    }
    count = min(map(len, kinds.values()))
    rng = np.random.default_rng(0)
    train, heldout = [], []
    for answer, texts in kinds.items():
        lines = [
            json.dumps({"prompt": texts[i], "response": answer})
            for i in rng.permutation(len(texts))[:count]
        ]
        heldout += lines[:_HELDOUT]
        train += lines[_HELDOUT:]
    paths = folder / "train.jsonl", folder / "heldout.jsonl"
    for path, lines in zip(paths, (train, heldout), strict=True):
        files.write_text(path, "".join(f"{line}\n" for line in lines))
    return paths


def run_config(task: str, method: str, values: flags.FlagValues) -> experiment.RunConfig:
    """Configuration of one run."""
    if task == "chat":
        config = chat.get_config(method)
        train, heldout = make_conversations(pathlib.Path(values.workdir))
        config.data.train, config.data.heldout = (str(train),), (str(heldout),)
    else:
        config = state_tuning.get_config() if method == "state" else lora.get_config(method)
    config.finetune.base, config.train.steps = values.base, values.steps
    for item in values.set:
        place, number = item.split("=")
        block, key = place.split(".")
        config[block][key] = float(number)
    return experiment.build_config(config)


@jax.jit
def _gather(logits: jax.Array, tokens: jax.Array, mask: jax.Array) -> jax.Array:
    log_p = jax.nn.log_softmax(logits[:, :-1].astype(jnp.float32))
    picked = jnp.take_along_axis(log_p, tokens[:, 1:, None], axis=-1)[..., 0]
    return (picked * mask).sum(axis=1)


def accuracy(
    cfg: Any, params: Any, state: Any, path: str, tokenizer: Tokenizer, width: int
) -> float:
    """Share of conversations whose given answer is more likely than the other one."""
    lines = [json.loads(line) for line in pathlib.Path(path).read_text().splitlines()]
    apply = jax.jit(lambda p, t, s: model.apply(p, cfg, t, s)[0])
    right = []
    for start in range(0, len(lines), 20):
        scores = []
        for answer in ANSWERS:
            pairs = [
                encode([("User", line["prompt"]), ("Assistant", answer)], tokenizer)
                for line in lines[start : start + 20]
            ]
            tokens, mask = np.zeros((20, width), np.int32), np.zeros((20, width - 1), np.float32)
            for row, pair in enumerate(pairs):
                # The end of a long message is what the answer follows.
                ids, target = pair.tokens[-width:], pair.target[-width:]
                tokens[row, : len(ids)], mask[row, : len(ids) - 1] = ids, target[1:]
            first = jax.tree.map(lambda x: jnp.repeat(x, 20, axis=1), state)
            scores.append(_gather(apply(params, tokens, first), tokens, mask))
        chosen = np.argmax(np.stack(scores), axis=0)[: len(lines[start : start + 20])]
        right += [
            ANSWERS[c] == line["response"]
            for c, line in zip(chosen, lines[start : start + 20], strict=True)
        ]
    return float(np.mean(right))


def measure(task: str, method: str, values: flags.FlagValues) -> list[dict[str, Any]]:
    """Records of the untouched base and of the trained model."""
    cfg = run_config(task, method, values)
    out = pathlib.Path(values.workdir) / f"{task}-{method}"
    trainer = experiment.make_trainer(cfg, out)
    adapted = isinstance(trainer.task, AdapterTask)
    frozen = params_lib.flatten(trainer.task.frozen) if adapted else ()
    before = {path: np.asarray(x).tobytes() for path, x in frozen}
    record: dict[str, Any] = {"task": task, "method": "base"}
    records = [{**record, **_quality(task, cfg, trainer, trainer._init_params)}]
    start, cpu = time.perf_counter(), time.process_time()
    state = trainer.run()
    seconds, cpu = time.perf_counter() - start, time.process_time() - cpu
    record = {"task": task, "method": method, **_quality(task, cfg, trainer, state.params)}
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


def _quality(task: str, cfg: experiment.RunConfig, trainer: Any, params: Any) -> dict[str, Any]:
    values = trainer.evaluate(params)
    result = {"bits_per_byte": round(values["eval/bits_per_byte"], 4)}
    if task == "chat":
        state = model.init_state(cfg.model, 1)
        if isinstance(trainer.task, AdapterTask):
            params, tuned = trainer.task.assemble(params, trainer.task.frozen, 1)
            state = tuned or state
        tokenizer = get_tokenizer(cfg.data.tokenizer)
        width = cfg.data.context + 1
        result["accuracy"] = accuracy(
            cfg.model, params, state, cfg.data.heldout[0], tokenizer, width
        )
    return result


def table(results: list[dict[str, Any]]) -> str:
    """A Markdown table."""
    lines = [
        "| data | method | trained parameters | file (KiB) | held-out bits per byte | accuracy |"
        " CPU seconds |",
        "|---|---|---|---|---|---|---|",
    ]
    for r in results:
        trained = f"{r['trained']:,}" if "trained" in r else "0"
        right = f"{100 * r['accuracy']:.1f} %" if "accuracy" in r else ""
        lines.append(
            f"| {r['task']} | {r['method']} | {trained} | {r.get('file_kib', '')}"
            f" | {r['bits_per_byte']:.4f} | {right} | {r.get('cpu_seconds', '')} |"
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
