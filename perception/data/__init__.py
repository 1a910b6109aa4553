# SPDX-License-Identifier: Apache-2.0
"""Procedural data sets for visual reasoning, each a pure function of (seed, split, index)."""

__all__: list[str] = []
