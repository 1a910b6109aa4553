# SPDX-License-Identifier: Apache-2.0
import json

import jax
import numpy as np
import pytest

pytest.importorskip("llguidance")

from rwkvjax import sampling  # noqa: E402
from rwkvjax.sampling import Sampling  # noqa: E402
from rwkvjax.sampling.constrained import GrammarError, Grammars  # noqa: E402
from rwkvjax.tokenizers import ByteTokenizer, get_tokenizer  # noqa: E402

_draw = jax.jit(sampling.draw)
SCHEMA = {
    "type": "object",
    "properties": {
        "name": {"type": "string", "maxLength": 8, "pattern": "^[a-zé]+$"},
        "kind": {"enum": ["cat", "dog"]},
    },
    "required": ["name", "kind"],
    "additionalProperties": False,
}


@pytest.fixture(scope="module", params=["byte", "world"])
def tokenizer(request):
    return ByteTokenizer() if request.param == "byte" else get_tokenizer("world")


def _random_text(tokenizer, matcher, seed, most=200):
    """Text drawn from random logits under a constraint."""
    vocab, text = tokenizer.vocab_size, []
    rng = np.random.default_rng(seed)
    rows = sampling.row(Sampling(1.0, 1.0), vocab, seed)
    ones = np.ones(vocab, np.float32)
    while not matcher.finished and len(text) < most:
        logits = rng.normal(size=(1, vocab)).astype(np.float32)
        tokens, rows = _draw(logits, rows, ones, matcher.mask()[None])
        matcher.consume(int(tokens[0]))
        if int(tokens[0]) == tokenizer.end_of_document:
            break
        text.append(int(tokens[0]))
    return tokenizer.decode_bytes(text).decode("utf-8")


def test_random_logits_still_give_valid_json(tokenizer):
    grammars = Grammars(tokenizer, tokenizer.vocab_size)
    start = grammars.json_schema(SCHEMA)
    for seed in range(3 if tokenizer.name == "byte" else 1):
        found = json.loads(_random_text(tokenizer, start.copy(), seed))
        assert set(found) == {"name", "kind"} and found["kind"] in ("cat", "dog")


def test_regex_and_grammar():
    tokenizer = ByteTokenizer()
    grammars = Grammars(tokenizer, 256)
    assert len(_random_text(tokenizer, grammars.regex("[ab]{5}"), 0)) == 5
    text = _random_text(tokenizer, grammars.lark('start: "(" start ")" | "x"'), 1)
    assert text.count("(") == text.count(")") and text.strip("()") == "x"


def test_masks_say_exactly_what_may_come():
    matcher = Grammars(ByteTokenizer(), 256).regex("a[bc]")
    allowed = lambda: np.flatnonzero(
        np.unpackbits(matcher.mask().view(np.uint8), bitorder="little")
    ).tolist()
    assert allowed() == [ord("a")]
    matcher.consume(ord("a"))
    assert allowed() == [ord("b"), ord("c")]
    with pytest.raises(GrammarError):
        matcher.consume(ord("z"))


def test_bad_constraints():
    grammars = Grammars(ByteTokenizer(), 256)
    for bad in (
        lambda: grammars.regex("("),
        lambda: grammars.regex("a" * 200_000),
        lambda: grammars.lark("start: nothing"),
        lambda: grammars.json_schema({"type": "nothing"}),
        lambda: grammars.json_schema({"$ref": "http://127.0.0.1/schema"}),
    ):
        with pytest.raises(GrammarError):
            bad()
