# SPDX-License-Identifier: Apache-2.0
r"""Maps a trained ReLU network to a time-to-first-spike network, exactly.

    python -m snn.convert --model=net.onnx --data=train.npy --output=net.safetensors \
        --input_low=0 --input_high=255

The data, a NumPy file of raw inputs [N, ...] (NHWC images), set the windows; the report says how
far the logits are from those of the ReLU network, and what the windows need. The output holds
network, weights and windows (`snn.ttfs.store`); with a name that ends in .nir it is a NIR file.
"""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from absl import flags

from core import cli
from snn.ttfs import images, mapping, relu, store, windows
from snn.ttfs import network as net

FLAGS = flags.FlagValues()
_define: dict[str, Any] = {"flag_values": FLAGS}
flags.DEFINE_string("model", None, "ONNX file of the ReLU network.", required=True, **_define)
flags.DEFINE_string("data", None, "NumPy file of raw training inputs.", required=True, **_define)
flags.DEFINE_string("output", None, "File to write.", required=True, **_define)
flags.DEFINE_float("input_low", 0.0, "Smallest raw input value.", **_define)
flags.DEFINE_float("input_high", 1.0, "Largest raw input value.", **_define)
flags.DEFINE_enum("rule", "b1", ["b1", "b1_forced", "alpha"], "Mapping.", **_define)
flags.DEFINE_float("zeta", 0.5, "Margin of the windows.", **_define)
flags.DEFINE_enum("windows", "max", list(windows.MODES), "What sets the windows.", **_define)


def main(values: Any) -> None:
    """Converts as the flags say."""
    try:
        lines = convert(
            values["model"].value,
            values["data"].value,
            values["output"].value,
            input_range=(values["input_low"].value, values["input_high"].value),
            rule=values["rule"].value,
            zeta=values["zeta"].value,
            windows_from=values["windows"].value,
        )
    except ValueError as error:
        raise cli.UserError(str(error)) from error
    print("\n".join(lines))


def convert(
    model: str | os.PathLike[str],
    data: str | os.PathLike[str],
    output: str | os.PathLike[str],
    *,
    input_range: tuple[float, float] = (0.0, 1.0),
    rule: str = "b1",
    zeta: float = 0.5,
    windows_from: str = "max",
    batch_size: int = 200,
) -> list[str]:
    """Converts in float64 and returns the lines of the report.

    Raises:
      FileNotFoundError, ValueError: see `onnx_import.from_onnx`, `images.encode`, `mapping`.
    """
    from snn.ttfs import onnx_import

    layers, params, shape = onnx_import.from_onnx(model)
    if not os.path.isfile(data):
        raise FileNotFoundError(f"no data file {data}")
    raw = np.load(data, allow_pickle=False)
    if raw.shape[1:] != shape or not len(raw):
        raise ValueError(f"{data}: expected inputs [N, *{shape}], found {raw.shape}")

    def batches() -> Iterator[np.ndarray]:
        for start in range(0, len(raw), batch_size):
            yield images.encode(raw[start : start + batch_size].astype(np.float64), *input_range)

    with jax.enable_x64(True):
        mapped = mapping.map_relu(
            layers,
            params,
            shape,
            batches(),
            input_range=input_range,
            rule=rule,
            zeta=zeta,
            windows_from=windows_from,
        )
        lines = compare(layers, params, mapped, raw[:batch_size], input_range)
    extra = {"input_range": list(input_range), "source": Path(model).name}
    if str(output).endswith(".nir"):
        from snn.ttfs import nir_io

        nir_io.write(output, mapped.network, mapped.params, mapped.windows)
    else:
        store.save(output, mapped.network, mapped.params, mapped.windows, extra)
    return [*lines, f"written: {output}"]


def compare(
    layers: relu.Layers,
    params: Any,
    mapped: mapping.Mapped,
    raw: np.ndarray,
    input_range: tuple[float, float],
) -> list[str]:
    """Lines about exactness on some inputs: logits, labels, certificates."""
    x = jnp.asarray(images.encode(raw.astype(np.float64), *input_range))
    expected = relu.apply(layers, params, jnp.asarray(raw, jnp.float64))
    found, _ = net.closed_form(mapped.network, mapped.params, x, mapped.windows, "clip")
    same = float((found.argmax(-1) == expected.argmax(-1)).mean())
    rules = "/".join(sorted({layer.rule for layer in mapped.network.hidden})) or "none"
    lines = [
        f"{len(mapped.network.hidden)} spiking layers, rule {rules},"
        f" latency {windows.timeline(mapped.network, mapped.windows).readout:.4g} input windows",
        f"largest difference of logits {float(jnp.abs(found - expected).max()):.3g} on"
        f" {len(raw)} inputs, same label on {same:.2%}",
    ]
    for c in windows.certify(mapped.network, mapped.params, x, mapped.windows):
        verdict = "exact" if c.holds else f"too small: {c.early_fraction:.2%} of neurons fire early"
        lines.append(f"{c.layer}: window {c.window:.4g}, needed {c.needed:.4g} ({verdict})")
    return lines


if __name__ == "__main__":
    cli.program(main, FLAGS, __doc__ or "")
