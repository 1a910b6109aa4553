# SPDX-License-Identifier: Apache-2.0
"""From a heap of texts to packages for annotators: clean, cluster, balance, package.

Texts are cleaned, their wanted tasks predicted, *distinct* task vectors clustered, and balanced
batches drawn from the clusters without ever reusing a text. So far the tool (`plan_round`,
nlp.acquire) goes, which asks single (text, task) pairs.

What it does not use is for projects of one's own: batches grouped into packages, of which all texts
are asked the union of their tasks (`packages`), articles with their comments (`article_package`,
`article_vector`, the filter `PARAGRAPHS`), tasks that follow others (`with_conditions`), and the
choice of the number of clusters (`choose_clusters`).
"""

from __future__ import annotations

import dataclasses
import re
from collections.abc import Callable, Iterable, Mapping, Sequence

import numpy as np

_LINK = re.compile(r"https?://|www\.", re.I)
_SEE_ALSO = re.compile(r"\b(?:see also|zobacz te[zż]|czytaj te[zż])\b", re.I)
_LAUGHTER = re.compile(r"^(?:[hax]{2,}|(?:ha|he|hi|ho|lo)+l?|lol|rotfl|xd+|[^\w]+)$", re.I)
_WORD = re.compile(r"[^\W\d_]+", re.UNICODE)


@dataclasses.dataclass(frozen=True)
class Cleaning:
    """Which texts may be annotated.

    Attributes:
      min_words: fewer than this are refused ("more than 5" paragraphs, "more than 4" comments).
      max_colons: of paragraphs, which are not lists. -1 allows any.
      links, see_also: whether texts may hold links or pointers to other articles.
      laughter: whether texts may be nothing but laughter, or nearly so: of comments at least three
        words of four letters or more, fewer than half of the words made of at most two different
        characters, no word that fills half of the text.
      letters: only these letters may occur ("" allows all alphabets).
    """

    min_words: int = 5
    max_colons: int = -1
    links: bool = True
    see_also: bool = True
    laughter: bool = False
    letters: str = ""

    def accepts(self, text: str) -> bool:
        """Whether a text passes all filters."""
        words = text.split()
        if len(words) < self.min_words:
            return False
        if 0 <= self.max_colons < text.count(":"):
            return False
        if not self.links and _LINK.search(text) or not self.see_also and _SEE_ALSO.search(text):
            return False
        if self.letters:
            allowed = set(self.letters.lower())
            if any(c.isalpha() and c not in allowed for c in text.lower()):
                return False
        return self.laughter or not _is_noise(words)


PARAGRAPHS = Cleaning(6, 1, False, False, True)
COMMENTS = Cleaning(5)


def _is_noise(words: Sequence[str]) -> bool:
    if all(_LAUGHTER.match(word) for word in words):
        return True
    if sum(len(word) >= 4 for w in words for word in _WORD.findall(w)) < 3:
        return True
    if sum(len(set(word.lower())) <= 2 for word in words) * 2 >= len(words):
        return True
    total = sum(map(len, words))
    return max(map(len, words)) * 2 >= total


def clean(texts: Iterable[str], how: Cleaning = COMMENTS) -> list[int]:
    """Indices of the texts that pass; of equal texts the first."""
    seen: set[str] = set()
    kept = []
    for i, text in enumerate(texts):
        if text not in seen and how.accepts(text):
            seen.add(text)
            kept.append(i)
    return kept


def water_fill(capacities: Sequence[int], total: int) -> list[int]:
    """Balanced sizes of draws from clusters: the common level is raised until `total` is used up.

    Clusters in ascending order of capacity; with a budget M left and n clusters, each gets M // n,
    or all that it has. (3, 10, 50) and 31 give (3, 10, 18).
    """
    if total < 0 or min(capacities, default=0) < 0:
        raise ValueError(f"expected numbers that are not negative, got {capacities} and {total}")
    sizes = [0] * len(capacities)
    left = total
    order = sorted(range(len(capacities)), key=lambda i: capacities[i])
    for place, i in enumerate(order):
        sizes[i] = min(capacities[i], left // (len(order) - place))
        left -= sizes[i]
    return sizes


def cluster_vectors(wanted: np.ndarray, clusters: int, seed: int = 0) -> np.ndarray:
    """Cluster of each text [X] by mini-batch k-means over *distinct* task vectors [X, L].

    With no more distinct vectors than clusters, each distinct vector is a cluster.
    """
    from sklearn.cluster import MiniBatchKMeans

    if clusters < 1:
        raise ValueError(f"clusters must be at least 1, got {clusters}")
    distinct, of_text = np.unique(np.asarray(wanted, np.float64), axis=0, return_inverse=True)
    of_text = of_text.reshape(-1)
    if len(distinct) <= clusters:
        return of_text
    means = MiniBatchKMeans(clusters, random_state=seed, n_init=3, batch_size=1024)
    return means.fit_predict(distinct)[of_text]


def balanced_draw(
    cluster: np.ndarray, total: int, used: Iterable[int] = (), seed: int = 0
) -> list[int]:
    """Texts drawn evenly from clusters, none of them used before.

    Args:
      cluster: of each text [X].
      total: how many texts; fewer if there are no more.
      used: texts that were drawn before.
      seed: of the draw.
    """
    rng = np.random.default_rng(seed)
    free = np.ones(len(cluster), bool)
    free[list(used)] = False
    names = np.unique(cluster)
    pools = [rng.permutation(np.flatnonzero(free & (cluster == name))) for name in names]
    sizes = water_fill([len(pool) for pool in pools], min(total, int(free.sum())))
    return [int(i) for pool, size in zip(pools, sizes, strict=True) for i in pool[:size]]


@dataclasses.dataclass(frozen=True)
class Package:
    """Texts that one annotator gets together, and the tasks that are asked of each of them."""

    texts: tuple[int, ...]
    tasks: tuple[int, ...]


def packages(
    texts: Sequence[int], wanted: np.ndarray, cluster: np.ndarray, size: int = 20
) -> list[Package]:
    """Packages of texts of one cluster; tasks are the union of what their texts want.

    Args:
      texts: which texts.
      wanted: predicted task vectors, bool [X, L].
      cluster: of each text [X].
      size: texts in a package; the last one of a cluster may be smaller.
    """
    if size < 1:
        raise ValueError(f"size must be at least 1, got {size}")
    made = []
    for name in sorted({int(cluster[i]) for i in texts}):
        own = [i for i in texts if cluster[i] == name]
        for start in range(0, len(own), size):
            part = own[start : start + size]
            tasks = np.flatnonzero(wanted[part].any(axis=0))
            made.append(Package(tuple(part), tuple(int(t) for t in tasks)))
    return made


def article_vector(paragraphs: np.ndarray) -> np.ndarray:
    """What an article wants: the union of its paragraphs [P, L] -> [L]."""
    return np.asarray(np.asarray(paragraphs, bool).any(axis=0))


def article_package(
    paragraphs: Sequence[int], comments: Sequence[int], wanted: np.ndarray, count: int = 10
) -> Package | None:
    """An article with all its paragraphs (3 to 10) and its first `count` comments, or None."""
    if not 3 <= len(paragraphs) <= 10 or len(comments) < count:
        return None
    texts = [*paragraphs, *comments[:count]]
    tasks = np.flatnonzero(wanted[texts].any(axis=0))
    return Package(tuple(texts), tuple(int(t) for t in tasks))


def with_conditions(
    asked: np.ndarray, names: Sequence[str], conditions: Mapping[str, str]
) -> np.ndarray:
    """Tasks that follow others: each key is asked exactly where its value is asked.

    For instance {"offends me": "may offend someone"}. bool [X, L] -> bool [X, L].
    """
    result = np.array(asked, bool)
    index = {name: i for i, name in enumerate(names)}
    for task, leader in conditions.items():
        if task not in index or leader not in index:
            raise ValueError(f"condition {task!r} -> {leader!r}: known tasks are {list(names)}")
        result[:, index[task]] = result[:, index[leader]]
    return result


def choose_clusters(
    wanted: np.ndarray,
    candidates: Sequence[int],
    report: Callable[[int, float, float], None] = lambda k, silhouette, inertia: None,
    seed: int = 0,
) -> int:
    """The number of clusters with the best silhouette over distinct vectors.

    Args:
      wanted: [X, L].
      candidates: numbers to try; those that the distinct vectors allow.
      report: receives (k, silhouette, inertia).
      seed: of the clustering.

    Raises:
      ValueError: no candidate is between 2 and the number of distinct vectors less one.
    """
    from sklearn.cluster import MiniBatchKMeans
    from sklearn.metrics import silhouette_score

    distinct = np.unique(np.asarray(wanted, np.float64), axis=0)
    found: dict[int, float] = {}
    for k in candidates:
        if 2 <= k < len(distinct):
            means = MiniBatchKMeans(k, random_state=seed, n_init=3, batch_size=1024).fit(distinct)
            if len(set(means.labels_)) > 1:
                found[k] = float(silhouette_score(distinct, means.labels_))
                report(k, found[k], float(means.inertia_))
    if not found:
        raise ValueError(f"{len(distinct)} distinct vectors allow none of {list(candidates)}")
    return max(found, key=lambda k: found[k])
