# SPDX-License-Identifier: Apache-2.0
"""Arguments of the configurations: "name=value", separated by commas."""

from __future__ import annotations

from typing import Any

SIZES = ("small", "published")


def parse(arg: str, defaults: dict[str, Any]) -> dict[str, Any]:
    """The defaults with the values of an argument string; each keeps the type of its default.

    Raises:
      ValueError: an unknown name, a value that is no (whole) number where one is expected, or a
        size other than `SIZES`.
    """
    values = dict(defaults)
    for part in filter(None, (piece.strip() for piece in arg.split(","))):
        name, equals, text = part.partition("=")
        if name not in values:
            raise ValueError(f"unknown argument {name!r}; known: {', '.join(sorted(values))}")
        if not equals:
            raise ValueError(f"argument {name!r} needs a value: {name}=...")
        kind = type(defaults[name])
        try:
            values[name] = kind(text)
        except ValueError:
            what = "whole number" if kind is int else "number"
            raise ValueError(f"{name} must be a {what}, got {text!r}") from None
    if values["size"] not in SIZES:
        raise ValueError(f"size must be small or published, got {values['size']!r}")
    return values


def save_every(steps: int) -> int:
    """Steps between checkpoints, so that a killed run loses at most 500 steps or a twentieth."""
    return min(steps, max(500, steps // 20))
