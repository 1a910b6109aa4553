# SPDX-License-Identifier: Apache-2.0
"""Fine-tuning: LoRA, PiSSA and state tuning beside a frozen base, and full training from it.

    python -m rwkvjax.train --config=configs/rwkvjax/lora.py --workdir=runs/lora \\
        --config.finetune.base=runs/wikitext2

leaves `adapter.safetensors` and `adapter.pth` (official layout) in the workdir:

    adapter = load_adapter("runs/lora/adapter.safetensors")   # .kind is "lora" or "state"
    params = adapter.apply(config, base)
    state = adapter.initial_state(config, batch_size)
"""

from rwkvjax.finetune.adapter import Adapter, load_adapter, save_adapter
from rwkvjax.finetune.config import METHODS, FinetuneConfig

__all__ = ["METHODS", "Adapter", "FinetuneConfig", "load_adapter", "save_adapter"]
