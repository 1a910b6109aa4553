# SPDX-License-Identifier: Apache-2.0
"""Import from Flax, ONNX and safetensors; NIR export and import; conversion; pictures; costs."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from core import params as params_lib
from snn import convert
from snn.ttfs import accounting, fuse, importers, mapping, nir_io, pictures, relu, store
from snn.ttfs import network as net
from tests.snn.ttfs_nets import NETS, mapped_logits, onnx_model, random_params


@pytest.fixture
def float64():
    with jax.enable_x64(True):
        yield


# --- Flax ---------------------------------------------------------------------------------------


def test_nnx_modules(float64):
    from flax import nnx

    rngs = nnx.Rngs(0)
    conv = nnx.Conv(2, 4, (3, 3), strides=2, padding="SAME", rngs=rngs, param_dtype=jnp.float64)
    norm = nnx.BatchNorm(4, use_running_average=True, rngs=rngs, param_dtype=jnp.float64)
    norm.mean[...] = jnp.arange(4, dtype=jnp.float32) / 8
    norm.scale[...] = jnp.array([1.0, -0.5, 2.0, 0.3])
    dense = nnx.Linear(16, 5, rngs=rngs, param_dtype=jnp.float64)
    x = np.random.default_rng(0).uniform(size=(3, 7, 8, 2))

    def model(x):
        y = nnx.relu(norm(conv(x)))
        y = nnx.max_pool(y, (2, 2), (2, 2))
        return dense(y.reshape(3, -1))

    modules = [conv, norm, nnx.relu, relu.MaxPool(), relu.Flatten(), dense]
    imported = importers.from_flax(modules, (7, 8, 2))
    np.testing.assert_allclose(mapped_logits(imported, x), model(jnp.asarray(x)), atol=1e-10)


def test_linen_modules(float64):
    import flax.linen as nn

    class Model(nn.Module):
        @nn.compact
        def __call__(self, x):
            x = nn.relu(nn.Conv(4, (3, 3), padding=1, name="c", param_dtype=jnp.float64)(x))
            x = nn.BatchNorm(use_running_average=True, name="n", param_dtype=jnp.float64)(x)
            x = nn.avg_pool(x, (2, 2), (2, 2)).reshape(x.shape[0], -1)
            return nn.Dense(5, name="d", param_dtype=jnp.float64)(x)

    x = np.random.default_rng(0).uniform(size=(3, 6, 6, 2))
    variables = Model().init(jax.random.key(0), jnp.asarray(x))
    variables = jax.tree.map(
        lambda v: v + 0.1 * jnp.cos(jnp.arange(v.size)).reshape(v.shape), variables
    )
    modules = [
        nn.Conv(4, (3, 3), padding=1, name="c"),
        nn.relu,
        nn.BatchNorm(use_running_average=True, name="n"),
        relu.AvgPool(),
        relu.Flatten(),
        nn.Dense(5, name="d"),
    ]
    imported = importers.from_flax(modules, (6, 6, 2), variables)
    expected = Model().apply(variables, jnp.asarray(x))
    np.testing.assert_allclose(mapped_logits(imported, x), expected, atol=1e-10)
    with pytest.raises(ValueError, match="module 0 .*unsupported"):
        importers.from_flax([nn.LayerNorm()], (6,))
    with pytest.raises(ValueError, match="has no kernel"):
        importers.from_flax([nn.Dense(5)], (6,))


# --- safetensors, conversion --------------------------------------------------------------------


def test_torch_layout_of_safetensors(tmp_path):
    from safetensors.numpy import save_file

    layers, shape = NETS["conv_bn_pool"]
    params = random_params(layers, shape)
    names = {"scale": "weight", "shift": "bias", "mean": "running_mean", "var": "running_var"}
    tensors = {}
    for path, value in params_lib.flatten(params):
        layer, name = path.split("/")
        if path == "9_dense/weight":  # reads a flattened image: rows C, H, W in PyTorch
            shapes = relu.output_shape(layers[:8], shape)
            value = value.reshape(*shapes, -1).transpose(2, 0, 1, 3).reshape(value.shape)
        if value.ndim > 1:
            value = value.T if value.ndim == 2 else value.transpose(3, 2, 0, 1)
        tensors[f"{layer}.{names.get(name, name)}"] = np.ascontiguousarray(value)
    save_file(tensors, tmp_path / "w.safetensors")
    found = importers.load_weights(tmp_path / "w.safetensors", layers, shape, "torch")
    for path, value in params_lib.flatten(params):
        np.testing.assert_array_equal(dict(params_lib.flatten(found))[path], value)
    with pytest.raises(ValueError, match="'0_conv/bias' is missing"):
        importers.load_weights(tmp_path / "w.safetensors", layers, shape)


def test_convert_writes_a_certified_network(tmp_path):
    rng = np.random.default_rng(1)
    onnx_model(tmp_path / "net.onnx", rng)
    data = rng.uniform(0, 255, size=(20, 6, 4, 2)).astype(np.float32)
    np.save(tmp_path / "x.npy", data)
    lines = convert.convert(
        tmp_path / "net.onnx",
        tmp_path / "x.npy",
        tmp_path / "out.safetensors",
        input_range=(0.0, 255.0),
        windows_from="certified",
    )
    assert any("largest difference of logits" in line for line in lines)
    network, params, deltas, extra = store.load(tmp_path / "out.safetensors")
    assert extra["input_range"] == [0.0, 255.0] and len(deltas) == len(network.hidden)
    small = {"input_range": (0.0, 255.0), "windows_from": "quantile", "zeta": -0.5}
    with pytest.raises(ValueError, match="layer 'layer_0' .rule 'b1'.*--windows=certified"):
        convert.convert(tmp_path / "net.onnx", tmp_path / "x.npy", tmp_path / "o", **small)
    assert not (tmp_path / "o").exists()
    lines = convert.convert(
        tmp_path / "net.onnx", tmp_path / "x.npy", tmp_path / "o", clip=True, **small
    )
    assert any("too small" in line for line in lines)
    with pytest.raises(ValueError, match="pixel range"):
        convert.convert(
            tmp_path / "net.onnx", tmp_path / "x.npy", tmp_path / "o", input_range=(0.0, 1.0)
        )


# --- NIR ----------------------------------------------------------------------------------------


def nir_case():
    layers: tuple = (relu.Conv(3, (3, 3), strides=(2, 2), padding=((1, 1), (1, 1))), relu.Relu())
    layers = (*layers, relu.Flatten(), relu.Dense(6), relu.Relu(), relu.Dense(4))
    shape = (5, 5, 2)
    params = random_params(layers, shape)
    x = np.random.default_rng(0).uniform(size=(4, *shape))
    expected = relu.apply(layers, params, x)
    return expected, mapping.map_relu(layers, params, shape, [x], windows_from="certified"), x


def test_nir_round_trip_through_a_file(tmp_path, float64):
    pytest.importorskip("nir")
    expected, mapped, x = nir_case()
    nir_io.write(tmp_path / "net.nir", mapped.network, mapped.params, mapped.windows)
    network, params, deltas = nir_io.read(tmp_path / "net.nir")
    assert network == mapped.network and deltas == mapped.windows
    np.testing.assert_allclose(net.closed_form(network, params, x)[0], expected, atol=1e-10)


def test_nir_primitives_compute_the_network(float64):
    """Simulates the graph from its nodes alone: jumps, integrated currents, thresholds."""
    nir = pytest.importorskip("nir")
    import json

    expected, mapped, x = nir_case()
    graph = nir_io.to_graph(mapped.network, mapped.params, mapped.windows)
    kinds = {type(n) for n in graph.nodes.values()}
    parts = {nir.Conv2d, nir.Flatten, nir.Linear, nir.I, nir.IF}
    assert kinds == {nir.Input, *parts, nir.Output}

    def potential(node, since):
        """What spikes that came `since` ago have added: the node's linear map of ramps."""
        if isinstance(node, nir.Linear):
            return since @ node.weight.T
        assert node.stride == (2, 2) and node.padding == (1, 1)
        image, kernel = jnp.asarray(since), jnp.asarray(node.weight)
        return np.asarray(jax.lax.conv(image, kernel, node.stride, "SAME"))

    # Channels first; every input and every hidden neuron spikes, at the latest at its t_max.
    since, length = x.transpose(0, 3, 1, 2), 1.0  # lead times at t_min, window before
    for name in ("layer_0", "layer_1"):
        drive = np.array(json.loads(graph.nodes[f"{name}_i"].metadata["drive"]))
        theta, window = graph.nodes[f"{name}_if"].v_threshold, mapped.windows[name]
        at_min = drive * length + potential(graph.nodes[f"{name}_w"], since)
        # With all inputs in, the slope is drive + sum W = 1 at every position.
        ones = potential(graph.nodes[f"{name}_w"], np.ones_like(since[:1]))
        np.testing.assert_allclose(drive + ones[0], 1.0, atol=1e-12)
        since = np.maximum(window - np.maximum(theta - at_min, 0.0), 0.0)
        length = window
        if name == "layer_0":
            since = since.reshape(len(x), -1)
    bias = np.array(json.loads(graph.nodes["readout_i"].metadata["bias"]))
    logits = bias + potential(graph.nodes["readout_w"], since)
    np.testing.assert_allclose(logits, expected, atol=1e-10)


def test_nir_limits_are_explained():
    nir = pytest.importorskip("nir")
    layers, shape = NETS["vgg"]
    network, params = fuse.fuse(layers, random_params(layers, shape), shape)
    deltas = {layer.name: 1.0 for layer in network.hidden}
    with pytest.raises(ValueError, match="pool_0.*no max pooling"):
        nir_io.to_graph(network, params, deltas)
    nodes = {"input": nir.Input(np.array([2])), "output": nir.Output(np.array([2]))}
    with pytest.raises(ValueError, match="metadata"):
        nir_io.from_graph(nir.NIRGraph(nodes=nodes, edges=[("input", "output")]))


# --- costs and pictures -------------------------------------------------------------------------


def test_costs_are_counted_by_hand():
    network = fuse.structure(relu.mlp((3,), 2), (2, 2, 1))
    params = {
        "layer_0": {"weight": np.zeros((4, 3)), "bias": np.array([0.5, -1.0, 0.0])},
        "readout": {"weight": np.ones((3, 2)), "bias": np.zeros(2)},
    }
    x = np.array([[1.0, 0.0, 0.5, 0.0], [0.0, 0.0, 0.0, 1.0]]).reshape(2, 2, 2, 1)
    cost = accounting.count(network, params, [x], {"layer_0": 2.0})
    assert cost.spikes == {"input": 1.5, "layer_0": 1.0}
    assert cost.spikes_per_neuron == pytest.approx(1 / 3)
    assert cost.spikes_per_neuron_with_input == pytest.approx(2.5 / 7)
    assert cost.synaptic_operations == 1.5 * 3 + 1.0 * 2
    assert cost.macs == 12 + 6 and cost.latency == 3.0
    assert cost.energy_nj == pytest.approx(6.5 * 0.9e-3)
    forced = accounting.count(network.with_rule("b1_forced"), params, [x], {"layer_0": 2.0})
    assert forced.spikes_per_neuron == 1.0


def test_fan_out_of_convolutions_leaves_out_the_border():
    layer = net.Layer(
        "l", (3, 3, 2), (net.Edge("input", net.Conv(2, (3, 3), padding=((1, 1),) * 2)),)
    )
    from snn.ttfs import synapses

    fan = np.asarray(synapses.fan_out(layer, 0, (3, 3, 1)))[..., 0]
    np.testing.assert_array_equal(fan, [[8, 12, 8], [12, 18, 12], [8, 12, 8]])


def test_pictures_are_written_and_potentials_reach_the_threshold(tmp_path):
    layers, shape = NETS["mlp"]
    params = random_params(layers, shape)
    x = np.random.default_rng(0).uniform(size=(4, *shape))
    mapped = mapping.map_relu(layers, params, shape, [x], windows_from="certified")
    args = (mapped.network, mapped.params)
    pictures.raster(*args, x[0], mapped.windows, tmp_path / "raster.png")
    pictures.voltages(*args, x[0], mapped.windows, "layer_1", tmp_path / "v.png")
    pictures.window_map(*args, x, mapped.windows, tmp_path / "windows.png")
    pictures.strip(*args, x[0], mapped.windows, tmp_path / "strip.png")
    for name in ("raster", "v", "windows", "strip"):
        assert (tmp_path / f"{name}.png").read_bytes().startswith(b"\x89PNG")
    with pytest.raises(ValueError, match="no spiking layer 'x'"):
        pictures.voltages(*args, x[0], mapped.windows, "x", tmp_path / "v.png")
    _, leads = net.closed_form(*args, x[:1])
    layer = mapped.network.hidden[1]
    grid, v, theta = pictures.potentials(*args, leads, mapped.windows, layer)
    lead = np.asarray(leads["layer_1"])[0]
    end = grid[-1]
    for i in np.flatnonzero(lead > 0):
        assert np.interp(end - lead[i], grid, v[:, i] - theta[i]) == pytest.approx(0, abs=1e-2)
