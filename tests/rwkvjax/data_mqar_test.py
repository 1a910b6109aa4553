# SPDX-License-Identifier: Apache-2.0
import numpy as np
import pytest

from rwkvjax.data.mqar import Recall


def test_every_question_has_its_answer_among_the_pairs():
    source = Recall(steps=48, pairs=6, vocab_size=64, size=50, seed=3)
    batch = source.get(np.arange(50))
    for tokens, mask in zip(batch["tokens"], batch["loss_mask"], strict=True):
        pairs = dict(zip(tokens[0:12:2], tokens[1:12:2], strict=True))
        assert len(pairs) == 6 and len(set(pairs.values())) == 6
        assert max(pairs) < 32 <= min(pairs.values())
        (asked,) = np.nonzero(mask)
        assert asked.min() >= 12 and set(tokens[asked]) == set(pairs)
        assert all(tokens[t + 1] == pairs[tokens[t]] for t in asked)
    assert batch["tokens"].shape == (50, 49) and not batch["reset"].any()


def test_examples_depend_on_seed_and_index_alone():
    source = Recall(steps=16, pairs=2, vocab_size=16, size=10)
    whole = source.get(np.arange(10))["tokens"]
    np.testing.assert_array_equal(source.get(np.array([7, 13]))["tokens"], whole[[7, 3]])
    other = Recall(steps=16, pairs=2, vocab_size=16, size=10, seed=1).get(np.arange(10))
    assert (other["tokens"] != whole).any()


@pytest.mark.parametrize(
    "bad", [{"pairs": 5}, {"pairs": 0}, {"vocab_size": 5}, {"size": 0}, {"power": 0.0}]
)
def test_bad_input(bad):
    with pytest.raises(ValueError):
        Recall(**{"steps": 16, "pairs": 2, "vocab_size": 16, **bad})
