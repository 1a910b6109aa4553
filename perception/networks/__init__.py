# SPDX-License-Identifier: Apache-2.0
"""Networks over glimpses (or whole images), all under one interface.

network.inputs                                names of the arrays it reads
network.param_specs() -> specs                see `core.params`
network.apply(params, inputs, key) -> logits  [N, outputs]; key: of dropout, None to evaluate

`Saccadic` and `Oren` are for problems of several frames, and give one score for each frame.
"""

from perception.networks.abstractor import Abstractor
from perception.networks.eyes import FrameEncoder, GlimpseEye
from perception.networks.oren import Oren
from perception.networks.relational import CoRelNet, Esbn
from perception.networks.saccadic import Saccadic
from perception.networks.stem import StemConfig
from perception.networks.transformer import GapTransformer
from perception.networks.vision import ConvNet, ResNet, VisionTransformer

__all__ = [
    "Abstractor",
    "CoRelNet",
    "ConvNet",
    "Esbn",
    "FrameEncoder",
    "GapTransformer",
    "GlimpseEye",
    "Oren",
    "ResNet",
    "Saccadic",
    "StemConfig",
    "VisionTransformer",
]
