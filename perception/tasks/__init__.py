# SPDX-License-Identifier: Apache-2.0
"""Training tasks of the package; `perception.train` picks one by the configuration."""

__all__: list[str] = []
