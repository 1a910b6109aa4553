# SPDX-License-Identifier: Apache-2.0
"""The prefix cache against a list that is searched from end to end."""

import numpy as np
from hypothesis import given, settings
from hypothesis import strategies as st

from rwkvjax.serving import PrefixCache

_TOKENS = st.lists(st.integers(0, 2), min_size=1, max_size=6)
_ACTIONS = st.lists(
    st.tuples(st.sampled_from(["add", "find"]), st.integers(0, 1), _TOKENS), max_size=60
)


@settings(max_examples=200)
@given(_ACTIONS, st.integers(0, 400))
def test_equals_the_obvious_form(actions, budget):
    cache, entries = PrefixCache(budget), []  # entries: newest last, (variant, tokens, value)
    for number, (action, variant, tokens) in enumerate(actions):
        if action == "add":
            cache.add(variant, np.array(tokens), number, number, 20)
            if 20 + 4 * len(tokens) <= budget:
                entries = [e for e in entries if e[:2] != (variant, tokens)]
                entries.append((variant, tokens, number))
            while sum(20 + 4 * len(t) for _, t, _ in entries) > budget:
                entries.pop(0)
        else:
            fitting = [e for e in entries if e[0] == variant and e[1] == tokens[: len(e[1])]]
            found = cache.find(variant, np.array(tokens, np.int32))
            if not fitting:
                assert found is None
                continue
            best = max(fitting, key=lambda e: len(e[1]))
            assert list(found.tokens) == best[1] and found.state == best[2]
            entries.remove(best)
            entries.append(best)
        assert len(cache) == len(entries)
        assert cache.nbytes == sum(20 + 4 * len(t) for _, t, _ in entries) <= budget


def test_keeps_a_copy_of_the_tokens():
    cache, tokens = PrefixCache(1000), np.array([1, 2, 3], np.int32)
    cache.add("", tokens, "state", "logits", 10)
    tokens[:] = 0
    assert cache.find("", np.array([1, 2, 3, 4], np.int32)).state == "state"
