# SPDX-License-Identifier: Apache-2.0
"""What `snn.train` can train: one task and one run module for each kind."""

__all__: list[str] = []
