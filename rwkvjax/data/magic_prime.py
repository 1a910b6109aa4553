# SPDX-License-Identifier: Apache-2.0
"""The order in which RWKV's trainer reads a token file ("magic prime" sampling).

The file is cut into chunks of ctx tokens; p is the largest prime with p mod 3 = 2 below the
number of chunks. Sample number s = 1, 2, 3, ... reads the window of ctx + 1 tokens at token

  ((f s^3) mod p) ctx,    f = floor(p (sqrt 5 - 1) / 2).

Cubing is a bijection modulo p because gcd(3, p - 1) = 1, so p successive samples visit each of
the chunks 0 ... p - 1 once, and nobody has to store a permutation. The order is the same in every
epoch. Reference: RWKV-LM, `RWKV-v5/src/dataset.py`, `compute_magic_prime.py`.
"""

from __future__ import annotations

import math

import numpy as np

# Miller-Rabin with these bases is a proof below 3.3e24 (J. Sorenson, J. Webster, "Strong
# pseudoprimes to twelve prime bases", Mathematics of Computation 86, 2017).
_BASES = (2, 3, 5, 7, 11, 13, 17, 19, 23, 29, 31, 37, 41)
_PROVEN_BELOW = 3317044064679887385961981
# Products of two residues below this stay below 2**64.
_VECTOR_LIMIT = 1 << 32


def is_prime(number: int) -> bool:
    """Whether `number` is prime, proved; ValueError above 3.3e24, where the proof ends."""
    if number >= _PROVEN_BELOW:
        raise ValueError(f"is_prime is proved only below {_PROVEN_BELOW}, got {number}")
    if number < 2:
        return False
    if any(number % base == 0 for base in _BASES):
        return number in _BASES
    odd, twos = number - 1, 0
    while odd % 2 == 0:
        odd, twos = odd // 2, twos + 1
    return all(_passes(number, base, odd, twos) for base in _BASES)


def _passes(number: int, base: int, odd: int, twos: int) -> bool:
    value = pow(base, odd, number)
    if value in (1, number - 1):
        return True
    for _ in range(twos - 1):
        value = value * value % number
        if value == number - 1:
            return True
    return False


def magic_prime(num_tokens: int, ctx: int) -> int:
    """Largest prime p <= floor(num_tokens / ctx) - 1 with p mod 3 = 2.

    Raises:
      ValueError: fewer than 3 ctx tokens, so that there is none, or ctx < 1.
    """
    if ctx < 1:
        raise ValueError(f"ctx must be at least 1, got {ctx}")
    if num_tokens < 3 * ctx:
        raise ValueError(
            f"a magic prime for ctx {ctx} needs at least {3 * ctx} tokens, got {num_tokens}"
        )
    candidate = num_tokens // ctx - 1
    while not (candidate % 3 == 2 and is_prime(candidate)):
        candidate -= 1
    return candidate


def check_magic_prime(prime: int, num_tokens: int, ctx: int) -> None:
    """The reference trainer's demands on a prime given by the user, as a ValueError.

    It must be prime, p mod 3 = 2, and 0.9 < p / floor(num_tokens / ctx) <= 1; moreover the last
    window must lie inside the file, which the reference does not check.
    """
    slots = num_tokens // ctx
    if prime < 2 or not is_prime(prime) or prime % 3 != 2:
        raise ValueError(f"magic prime must be a prime with remainder 2 modulo 3, got {prime}")
    if not 0.9 < prime / max(slots, 1) <= 1 or prime * ctx + 1 > num_tokens:
        raise ValueError(
            f"magic prime {prime} must be between 0.9 and 1 times the {slots} chunks of ctx {ctx} "
            f"in {num_tokens} tokens, with one more token at the end"
        )


def window_start(sample: int, prime: int, ctx: int) -> int:
    """First token of the window that `sample` (1, 2, ...) reads, in exact integers."""
    return (_factor(prime) * sample**3) % prime * ctx


def window_starts(samples: np.ndarray, prime: int, ctx: int) -> np.ndarray:
    """`window_start` for an int64 array of sample numbers >= 0; int64 of the same shape, exact."""
    samples = np.asarray(samples)
    if samples.size and int(samples.min()) < 0:
        raise ValueError(f"sample numbers must not be negative, got {samples.min()}")
    if prime >= _VECTOR_LIMIT:
        starts = [window_start(int(sample), prime, ctx) for sample in samples.reshape(-1)]
        return np.array(starts, np.int64).reshape(samples.shape)
    modulus = np.uint64(prime)
    residue = samples.astype(np.uint64) % modulus
    cube = residue * residue % modulus * residue % modulus
    chunk = cube * np.uint64(_factor(prime)) % modulus
    return chunk.astype(np.int64) * ctx


def _factor(prime: int) -> int:
    # In floating point on purpose: this is what the reference computes.
    return int(prime * ((math.sqrt(5) - 1) / 2))
