# SPDX-License-Identifier: Apache-2.0
"""Out-of-fold predictors of all tasks: ours (ten folds at once) against scikit-learn's loop.

    python -m benchmarks.acquisition [--data=unhealthy_comments] [--output=acquisition.jsonl]

The peer is what a user would write: for each fold and task one `LogisticRegression(C=1)` on a
sparse TF-IDF matrix. Both predict every text by a model that has not seen it; compared are CPU
seconds, and positives kept at 40 % of annotations removed.
"""

import json
import time

import numpy as np
from absl import app, flags
from absl import logging as absl_logging

from nlp import annotations
from nlp.acquisition import evaluation, metrics
from nlp.acquisition.heads import Heads
from nlp.personalization.encoders import Encoder, encode

_DATA = flags.DEFINE_string("data", "unhealthy_comments", "A set of annotations.load_text_labels.")
_FEATURES = flags.DEFINE_integer("features", 2048, "Largest vocabulary of TF-IDF.")
_LIMIT = flags.DEFINE_integer("limit", 4000, "At most so many texts.")
_OUTPUT = flags.DEFINE_string("output", None, "File for the JSON lines, besides standard output.")
_REMOVED = 0.4


def _peer(vectors: np.ndarray, truth: np.ndarray, folds: evaluation.Folds) -> np.ndarray:
    from scipy.sparse import csr_matrix
    from sklearn.linear_model import LogisticRegression

    sparse = csr_matrix(vectors)
    found = np.zeros(truth.shape)
    for train, test in zip(folds.train, folds.test, strict=True):
        for task in range(truth.shape[1]):
            own = truth[train, task]
            if own.min() == own.max():
                found[test, task] = own[0]
                continue
            model = LogisticRegression(C=1.0, max_iter=1000).fit(sparse[train], own)
            found[test, task] = model.predict_proba(sparse[test])[:, 1]
    return found


def main(argv: list[str]) -> None:
    """Measures both and prints JSON lines and a table."""
    del argv
    absl_logging.set_verbosity(absl_logging.WARNING)
    data = annotations.load_text_labels(_DATA.value)
    rows = np.random.default_rng(0).permutation(len(data))[: _LIMIT.value]
    data = data.select(np.sort(rows))
    vectors = encode(data.texts, Encoder(features=_FEATURES.value))
    truth = data.targets(0.15)
    folds = evaluation.make_folds(len(data))
    ours = lambda: evaluation.out_of_fold(vectors, truth, truth * 1.0, folds, Heads(), 0)
    results = []
    for name, run in (("ours", ours), ("scikit-learn", lambda: _peer(vectors, truth, folds))):
        wall, cpu = time.perf_counter(), time.process_time()
        found = run()
        kept = metrics.curve(truth, found, (_REMOVED,))[0].kept
        results.append(
            {"system": name, "data": data.name, "texts": len(data), "tasks": truth.shape[1],
             "wall_s": round(time.perf_counter() - wall, 2),
             "cpu_s": round(time.process_time() - cpu, 2), "kept": round(kept, 4)}
        )  # fmt: skip
        print(json.dumps(results[-1]), flush=True)
    if _OUTPUT.value:
        with open(_OUTPUT.value, "w", encoding="utf-8") as file:
            file.writelines(json.dumps(r) + "\n" for r in results)
    print(f"\n| system | CPU s | wall s | positives kept at {_REMOVED:.0%} removed |")
    print("|---|---|---|---|")
    for r in results:
        print(f"| {r['system']} | {r['cpu_s']} | {r['wall_s']} | {100 * r['kept']:.1f} |")


if __name__ == "__main__":
    app.run(main)
