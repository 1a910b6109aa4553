# SPDX-License-Identifier: Apache-2.0
r"""Maps a trained ReLU network to a time-to-first-spike network, exactly.

    python -m snn.convert --model=net.onnx --data=train.npy --output=net.safetensors \
        --input_low=0 --input_high=255

The data, a NumPy file of raw inputs [N, ...] (NHWC images), set the windows; the report says how
far the logits are from those of the ReLU network, and what the windows need. Windows in which
neurons would fire early are an error, unless --clip asks for them. The output holds network,
weights and windows (`snn.ttfs.store`); with a name that ends in .nir it is a NIR file.
"""

from __future__ import annotations

import itertools
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
CERTIFIED = 1000  # inputs on which the windows are certified
_define: dict[str, Any] = {"flag_values": FLAGS}
flags.DEFINE_string("model", None, "ONNX file of the ReLU network.", required=True, **_define)
flags.DEFINE_string("data", None, "NumPy file of raw training inputs.", required=True, **_define)
flags.DEFINE_string("output", None, "File to write.", required=True, **_define)
flags.DEFINE_float("input_low", 0.0, "Smallest raw input value.", **_define)
flags.DEFINE_float("input_high", 1.0, "Largest raw input value.", **_define)
flags.DEFINE_enum("rule", "b1", ["b1", "b1_forced", "alpha"], "Mapping.", **_define)
flags.DEFINE_float("zeta", 0.5, "Margin of the windows.", **_define)
flags.DEFINE_enum("windows", "max", list(windows.MODES), "What sets the windows.", **_define)
flags.DEFINE_bool("clip", False, "Accept windows that are too small to be exact.", **_define)


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
            clip=values["clip"].value,
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
    clip: bool = False,
    batch_size: int = 200,
) -> list[str]:
    """Converts in float64 and returns the lines of the report.

    Raises:
      FileNotFoundError, ValueError: see `onnx_import.from_onnx`, `images.encode`, `mapping`; and
        windows that are too small on the first inputs (`CERTIFIED`), unless `clip`.
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
        first = itertools.islice(batches(), -(-CERTIFIED // batch_size))
        certificates = windows.certify_batches(mapped.network, mapped.params, first, mapped.windows)
        if not clip:
            _require(certificates)
        lines = compare(layers, params, mapped, raw[:batch_size], input_range)
        lines += [_line(c) for c in certificates]
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
    """Lines about exactness on some inputs: logits and labels."""
    x = jnp.asarray(images.encode(raw.astype(np.float64), *input_range))
    expected = relu.apply(layers, params, jnp.asarray(raw, jnp.float64))
    found, _ = net.closed_form(mapped.network, mapped.params, x, mapped.windows, "clip")
    same = float((found.argmax(-1) == expected.argmax(-1)).mean())
    rules = "/".join(sorted({layer.rule for layer in mapped.network.hidden})) or "none"
    return [
        f"{len(mapped.network.hidden)} spiking layers, rule {rules},"
        f" latency {windows.timeline(mapped.network, mapped.windows).readout:.4g} input windows",
        f"largest difference of logits {float(jnp.abs(found - expected).max()):.3g} on"
        f" {len(raw)} inputs, same label on {same:.2%}",
    ]


def _require(certificates: list[windows.Certificate]) -> None:
    try:
        windows.require(certificates)
    except ValueError as error:
        raise ValueError(
            f"{error}. Use --windows=certified, a larger --zeta, or accept it with --clip"
        ) from error


def _line(c: windows.Certificate) -> str:
    verdict = "exact" if c.holds else f"too small: {c.early_fraction:.2%} of neurons fire early"
    return f"{c.layer}: window {c.window:.4g}, needed {c.needed:.4g} ({verdict})"


if __name__ == "__main__":
    cli.program(main, FLAGS, __doc__ or "")
