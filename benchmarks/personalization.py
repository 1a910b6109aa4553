# SPDX-License-Identifier: Apache-2.0
"""Time and memory of loading annotations and training HuBi-Medium, against their number.

    python -m benchmarks.personalization [--sizes=10000,100000,1000000] [--output=personal.jsonl]

Every size runs in a process of its own: a table of rows with ids is read into the schema, and one
epoch is trained over vectors of 64 numbers, ten annotations a text, one annotator in 200 rows.
"Linear" means that seconds for a million annotations and bytes for each do not grow.
"""

import json
import resource
import subprocess
import sys
import time

from absl import app, flags
from absl import logging as absl_logging

_SIZES = flags.DEFINE_list("sizes", ["10000", "100000", "1000000"], "Numbers of annotations.")
_OUTPUT = flags.DEFINE_string("output", None, "File for the JSON lines, besides standard output.")
_ONE = flags.DEFINE_integer("one", 0, "Measure this size in this process.")
_VECTOR = 64


def _rows(count: int, people: int):
    import numpy as np

    rng = np.random.default_rng(0)
    person = rng.integers(people, size=count)
    label = rng.integers(2, size=count)
    for i in range(count):
        yield f"t{i // 10}", f"u{person[i] + people * (i % 10)}", (int(label[i]),)


def _peak() -> float:
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024  # Linux counts in KiB


def measure(count: int) -> dict:
    """Numbers of one size."""
    import jax
    import numpy as np

    from nlp import annotations
    from nlp.personalization import fitting, models
    from nlp.personalization.task import PersonalTask, examples

    jax.block_until_ready(jax.numpy.zeros(1))
    empty = _peak()
    texts = {f"t{i}": f"text {i}" for i in range(-(-count // 10))}
    began = time.perf_counter()
    tasks = [annotations.Task("yes")]
    data = annotations.build("bench", tasks, texts, _rows(count, max(1, count // 2000)))
    loaded = time.perf_counter() - began
    after_load = _peak()
    vectors = np.random.default_rng(1).normal(size=(len(data.texts), _VECTOR)).astype(np.float32)
    cfg = models.Config("hubi_medium", _VECTOR, len(data.annotator_ids), 2)
    task = PersonalTask(cfg, data.classes, vectors)
    how = fitting.Fit(epochs=1, evaluations=0)
    warm = examples(data, np.arange(min(count, 45_000)), seed=0)
    fitting.fit(task, warm, how)  # compiles; a batch of 3000 for all sizes from 45,000 on
    began = time.perf_counter()
    cpu = time.process_time()
    fitting.fit(task, examples(data, np.arange(count), seed=0), how)
    return {
        "annotations": count,
        "annotators": len(data.annotator_ids),
        "load_s": round(loaded, 3),
        "epoch_s": round(time.perf_counter() - began, 3),
        "epoch_cpu_s": round(time.process_time() - cpu, 3),
        "load_mib": round(after_load - empty, 1),
        "peak_mib": round(_peak() - empty, 1),
    }


def main(argv: list[str]) -> None:
    """Runs all sizes and prints a table."""
    del argv
    absl_logging.set_verbosity(absl_logging.WARNING)
    if _ONE.value:
        print(json.dumps(measure(_ONE.value)))
        return
    results = []
    for size in _SIZES.value:
        command = [sys.executable, "-m", "benchmarks.personalization", f"--one={size}"]
        done = subprocess.run(command, check=True, capture_output=True, text=True)
        results.append(json.loads(done.stdout.strip().splitlines()[-1]))
        print(json.dumps(results[-1]), flush=True)
    if _OUTPUT.value:
        with open(_OUTPUT.value, "w", encoding="utf-8") as file:
            file.writelines(json.dumps(r) + "\n" for r in results)
    print("\n| annotations | load s | epoch s (CPU s) | us / annotation | peak MiB | bytes each |")
    print("|---|---|---|---|---|---|")
    for r in results:
        each = 1e6 * r["epoch_cpu_s"] / r["annotations"]
        size = 2**20 * r["peak_mib"] / r["annotations"]
        print(
            f"| {r['annotations']:,} | {r['load_s']:.2f} | {r['epoch_s']:.2f}"
            f" ({r['epoch_cpu_s']:.2f}) | {each:.1f} | {r['peak_mib']:.0f} | {size:.0f} |"
        )


if __name__ == "__main__":
    app.run(main)
