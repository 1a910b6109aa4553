# SPDX-License-Identifier: Apache-2.0
"""How much of a text's class its vector holds: logistic regression on embeddings and on TF-IDF.

    python -m benchmarks.embeddings --checkpoint=runs/wikitext2 --data=sms_spam
    python -m benchmarks.embeddings --checkpoint=finch.pth --data=subjectivity

For each pooling and layer, vectors of a training and a test part (drawn once from the set, as many
of each class) are computed with `rwkvjax.embedding`, standardised, and classified by scikit-learn's
logistic regression; its strength is chosen by cross-validation on the training part. The baselines
see the same texts: TF-IDF of words, TF-IDF of character n-grams (1 to 4), and the frequencies of
single characters (what a byte-level model could know without any order). Prints JSON lines and a
table.
"""

from __future__ import annotations

import csv
import gzip
import io
import json
import time
import zipfile
from collections.abc import Iterator
from typing import Any

import numpy as np
from absl import flags

from core import cli, files
from core.datasets import find_dataset
from rwkvjax.checkpoints import load_with_meta
from rwkvjax.embedding import Pooling, embed
from rwkvjax.model_flags import tokenizer_for

_FLAGS = flags.FlagValues()
flags.DEFINE_string("checkpoint", None, "A run or weights.", flag_values=_FLAGS, required=True)
flags.DEFINE_enum(
    "data", "sms_spam", ["sms_spam", "subjectivity", "polarity"], "Which set.", flag_values=_FLAGS
)
flags.DEFINE_integer("train", 800, "Training texts.", 20, flag_values=_FLAGS)
flags.DEFINE_integer("test", 390, "Test texts.", 20, flag_values=_FLAGS)
flags.DEFINE_list(
    "poolings", ["mean", "last", "shift", "state"], "What to try.", flag_values=_FLAGS
)
flags.DEFINE_list("layers", ["1", "0"], "Layers to try; 0 is the last.", flag_values=_FLAGS)
flags.DEFINE_string("output", "", "Also write the JSON lines here.", flag_values=_FLAGS)


def read_set(name: str) -> tuple[list[str], list[str]]:
    """Texts of the two classes."""
    if name == "sms_spam":
        path = find_dataset("sms_spam") / "sms_spam_train.tsv.gz"
        with gzip.open(path, "rt", encoding="utf-8", newline="") as file:
            rows = list(csv.reader(file, delimiter="\t"))[1:]
        return [r[1] for r in rows if r[2] != "spam"], [r[1] for r in rows if r[2] == "spam"]
    endings = {
        "subjectivity": ("plot.tok.gt9.5000", "quote.tok.gt9.5000"),
        "polarity": ("rt-polarity.neg", "rt-polarity.pos"),
    }[name]
    source = {"subjectivity": "subjectivity.zip", "polarity": "sentence_polarity.zip"}[name]
    with zipfile.ZipFile(find_dataset("pang_lee") / source) as archive:
        found = [next(n for n in archive.namelist() if n.endswith(e)) for e in endings]
        first, second = (
            [line.strip() for line in io.TextIOWrapper(archive.open(n), "latin-1") if line.strip()]
            for n in found
        )
    return first, second


def split(name: str, train: int, test: int) -> tuple[list[str], np.ndarray, list[str], np.ndarray]:
    """(training texts, labels, test texts, labels), classes in equal parts, duplicates removed."""
    rng = np.random.default_rng(0)
    parts: list[list[Any]] = [[], [], [], []]
    for label, texts in enumerate(read_set(name)):
        texts = sorted(set(texts))
        if len(texts) < train // 2 + test // 2:
            raise cli.UserError(f"{name} has only {len(texts)} texts of class {label}")
        chosen = [texts[i] for i in rng.permutation(len(texts))]
        cut = train // 2
        for place, some in ((0, chosen[:cut]), (2, chosen[cut : cut + test // 2])):
            parts[place] += some
            parts[place + 1] += [label] * len(some)
    return parts[0], np.array(parts[1]), parts[2], np.array(parts[3])


def classify(x: Any, y: np.ndarray, x_test: Any, y_test: np.ndarray) -> tuple[float, float]:
    """(accuracy on the test part, cross-validated accuracy on the training part)."""
    from sklearn.linear_model import LogisticRegression
    from sklearn.model_selection import GridSearchCV
    from sklearn.pipeline import make_pipeline
    from sklearn.preprocessing import StandardScaler

    steps = [] if not isinstance(x, np.ndarray) else [StandardScaler()]
    pipeline = make_pipeline(*steps, LogisticRegression(max_iter=2000))
    grid = {"logisticregression__C": [1e-3, 1e-2, 0.1, 1.0, 10.0, 100.0]}
    search = GridSearchCV(pipeline, grid, cv=5).fit(x, y)
    return float(search.score(x_test, y_test)), float(search.best_score_)


def baselines(texts: list[str], tests: list[str]) -> Iterator[tuple[str, Any, Any]]:
    """(name, training features, test features)."""
    from sklearn.feature_extraction.text import TfidfVectorizer

    words = TfidfVectorizer(sublinear_tf=True)
    characters = TfidfVectorizer(analyzer="char", ngram_range=(1, 4), sublinear_tf=True)
    single = TfidfVectorizer(analyzer="char", use_idf=False, norm="l1")
    for name, tool in (("words", words), ("characters 1-4", characters), ("one character", single)):
        x, x_test = tool.fit_transform(texts), tool.transform(tests)
        dense = name == "one character"
        yield (
            f"TF-IDF {name}" if not dense else "character frequencies",
            *((x.toarray(), x_test.toarray()) if dense else (x, x_test)),
        )


def main(values: flags.FlagValues) -> None:
    """Measures everything and prints it."""
    with cli.explain():
        cfg, params, meta = load_with_meta(values.checkpoint)
        tokenizer = tokenizer_for(cfg, meta)
        texts, y, tests, y_test = split(values.data, values.train, values.test)
    results = []

    def record(name: str, size: int, seconds: float, scores: tuple[float, float]) -> None:
        results.append(
            {
                **{"data": values.data, "features": name, "dimensions": size},
                **{"accuracy": scores[0], "cross_validated": scores[1]},
                **{"train": len(texts), "test": len(tests), "embed_cpu_seconds": round(seconds, 1)},
            }
        )
        print(json.dumps(results[-1]), flush=True)

    for name, x, x_test in baselines(texts, tests):
        record(name, x.shape[1], 0.0, classify(x, y, x_test, y_test))
    ids = [tokenizer.encode(text) for text in texts + tests]
    for layer in map(int, values.layers):
        for kind in values.poolings:
            how = Pooling(kind, layer)
            start = time.process_time()
            vectors = embed(params, cfg, ids, how)
            seconds = time.process_time() - start
            x, x_test = vectors[: len(texts)], vectors[len(texts) :]
            name = f"{kind}, layer {how.depth(cfg)} of {cfg.layers}"
            record(name, how.size(cfg), seconds, classify(x, y, x_test, y_test))
    if values.output:
        files.write_text(values.output, "".join(json.dumps(r) + "\n" for r in results))
    print("\n| features | dimensions | accuracy | cross-validated |\n|---|---|---|---|")
    for r in results:
        print(
            f"| {r['features']} | {r['dimensions']} | {100 * r['accuracy']:.1f} %"
            f" | {100 * r['cross_validated']:.1f} % |"
        )


if __name__ == "__main__":
    cli.program(main, _FLAGS, __doc__ or "")
