# SPDX-License-Identifier: Apache-2.0
"""Active perception: glimpses of images and panels, and the relations between what they show."""

__all__: list[str] = []
