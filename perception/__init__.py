# SPDX-License-Identifier: Apache-2.0
"""Active perception: glimpses of images and panels, and the relations between what they show.

    images = perception.open_set("svrt/1", "test", size=8).rows(range(8))["image"]
    glimpses = perception.look(images, perception.FrontEndConfig())     # images [B, H, H, C]
    glimpses.content, glimpses.location, glimpses.pixel
    perception.scan_path(images, perception.FrontEndConfig())           # the figure

`networks` has what reasons over glimpses or frames, `data` the procedural sets, `tasks` their
training. Names are imported at first use, so that processes that only draw images do not wait for
jax.
"""

from typing import TYPE_CHECKING

from core import lazy

if TYPE_CHECKING:
    from perception import data, networks, tasks
    from perception.fixation import FixationConfig, fixate, locations
    from perception.frontend import FrontEndConfig, Glimpses, look
    from perception.images import prepare
    from perception.pictures import attention, scan_path
    from perception.saliency import SaliencyConfig
    from perception.sensors import LogPolar, MultiScale
    from perception.tasks.image_sets import open_set

_HOMES = {
    **dict.fromkeys(("FixationConfig", "fixate", "locations"), "perception.fixation"),
    **dict.fromkeys(("FrontEndConfig", "Glimpses", "look"), "perception.frontend"),
    **dict.fromkeys(("attention", "scan_path"), "perception.pictures"),
    **dict.fromkeys(("LogPolar", "MultiScale"), "perception.sensors"),
    "SaliencyConfig": "perception.saliency",
    "open_set": "perception.tasks.image_sets",
    "prepare": "perception.images",
}

__all__ = [
    "FixationConfig",
    "FrontEndConfig",
    "Glimpses",
    "LogPolar",
    "MultiScale",
    "SaliencyConfig",
    "attention",
    "data",
    "fixate",
    "locations",
    "look",
    "networks",
    "open_set",
    "prepare",
    "scan_path",
    "tasks",
]

__getattr__, __dir__ = lazy.attributes(__name__, __all__, _HOMES)
