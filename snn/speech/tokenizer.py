# SPDX-License-Identifier: Apache-2.0
"""From transcripts to labels and back: characters, words, phones, or subwords.

Label 0 is the blank, which no transcript holds; symbol i is label i + 1. A tokenizer is stored
with the checkpoint as a plain dict (`describe`, `restore`). Subwords come from sentencepiece
(extra `speech`).
"""

from __future__ import annotations

import base64
import dataclasses
import gzip
import io
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

from core.datasets import find_dataset

KINDS = ("characters", "words", "phones", "subwords")
SPACE = " "
_PIECE_SPACE = "\N{LOWER ONE EIGHTH BLOCK}"  # what sentencepiece writes for a space


class TokenError(ValueError):
    """A transcript that cannot be written with the symbols there are."""


def normalised(text: str) -> str:
    """One space between words, none at the ends."""
    return " ".join(text.split())


@dataclasses.dataclass(frozen=True)
class Tokenizer:
    """Symbols of a kind, in the order of their labels.

    Attributes:
      kind: one of `KINDS`.
      symbols: symbols without the blank.
      lexicon: phones of each word (kind "phones").
      model: serialised sentencepiece model (kind "subwords").
    """

    kind: str
    symbols: tuple[str, ...]
    lexicon: Mapping[str, tuple[str, ...]] = dataclasses.field(default_factory=dict, compare=False)
    model: bytes = b""

    def __post_init__(self) -> None:
        if self.kind not in KINDS:
            raise ValueError(f"kind must be one of {KINDS}, got {self.kind!r}")
        if not self.symbols or len(set(self.symbols)) != len(self.symbols):
            raise ValueError(f"expected distinct symbols, got {self.symbols}")
        index = {symbol: i + 1 for i, symbol in enumerate(self.symbols)}
        object.__setattr__(self, "_index", index)
        if self.kind == "subwords":
            object.__setattr__(
                self, "_pieces", _sentencepiece().SentencePieceProcessor(model_proto=self.model)
            )

    @property
    def size(self) -> int:
        """Number of labels with the blank."""
        return len(self.symbols) + 1

    def encode(self, text: str, where: str = "transcript") -> list[int]:
        """Labels of a transcript; [] for an empty one.

        Raises:
          TokenError: names what is unknown, and `where`.
        """
        text = normalised(text)
        if self.kind == "subwords":
            labels = [i + 1 for i in self._pieces.encode(text)]  # type: ignore[attr-defined]
            if self._pieces.unk_id() + 1 in labels:  # type: ignore[attr-defined]
                raise TokenError(f"{where}: {text!r} holds characters the subwords do not know")
            return labels
        units = self._units(text, where)
        known: dict[str, int] = self._index  # type: ignore[attr-defined]
        unknown = sorted({u for u in units if u not in known})
        if unknown:
            raise TokenError(
                f"{where}: unknown {self.kind} {unknown} in {text!r}; known:"
                f" {' '.join(self.symbols[:60])}"
            )
        return [known[u] for u in units]

    def _units(self, text: str, where: str) -> Sequence[str]:
        if self.kind == "characters":
            return text
        if self.kind == "words":
            return text.split()
        missing = sorted({w for w in text.split() if w.upper() not in self.lexicon})
        if missing:
            raise TokenError(f"{where}: no pronunciation of {missing} in the lexicon")
        return [phone for word in text.split() for phone in self.lexicon[word.upper()]]

    def decode(self, labels: Iterable[int]) -> str:
        """Text of labels (phones stay phones, one space between them)."""
        pieces = [self.symbols[i - 1] for i in labels]
        if self.kind == "subwords":
            return normalised("".join(pieces).replace(_PIECE_SPACE, SPACE))
        return normalised(("" if self.kind == "characters" else SPACE).join(pieces))

    def words(self, labels: Sequence[int]) -> list[tuple[str, int, int]]:
        """(word, first, last) of each word: positions of its first and last label."""
        words: list[tuple[str, int, int]] = []
        opened = False  # whether the next symbol goes on with the last word
        for position, label in enumerate(labels):
            symbol = self.symbols[label - 1]
            if self.kind in ("words", "phones"):
                words.append((symbol, position, position))
                continue
            starts = symbol.startswith((SPACE, _PIECE_SPACE))
            text = symbol.strip(SPACE + _PIECE_SPACE)
            opened = opened and not starts
            if text and opened:
                word, first, _ = words[-1]
                words[-1] = (word + text, first, position)
            elif text:
                words.append((text, position, position))
                opened = True
        return words

    def describe(self) -> dict[str, Any]:
        """A plain dict for JSON; see `restore`."""
        return {
            "kind": self.kind,
            "symbols": list(self.symbols),
            "lexicon": {word: list(phones) for word, phones in self.lexicon.items()},
            "model": base64.b64encode(self.model).decode("ascii"),
        }


def restore(values: Mapping[str, Any]) -> Tokenizer:
    """The tokenizer of `Tokenizer.describe`."""
    return Tokenizer(
        values["kind"],
        tuple(values["symbols"]),
        {word: tuple(phones) for word, phones in values.get("lexicon", {}).items()},
        base64.b64decode(values.get("model", "")),
    )


def _sentencepiece() -> Any:
    try:
        import sentencepiece
    except ImportError as error:
        raise ImportError("subwords need sentencepiece: pip install 'rwkvjax[speech]'") from error
    return sentencepiece


def build(kind: str, texts: Sequence[str], size: int = 0, further: Sequence[str] = ()) -> Tokenizer:
    """The tokenizer of training transcripts.

    Args:
      kind: one of `KINDS`.
      texts: transcripts.
      size: number of subwords.
      further: transcripts of other parts, whose words the lexicon of phones holds as well.

    Raises:
      ValueError: no text, or too little of it for so many subwords.
    """
    texts = [normalised(t) for t in texts if t.strip()]
    if not texts:
        raise ValueError("a tokenizer needs at least one transcript that is not empty")
    if kind == "characters":
        return Tokenizer(kind, tuple(sorted({c for t in texts for c in t})))
    words = sorted({w for t in texts for w in t.split()})
    if kind == "words":
        return Tokenizer(kind, tuple(words))
    if kind == "phones":
        lexicon = read_cmudict({*words, *(w for t in further for w in t.split())})
        spoken = [lexicon[w.upper()] for w in words if w.upper() in lexicon]
        if not spoken:
            raise TokenError(f"no pronunciation of {words[:10]} in the CMU dictionary")
        return Tokenizer(kind, tuple(sorted({p for ps in spoken for p in ps})), lexicon)
    if kind != "subwords":
        raise ValueError(f"kind must be one of {KINDS}, got {kind!r}")
    trained = io.BytesIO()
    try:
        _sentencepiece().SentencePieceTrainer.train(
            sentence_iterator=iter(texts),
            model_writer=trained,
            vocab_size=size,
            model_type="bpe",
            character_coverage=1.0,
            bos_id=-1,
            eos_id=-1,
            minloglevel=2,
        )
    except RuntimeError as error:
        raise ValueError(f"no {size} subwords from {len(texts)} transcripts: {error}") from error
    model = trained.getvalue()
    pieces = _sentencepiece().SentencePieceProcessor(model_proto=model)
    symbols = tuple(pieces.id_to_piece(i) for i in range(pieces.get_piece_size()))
    return Tokenizer(kind, symbols, model=model)


def read_cmudict(words: Iterable[str], path: Path | None = None) -> dict[str, tuple[str, ...]]:
    """First pronunciation of each word that the CMU dictionary has, without stress.

    Raises:
      FileNotFoundError: no dictionary on this machine.
    """
    wanted = {w.upper() for w in words}
    found: dict[str, tuple[str, ...]] = {}
    with gzip.open(path or find_dataset("cmudict") / "cmudict.gz", "rt", encoding="latin-1") as f:
        for line in f:
            word, _, *phones = line.split()
            if word in wanted and word not in found:
                found[word] = tuple(p.rstrip("012") for p in phones)
    return found
