# SPDX-License-Identifier: Apache-2.0
"""Output that follows a JSON schema, a regular expression or a grammar (extra `serve`).

The work is done by llguidance: it keeps a parser for each sequence and says which tokens may come
next, as a bit mask for `draw`.

    grammars = Grammars(tokenizer, cfg.vocab_size)
    matcher = grammars.json_schema({"type": "object", ...})
    tokens, rows = draw(logits, rows, weights, matcher.mask()[None])
    matcher.consume(int(tokens[0]))
"""

from __future__ import annotations

import json
from typing import Any

import numpy as np

from rwkvjax.tokenizers import Tokenizer

MAX_GRAMMAR_BYTES = 100_000
# One way to space JSON: with free white space a small model may draw it without end.
_JSON: Any = {"whitespace_flexible": False, "item_separator": ", ", "key_separator": ": "}


class GrammarError(ValueError):
    """The constraint cannot be compiled or used."""


class Matcher:
    """The place of one sequence in its grammar."""

    def __init__(self, matcher: Any, words: int):
        self._matcher, self._words = matcher, words

    def mask(self) -> np.ndarray:
        """[ceil(V / 32)] int32: bit i % 32 of word i // 32 says whether token i may come next.

        Raises:
          GrammarError: the grammar got too complex on the way.
        """
        words = np.zeros(self._words, np.int32)
        self._matcher.unsafe_compute_mask_ptr(words.ctypes.data, words.nbytes)
        self._check()
        return words

    def consume(self, token: int) -> None:
        """Takes the next token; GrammarError if it may not come here."""
        self._matcher.consume_token(token)
        self._check()

    @property
    def finished(self) -> bool:
        """Whether nothing may follow but the end."""
        return bool(self._matcher.is_stopped())

    def copy(self) -> Matcher:
        """An independent matcher at the same place."""
        return Matcher(self._matcher.deep_copy(), self._words)

    def _check(self) -> None:
        if self._matcher.is_error():
            raise GrammarError(str(self._matcher.get_error())[:500])


class _TokenTable:
    """A tokenizer as llguidance wants it."""

    def __init__(self, tokenizer: Tokenizer, end: int):
        self.eos_token_id, self.bos_token_id = end, None
        self.special_token_ids = [end]
        self._encode = tokenizer.encode_bytes
        self.tokens = [_bytes(tokenizer, i) for i in range(tokenizer.vocab_size)]
        self.tokens[end] = b"<|end|>"

    def __call__(self, text: bytes | str) -> list[int]:
        data = text.encode() if isinstance(text, str) else text
        return [int(i) for i in self._encode(data)]


def _bytes(tokenizer: Tokenizer, token: int) -> bytes:
    try:
        return tokenizer.decode_bytes([token])
    except ValueError:  # an id without a text
        return b""


class Grammars:
    """Compiles constraints for one tokenizer; may be shared between threads."""

    def __init__(self, tokenizer: Tokenizer, vocab_size: int):
        """Takes the model's tokenizer and its number of ids V; takes a second for 65536 tokens."""
        try:
            import llguidance
        except ImportError as error:
            raise ImportError(
                "constrained output needs llguidance: pip install 'rwkvjax[serve]'"
            ) from error
        if tokenizer.end_of_document is None:
            raise ValueError(f"the tokenizer {tokenizer.name!r} has no end-of-document id")
        self._lib = llguidance
        table = _TokenTable(tokenizer, tokenizer.end_of_document)
        wrapper = llguidance.TokenizerWrapper(table)
        self._tokenizer = llguidance.LLTokenizer(wrapper, n_vocab=vocab_size)
        self._words = -(-vocab_size // 32)

    def json_schema(self, schema: dict[str, Any] | bool) -> Matcher:
        """JSON on one line that a schema accepts; `{"type": "object"}` stands for any object."""
        try:
            text = json.dumps(schema)
            grammar = self._lib.LLMatcher.grammar_from_json_schema(text, _JSON)
        except (ValueError, TypeError, RecursionError) as error:
            raise GrammarError(f"not a JSON schema: {error}") from error
        return self._matcher(grammar, len(text))

    def regex(self, pattern: str) -> Matcher:
        """Text that a regular expression matches as a whole."""
        return self._matcher(self._lib.LLMatcher.grammar_from_regex(pattern), len(pattern))

    def lark(self, grammar: str) -> Matcher:
        """Text of a context-free grammar in Lark's notation, from its rule `start`."""
        return self._matcher(self._lib.LLMatcher.grammar_from_lark(grammar), len(grammar))

    def _matcher(self, grammar: str, size: int) -> Matcher:
        if size > MAX_GRAMMAR_BYTES:
            raise GrammarError(f"a constraint of {size} bytes, at most {MAX_GRAMMAR_BYTES}")
        matcher = self._lib.LLMatcher(self._tokenizer, grammar, log_level=0)
        if matcher.is_error():
            raise GrammarError(str(matcher.get_error())[:500])
        return Matcher(matcher, self._words)
