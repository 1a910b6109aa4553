# SPDX-License-Identifier: Apache-2.0
"""What the speech configurations for small corpora have in common; not a configuration itself."""

from typing import Any


def units(cell: str) -> dict[str, Any]:
    """Layers of one kind of unit; spiking ones learn their decay, started over a range."""
    options: dict[str, Any] = {
        "cell": (cell,),
        "recurrent": True,
        "train_decay": cell.endswith("snu"),
        "decay": 0.8,
        "threshold": 1.5,
    }
    if cell.endswith("snu"):
        options["decay_range"] = (0.5, 0.98)
    return options


def gain(cell: str) -> float:
    """Factor of the initial matrices: soft spiking units pass too little on without one."""
    return 4.0 if cell.endswith("ssnu") else 1.0


def learning_rate(cell: str) -> float:
    """Of Adam; soft spiking units learn more slowly and bear twice the rate."""
    return 8e-3 if cell.endswith("ssnu") else 4e-3


def manifests() -> dict[str, Any]:
    """Manifests of your own, with --config.data.corpus= (empty)."""
    return {"train": "", "valid": "", "test": "", "skip_bad": False}
