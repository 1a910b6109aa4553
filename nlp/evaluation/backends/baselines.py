# SPDX-License-Identifier: Apache-2.0
"""Classical baselines that every table shows: majority, random, TF-IDF with logistic regression.

They learn from the training items and answer through the same prompts' answer format, parser and
scores as a language model.
"""

from __future__ import annotations

import collections
import hashlib
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np

from nlp.evaluation import tasks
from nlp.evaluation.records import Item
from nlp.evaluation.tasks import Task

Predict = Callable[[Item], tuple[str, ...]]


def answers(
    task: Task, train: Sequence[Item], test: Sequence[Item], seed: int = 0, most: int = 5_000
) -> dict[str, list[str]]:
    """Answers of every baseline that the task allows, for each test item.

    Args:
      task: with a fixed label set; for others there are no baselines.
      train: items to learn from. Without any, only "random" is given: a majority or a model taken
        from the asked items would have seen the gold.
      test: items to answer.
      seed: of random answers.
      most: learn from at most this many items (the first ones).

    Returns:
      Baseline name -> texts of answers.
    """
    if task.answer not in ("one", "many", "ranked"):
        return {}
    found = {"random": _random(task, train, seed)}
    if train:
        train = train[:most]
        found["majority"] = _majority(task, train)
        if task.personal:
            found["annotator majority"] = _annotator_majority(task, train)
        found |= _linear(task, train, test)
    return {
        name: [tasks.answer_text(task, predict(item)) for item in test]
        for name, predict in found.items()
    }


def _counts(task: Task, items: Sequence[Item]) -> collections.Counter[str]:
    counts = collections.Counter(label for item in items for label in item.labels)
    return collections.Counter({label: counts[label] for label in task.labels})


def _frequent(task: Task, items: Sequence[Item]) -> tuple[str, ...]:
    """The most frequent label, of several the first ones; for "many" the labels of most items."""
    ordered = [label for label, _ in _counts(task, items).most_common()]
    if task.answer == "many":
        counts = _counts(task, items)
        usual = tuple(label for label in task.labels if 2 * counts[label] > len(items))
        return usual or tuple(ordered[:1])
    return tuple(ordered[: task.asked if task.answer == "ranked" else 1])


def _majority(task: Task, train: Sequence[Item]) -> Predict:
    usual = _frequent(task, train)
    return lambda item: usual


def _annotator_majority(task: Task, train: Sequence[Item]) -> Predict:
    """What each annotator usually says: knows the person and not the text."""
    own: dict[str, list[Item]] = {}
    for item in train:
        own.setdefault(item.annotator, []).append(item)
    usual = {name: _frequent(task, items) for name, items in own.items()}
    overall = _frequent(task, train)
    return lambda item: usual.get(item.annotator, overall)


def _random(task: Task, train: Sequence[Item], seed: int) -> Predict:
    """Uniform labels; for "many" each label with its share of the training items (or one of n)."""
    n = len(task.labels)
    counts = _counts(task, train)
    rates = np.array([counts[x] / len(train) if train else 1 / n for x in task.labels])

    def draw(item: Item) -> tuple[str, ...]:
        name = f"{seed}\0{task.id}\0{item.id}".encode()
        rng = np.random.default_rng(list(hashlib.sha256(name).digest()))
        if task.answer == "many":
            chosen = np.flatnonzero(rng.random(n) < rates)
            if not len(chosen) and not task.may_be_empty:
                chosen = rng.integers(0, n, 1)
            return tuple(task.labels[i] for i in chosen)
        order = rng.permutation(n)[: task.asked if task.answer == "ranked" else 1]
        return tuple(task.labels[i] for i in order)

    return draw


def _linear(task: Task, train: Sequence[Item], test: Sequence[Item]) -> dict[str, Predict]:
    """TF-IDF of words and word pairs with logistic regression, with and without the annotator."""
    try:
        from sklearn.feature_extraction.text import TfidfVectorizer
        from threadpoolctl import threadpool_limits
    except ImportError as error:
        raise ImportError("baselines need scikit-learn: pip install 'rwkvjax[nlp]'") from error
    vectorizer = TfidfVectorizer(ngram_range=(1, 2), min_df=2, sublinear_tf=True)
    with threadpool_limits(1):  # many small products: threads would only wait for each other
        return _linear_models(task, train, test, vectorizer)


def _linear_models(
    task: Task, train: Sequence[Item], test: Sequence[Item], vectorizer: Any
) -> dict[str, Predict]:
    try:
        features = vectorizer.fit_transform([_text(item) for item in train])
    except ValueError:  # nothing left after pruning
        return {}
    asked = vectorizer.transform([_text(item) for item in test])
    found = {"tf-idf": _fit(task, train, features, test, asked)}
    if task.personal:
        from scipy.sparse import hstack
        from sklearn.preprocessing import OneHotEncoder

        people = OneHotEncoder(handle_unknown="ignore")
        known = people.fit_transform([[item.annotator] for item in train])
        both = hstack([features, known]).tocsr()
        new = hstack([asked, people.transform([[item.annotator] for item in test])]).tocsr()
        found["tf-idf + annotator"] = _fit(task, train, both, test, new)
    return found


def _text(item: Item) -> str:
    return "\n".join(item.fields.values())


def _fit(
    task: Task, train: Sequence[Item], x: object, test: Sequence[Item], asked: object
) -> Predict:
    from sklearn.linear_model import LogisticRegression

    def model() -> LogisticRegression:
        return LogisticRegression(C=1.0, class_weight="balanced", max_iter=1000)

    if task.answer == "many":
        margins = np.stack([_margin(model, x, train, asked, label) for label in task.labels], 1)
        said = margins > 0
        if not task.may_be_empty:  # at least one label is asked for: the nearest
            said[np.arange(len(test)), margins.argmax(1)] = True
        chosen = {
            item.id: tuple(label for label, yes in zip(task.labels, row, strict=True) if yes)
            for item, row in zip(test, said, strict=True)
        }
        return lambda item: chosen[item.id]
    y = np.array([item.labels[0] for item in train])
    if len(set(y)) < 2:
        return lambda item: (str(y[0]),)
    fitted = model().fit(x, y)
    order = np.argsort(-np.asarray(fitted.predict_proba(asked)), axis=1)
    keep = task.asked if task.answer == "ranked" else 1
    best = {
        item.id: tuple(str(fitted.classes_[i]) for i in row[:keep])
        for item, row in zip(test, order, strict=True)
    }
    return lambda item: best[item.id]


def _margin(
    model: Callable[[], Any], x: Any, train: Sequence[Item], asked: Any, label: str
) -> np.ndarray:
    """Signed distance of the asked texts from a label's boundary, [N]; above 0 it applies."""
    y = np.array([label in item.labels for item in train])
    if y.all() or not y.any():
        return np.full(asked.shape[0], 1e9 if y.all() else -1e9)
    return np.asarray(model().fit(x, y).decision_function(asked))
