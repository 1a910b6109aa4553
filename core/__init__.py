# SPDX-License-Identifier: Apache-2.0
"""Machinery shared by every package: parameters, sharding, training loop, checkpoints, data."""

from core.version import __version__

__all__ = ["__version__"]
