# SPDX-License-Identifier: Apache-2.0
"""Released weights of every RWKV version, in every format they come in.

    config, params = weights.load("RWKV-x060-World-1B6-v2.1.pth")  # or a folder, .safetensors
    weights.save("model.safetensors", config, params)

`open_weights` reads only headers, `write` streams; see `names` for the tensors of each version.
No file is ever unpickled or otherwise executed.
"""

from rwkvjax.weights.export import FORMATS, Report, format_of, save, write
from rwkvjax.weights.load import Weights, load, load_tuned_state, open_model, open_weights
from rwkvjax.weights.params import from_official, official_tensors, to_official
from rwkvjax.weights.source import Tensor, Tensors, WeightsError
from rwkvjax.weights.upcycle import upcycle

__all__ = [
    "FORMATS",
    "Report",
    "Tensor",
    "Tensors",
    "Weights",
    "WeightsError",
    "format_of",
    "from_official",
    "load",
    "load_tuned_state",
    "official_tensors",
    "open_model",
    "open_weights",
    "save",
    "to_official",
    "upcycle",
    "write",
]
