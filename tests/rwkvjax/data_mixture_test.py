# SPDX-License-Identifier: Apache-2.0
"""Mixtures: exact shares at every length, local indices without gaps, recipes."""

from fractions import Fraction
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from rwkvjax.data import (
    ArrayTokens,
    BinidxBuilder,
    BinidxWindows,
    Mixture,
    build_mixture,
    format_report,
    load_recipe,
)
from rwkvjax.data.mixture import MAX_PERIOD, period_counts, schedule
from rwkvjax.data.recipe import recipe_weights

WORLD = Path(__file__).resolve().parents[2] / "configs" / "rwkvjax" / "mixtures" / "world_v2.toml"


def windows(tokens, ctx=8, first=0):
    return BinidxWindows(ArrayTokens([first + np.arange(tokens)]), ctx, "sequential")


@pytest.mark.parametrize(
    ("weights", "counts"),
    [
        ([0.7, 0.15, 0.15], [14, 3, 3]),
        ([1, 1, 1], [1, 1, 1]),
        ([Fraction(1, 3), Fraction(2, 3)], [1, 2]),
        ([6, 4], [3, 2]),
        ([5.0], [1]),
    ],
)
def test_simple_weights_are_exact(weights, counts):
    assert period_counts(weights) == counts


def test_other_weights_use_largest_remainders():
    # 10 seats for 1.5 : 1.5 : 7 would need 20; quotas 1.5, 1.5, 7 -> the first tie wins.
    assert period_counts([1.5, 1.5, 7], max_period=10) == [2, 1, 7]
    weights = [2**0.5, 3**0.5, 0.001]
    counts = period_counts(weights)
    assert sum(counts) <= MAX_PERIOD
    for count, weight in zip(counts, weights, strict=True):
        assert abs(count / sum(counts) - weight / sum(weights)) < 1 / MAX_PERIOD


@given(st.lists(st.integers(1, 40), min_size=1, max_size=8))
def test_every_prefix_of_the_schedule_has_its_share(counts):
    slots = schedule(counts)
    assert np.bincount(slots, minlength=len(counts)).tolist() == counts
    taken = np.cumsum(slots[:, None] == np.arange(len(counts)), axis=0)
    ideal = np.arange(1, len(slots) + 1)[:, None] * np.array(counts) / sum(counts)
    assert np.abs(taken - ideal).max() < 1


@settings(deadline=None, max_examples=50)
@given(st.lists(st.integers(1, 9), min_size=1, max_size=5), st.integers(0, 3))
def test_local_indices_count_up_without_gaps(counts, rounds):
    sources = {f"s{i}": windows(9 + 8 * i) for i in range(len(counts))}
    weights = {f"s{i}": count for i, count in enumerate(counts)}
    mixture = Mixture(sources, weights)
    total = (rounds + 1) * sum(counts) + rounds
    numbers, locals_ = mixture.assign(np.arange(total))
    for number in range(len(counts)):
        mine = locals_[numbers == number]
        np.testing.assert_array_equal(mine, np.arange(len(mine)))
    report = mixture.report(total)
    assert [use.examples for use in report] == np.bincount(numbers, minlength=len(counts)).tolist()
    for use, source in zip(report, sources.values(), strict=True):
        assert use.tokens == use.examples * 8
        assert use.epochs == use.examples / len(source)
        assert use.source_tokens == source.num_tokens


def test_long_run_shares_are_exact():
    mixture = Mixture(
        {"a": windows(100), "b": windows(50), "c": windows(30)}, {"a": 0.7, "b": 0.15, "c": 0.15}
    )
    assert mixture.weights == (0.7, 0.15, 0.15)
    assert [use.examples for use in mixture.report(20 * 10**15)] == [
        14 * 10**15,
        3 * 10**15,
        3 * 10**15,
    ]
    numbers, _ = mixture.assign(20 * 10**12 + np.arange(2000))
    assert np.bincount(numbers).tolist() == [1400, 300, 300]
    table = format_report(mixture.report(2000))
    assert "70.00%" in table and "116.667" in table  # 1400 examples of 12 windows


def test_examples_come_from_their_sources():
    sources = {"low": windows(100), "high": windows(200, first=1000)}
    mixture = Mixture(sources, {"low": 1, "high": 3})
    indices = np.array([9, 0, 4, 5, 123456])
    batch = mixture.get(indices)
    numbers, locals_ = mixture.assign(indices)
    for row, (number, local) in enumerate(zip(numbers, locals_, strict=True)):
        name = mixture.names[number]
        alone = sources[name].get(np.array([local]))
        for key, value in alone.items():
            np.testing.assert_array_equal(batch[key][row], value[0])
        assert (batch["tokens"][row] >= 1000).all() == (name == "high")
    assert mixture.get(np.zeros(0, int))["tokens"].shape == (0, 9)
    assert len(mixture) == 12 + 24 and mixture.num_tokens == 300
    assert Mixture(sources).weights == (1 / 3, 2 / 3)


def test_bad_mixtures_are_explained():
    a, b = windows(100), windows(100, ctx=4)
    for call, message in (
        (lambda: Mixture({}), "at least one source"),
        (lambda: Mixture({"a": a}, {"b": 1}), r"for the sources \['a'\], got \['b'\]"),
        (lambda: Mixture({"a": a, "b": b}), "the same ctx, got {'a': 8, 'b': 4}"),
        (lambda: Mixture({"a": a}, {"a": 0}), "positive and finite, got 0"),
        (lambda: Mixture({"a": a}, {"a": float("nan")}), "positive and finite, got nan"),
        (lambda: Mixture({"a": a, "b": a}, {"a": 1, "b": 1e-9}), "too small: 1e-09 of the sum"),
        (lambda: Mixture({"a": a}).report(-1), "not be negative, got -1"),
    ):
        with pytest.raises(ValueError, match=message):
            call()


# --- recipes -----------------------------------------------------------------------------------


def test_the_world_recipe_has_the_published_shares():
    recipe = load_recipe(WORLD)
    assert dict(recipe.groups) == {"english": 0.70, "multilingual": 0.15, "code": 0.15}
    assert recipe.tokens == 1_120_000_000_000
    weights = recipe_weights(recipe, {key: 1000 + len(key) for key in recipe.sources})
    for group, share in recipe.groups.items():
        members = [k for k, source in recipe.sources.items() if source.group == group]
        assert np.isclose(sum(weights[k] for k in members), share)
        amounts = [1000 + len(k) for k in members]
        np.testing.assert_allclose(
            [weights[k] for k in members], share * np.array(amounts) / sum(amounts)
        )


def test_missing_sources_are_listed_or_renormalised():
    recipe = load_recipe(WORLD)
    have = {"slimpajama": 300, "gutenberg_pg19": 100, "starcoder": 5}
    with pytest.raises(FileNotFoundError, match=r"16 of 19 sources: .*oscar \(OSCAR 23.01") as e:
        recipe_weights(recipe, have)
    for key in recipe.sources:
        assert (f"{key} (" in str(e.value)) == (key not in have)
    weights = recipe_weights(recipe, have, missing="renormalise")
    assert weights == pytest.approx(
        {
            "slimpajama": 0.75 * 0.7 / 0.85,
            "gutenberg_pg19": 0.25 * 0.7 / 0.85,
            "starcoder": 0.15 / 0.85,
        }
    )
    for arguments, message in (
        (({"nonsense": 1}, "error"), r"no sources \['nonsense'\]"),
        ((have, "ignore"), "missing must be 'error' or 'renormalise'"),
        (({}, "renormalise"), "expected sources with tokens"),
        (({"starcoder": 0}, "renormalise"), "expected sources with tokens"),
    ):
        with pytest.raises(ValueError, match=message):
            recipe_weights(recipe, *arguments)


def test_build_mixture_from_files(tmp_path):
    for name, tokens in (("slimpajama", 500), ("starcoder", 300)):
        with BinidxBuilder(tmp_path / name) as builder:
            builder.add_document(np.arange(tokens))
            builder.finish()
    files = {name: tmp_path / name for name in ("starcoder", "slimpajama")}
    recipe = load_recipe(WORLD)
    with pytest.raises(FileNotFoundError, match="17 of 19 sources"):
        build_mixture(recipe, files, 16)
    mixture = build_mixture(recipe, files, 16, missing="renormalise")
    assert mixture.names == ("slimpajama", "starcoder")
    assert np.allclose(mixture.weights, [0.7 / 0.85, 0.15 / 0.85], atol=1 / MAX_PERIOD)
    assert mixture.get(np.arange(5))["tokens"].shape == (5, 17)


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ("name = ", "expected TOML"),
        ("name = 'x'\n[groups]\na = 1.0", "expected the fields"),
        ("name = 'x'\n[groups]\na = 0.5\n[sources]", "add up to 1"),
        (
            "name = 'x'\n[groups]\na = 1\n[sources]\ns = {title = 't', group = 'b'}",
            "source s: expected a group of",
        ),
        (
            "name = 'x'\n[groups]\na = 1\n[sources]\ns = {title = 't', group = 'a', size = 1}",
            "source s: expected the fields",
        ),
        (
            "name = 'x'\n[groups]\na = 1\n[sources]\ns = {title = 't', group = 'a', weight = 1}\n"
            "u = {title = 't', group = 'a'}",
            "group a: 1 of 2 sources have a weight",
        ),
    ],
)
def test_bad_recipes_are_explained(tmp_path, content, message):
    (tmp_path / "r.toml").write_text(content)
    with pytest.raises(ValueError, match=message) as caught:
        load_recipe(tmp_path / "r.toml")
    assert "r.toml" in str(caught.value)


def test_no_recipe():
    with pytest.raises(FileNotFoundError, match="no recipe"):
        load_recipe("nowhere.toml")
