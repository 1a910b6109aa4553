# SPDX-License-Identifier: Apache-2.0
"""Corpus recipes: the published composition of a corpus, to be filled with local files.

A recipe is a TOML file (see `configs/rwkvjax/mixtures/world_v2.toml`) with groups and their
shares, and sources that each belong to a group. A source may have a `weight`; sources without one
divide their group in proportion to their tokens. A group has either all weights or none.
"""

from __future__ import annotations

import dataclasses
import math
import os
import tomllib
from collections.abc import Callable, Mapping
from pathlib import Path

from rwkvjax.data.mixture import ExampleSource, Mixture
from rwkvjax.data.windows import BinidxWindows

_TOP_FIELDS = {"name", "tokens", "references", "groups", "sources"}
_SOURCE_FIELDS = {"title", "group", "hub", "weight"}


@dataclasses.dataclass(frozen=True)
class RecipeSource:
    """One source: what it is called, its group, where it is published, its weight in the group."""

    title: str
    group: str
    hub: str | None = None
    weight: float | None = None


@dataclasses.dataclass(frozen=True)
class Recipe:
    """A corpus.

    Attributes:
      name: of the corpus.
      tokens: its published size, or None.
      groups: share of each group; they add up to 1.
      sources: by key.
    """

    name: str
    tokens: int | None
    groups: Mapping[str, float]
    sources: Mapping[str, RecipeSource]


def load_recipe(path: str | os.PathLike[str]) -> Recipe:
    """Reads a recipe.

    Raises:
      FileNotFoundError: no such file.
      ValueError: not TOML, an unknown or missing field, shares that do not add up to 1, a source
        of an unknown group, or a group with some weights only.
    """
    path = Path(path)
    if not path.is_file():
        raise FileNotFoundError(f"no recipe {path}")
    try:
        content = tomllib.loads(path.read_text(encoding="utf-8"))
    except (tomllib.TOMLDecodeError, UnicodeDecodeError) as error:
        raise ValueError(f"{path}: expected TOML: {error}") from error
    _demand_fields(content, _TOP_FIELDS, {"name", "groups", "sources"}, str(path))
    sources = {}
    for key, fields in content["sources"].items():
        _demand_fields(fields, _SOURCE_FIELDS, {"title", "group"}, f"{path}: source {key}")
        sources[key] = RecipeSource(**fields)
    recipe = Recipe(content["name"], content.get("tokens"), content["groups"], sources)
    _check(recipe, str(path))
    return recipe


def _demand_fields(fields: object, allowed: set[str], needed: set[str], place: str) -> None:
    if not isinstance(fields, dict) or set(fields) - allowed or needed - set(fields):
        found = sorted(fields) if isinstance(fields, dict) else fields
        raise ValueError(
            f"{place}: expected the fields {sorted(needed)} and perhaps "
            f"{sorted(allowed - needed)}, found {found}"
        )


def _check(recipe: Recipe, place: str) -> None:
    shares = recipe.groups
    numbers = all(isinstance(share, int | float) and share > 0 for share in shares.values())
    if not numbers or not math.isclose(sum(shares.values()), 1, abs_tol=1e-9):
        raise ValueError(f"{place}: group shares must be positive and add up to 1, found {shares}")
    for key, source in recipe.sources.items():
        if source.group not in shares:
            raise ValueError(
                f"{place}: source {key}: expected a group of {sorted(shares)}, "
                f"found {source.group!r}"
            )
    for group in shares:
        members = [source for source in recipe.sources.values() if source.group == group]
        weighted = sum(source.weight is not None for source in members)
        if weighted not in (0, len(members)):
            raise ValueError(
                f"{place}: group {group}: {weighted} of {len(members)} sources have a "
                "weight, expected all or none"
            )


def recipe_weights(
    recipe: Recipe, tokens: Mapping[str, int], missing: str = "error"
) -> dict[str, float]:
    """Share of each source that is at hand.

    Args:
      recipe: the corpus.
      tokens: tokens at hand of each source, by key.
      missing: what to do about the recipe's other sources: "error", or "renormalise" to divide a
        group among the sources at hand, and the share of a group without any among the others.

    Returns:
      Shares by key, in the recipe's order, with the sum 1.

    Raises:
      FileNotFoundError: sources are missing and `missing` is "error".
      ValueError: a key that is not in the recipe, a source without tokens, no source at all.
    """
    if missing not in ("error", "renormalise"):
        raise ValueError(f"missing must be 'error' or 'renormalise', got {missing!r}")
    unknown = sorted(set(tokens) - set(recipe.sources))
    if unknown:
        raise ValueError(f"{recipe.name}: no sources {unknown}; it has {sorted(recipe.sources)}")
    absent = [key for key in recipe.sources if key not in tokens]
    if absent and missing == "error":
        titles = ", ".join(f"{key} ({recipe.sources[key].title})" for key in absent)
        raise FileNotFoundError(
            f"{recipe.name}: no local files for {len(absent)} of {len(recipe.sources)} sources: "
            f"{titles}. Name a token file for each, or ask for missing='renormalise'."
        )
    if not tokens or min(tokens.values()) < 1:
        raise ValueError(f"{recipe.name}: expected sources with tokens, got {dict(tokens)}")
    amounts = {}
    for key, source in recipe.sources.items():
        if key in tokens:
            amounts[key] = source.weight if source.weight is not None else tokens[key]
    present = {recipe.sources[key].group for key in amounts}
    shares = math.fsum(recipe.groups[group] for group in present)
    weights = {}
    for key, amount in amounts.items():
        group = recipe.sources[key].group
        total = math.fsum(amounts[k] for k in amounts if recipe.sources[k].group == group)
        weights[key] = recipe.groups[group] / shares * amount / total
    return weights


def build_mixture(
    recipe: Recipe,
    files: Mapping[str, str | os.PathLike[str]],
    ctx: int,
    *,
    missing: str = "error",
    make_source: Callable[[str | os.PathLike[str], int], ExampleSource] | None = None,
) -> Mixture:
    """A mixture in the proportions of a recipe.

    Args:
      recipe: the corpus.
      files: binidx file of each source, by the recipe's keys.
      ctx: tokens that an example trains on.
      missing: see `recipe_weights`.
      make_source: (file, ctx) -> example source; shuffled `BinidxWindows` by default.

    Raises:
      FileNotFoundError, ValueError: as `recipe_weights` and the sources.
    """
    if make_source is None:
        make_source = _shuffled_windows
    # Complain about missing sources before any file is opened.
    recipe_weights(recipe, dict.fromkeys(files, 1), missing)
    sources = {key: make_source(files[key], ctx) for key in recipe.sources if key in files}
    tokens = {key: source.num_tokens for key, source in sources.items()}
    return Mixture(sources, recipe_weights(recipe, tokens, missing))


def _shuffled_windows(file: str | os.PathLike[str], ctx: int) -> BinidxWindows:
    return BinidxWindows(file, ctx, "shuffled")
