# SPDX-License-Identifier: Apache-2.0
"""Active perception: glimpses of images and panels, and the relations between what they show.

    glimpses = perception.look(images, perception.FrontEndConfig())     # images [B, H, H, C]
    glimpses.content, glimpses.location, glimpses.pixel

Names are imported at first use, so that processes that only draw images do not wait for jax.
"""

import importlib
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from perception.frontend import FrontEndConfig, Glimpses, look

__all__ = ["FrontEndConfig", "Glimpses", "look"]


def __getattr__(name: str) -> Any:
    if name in __all__:
        return getattr(importlib.import_module("perception.frontend"), name)
    raise AttributeError(f"module 'perception' has no attribute {name!r}")


def __dir__() -> list[str]:
    return __all__
