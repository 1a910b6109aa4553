# SPDX-License-Identifier: Apache-2.0
"""Magic primes and window order against published numbers and the reference trainer."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from rwkvjax.data import magic_prime as mp


@pytest.mark.parametrize(
    ("tokens", "ctx", "prime"),
    [
        (1498226207, 512, 2926181),  # MiniPile, RWKV-LM demo-training-run.sh
        (1498226207, 4096, 365759),
        (332115325534, 4096, 81082817),  # the Pile, RWKV-LM dataset.py
        (200499, 512, 389),  # BlinkDL/RWKV-LM issue 216
    ],
)
def test_published_magic_primes(tokens, ctx, prime):
    assert mp.magic_prime(tokens, ctx) == prime
    mp.check_magic_prime(prime, tokens, ctx)


# Window starts printed by the reference trainer's data set class (RWKV-LM 524481d,
# RWKV-v5/src/dataset.py) for (mini epoch, index, world size, rank).
SAMPLES = [
    (0, 0, 1, 0),
    (0, 1, 1, 0),
    (0, 2, 1, 0),
    (0, 0, 4, 3),
    (3, 1000, 8, 5),
    (700, 5039, 8, 7),
    (10**7, 5, 8, 1),
]
REFERENCE_STARTS = {
    (2926181, 512): [
        925941248,
        1414711296,
        1029138944,
        830257664,
        1325016576,
        1150729728,
        896920576,
    ],
    (365759, 4096): [
        925904896,
        1414643712,
        1029050368,
        830107648,
        1036943360,
        1238888448,
        672591872,
    ],
    (81082817, 4096): [
        205258489856,
        313607045120,
        228135731200,
        184049831936,
        40671551488,
        95420362752,
        204266364928,
    ],
    (389, 512): [122880, 186368, 131072, 96768, 2560, 188928, 116224],
}


@pytest.mark.parametrize(("prime", "ctx"), REFERENCE_STARTS)
def test_window_starts_of_the_reference_trainer(prime, ctx):
    # The trainer's sample number.
    samples = [1 + epoch * 40320 + index * world + rank for epoch, index, world, rank in SAMPLES]
    expected = REFERENCE_STARTS[prime, ctx]
    assert [mp.window_start(sample, prime, ctx) for sample in samples] == expected
    np.testing.assert_array_equal(mp.window_starts(np.array(samples), prime, ctx), expected)


def slow_is_prime(number):
    return number > 1 and all(number % d for d in range(2, int(number**0.5) + 1))


def test_primality_against_trial_division():
    assert [n for n in range(5000) if mp.is_prime(n)] == [
        n for n in range(5000) if slow_is_prime(n)
    ]


@pytest.mark.parametrize(
    ("number", "prime"),
    [
        (2**31 - 1, True),
        (2**61 - 1, True),
        (3215031751, False),
        (3825123056546413051, False),
        (318665857834031151167461, False),
        ((2**31 - 1) * (2**19 - 1), False),
    ],
)
def test_primality_of_known_hard_cases(number, prime):
    assert mp.is_prime(number) is prime  # the composites fool Miller-Rabin with fewer bases


@given(st.integers(3, 400), st.integers(1, 9))
def test_every_chunk_once_in_p_samples(chunks, ctx):
    prime = mp.magic_prime(chunks * ctx, ctx)
    assert prime <= chunks - 1
    starts = mp.window_starts(np.arange(1, prime + 1), prime, ctx)
    np.testing.assert_array_equal(np.sort(starts), np.arange(prime) * ctx)
    assert starts.max() + ctx + 1 <= chunks * ctx


@given(
    st.lists(st.integers(0, 2**63 - 1), min_size=1, max_size=20),
    st.sampled_from([2, 5, 389, 2926181, 4294967291, 4294967357, 1000000000000000003]),
)
def test_vector_form_is_exact(samples, prime):
    # 4294967291 is the largest prime of the fast path; any modulus shows whether it overflows.
    ctx = 2 if prime > 2**40 else 4096
    expected = [mp.window_start(sample, prime, ctx) for sample in samples]
    assert mp.window_starts(np.array(samples), prime, ctx).tolist() == expected


def test_errors():
    with pytest.raises(ValueError, match="needs at least 1536 tokens, got 1535"):
        mp.magic_prime(1535, 512)
    with pytest.raises(ValueError, match="ctx must be at least 1, got 0"):
        mp.magic_prime(10, 0)
    for wrong in (391, 379, 1, -5):  # 17 x 23; 379 mod 3 = 1
        with pytest.raises(ValueError, match="remainder 2 modulo 3"):
            mp.check_magic_prime(wrong, 200499, 512)
    with pytest.raises(ValueError, match="between 0.9 and 1 times the 391 chunks"):
        mp.check_magic_prime(347, 200499, 512)
    with pytest.raises(ValueError, match="one more token at the end"):
        mp.check_magic_prime(389, 389 * 512, 512)
    with pytest.raises(ValueError, match="proved only below"):
        mp.is_prime(10**25)
    with pytest.raises(ValueError, match="not be negative"):
        mp.window_starts(np.array([-1]), 389, 512)
