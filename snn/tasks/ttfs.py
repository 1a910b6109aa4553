# SPDX-License-Identifier: Apache-2.0
"""Training of TTFS classifiers: task, configuration and data of one run."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Mapping
from typing import Any

import jax
import jax.numpy as jnp
import optax

from core import config as config_lib
from core import optim
from core import params as params_lib
from core.task import Aux, PyTree, TrainConfig
from snn.tasks.ttfs_params import param_specs
from snn.ttfs import effects as effects_lib
from snn.ttfs import fuse, images, kernels, relu, simulate
from snn.ttfs import network as net

ARCHITECTURES = ("mlp", "lenet", "vgg")
INITS = ("he", "glorot", "alpha1_smart")
KERNELS: dict[str, Any] = {
    "ramp": lambda tau: kernels.Ramp(),
    "exponential": kernels.Exponential,
    "lif1": kernels.Lif1,
    "lif2": kernels.Lif2,
}


@dataclasses.dataclass(frozen=True)
class ModelConfig:
    """The network.

    Attributes:
      architecture: "mlp", "lenet" (5 x 5 convolutions, each pooled) or "vgg" (blocks of 3 x 3).
      channels: channels of lenet's convolutions, or of each block of vgg.
      hidden: widths of the dense layers before the read-out.
      classes: outputs.
      rule: "b1", "alpha1", or "autonomous" (needs semantics "causal"; see `snn.ttfs.network`).
      init: "he", "glorot", or "alpha1_smart" (draws the effective weights, see `SmartAlpha1`);
        autonomous layers have one of their own (`Excitatory`).
      kernel, tau, threshold: of rule "autonomous": "ramp", "exponential", "lif1" or "lif2".
      delay: learnable delays of the hidden layers, "", "axonal" or "synaptic".
      batch_norm, conv_dropout: see `relu.vgg`; only for `snn.tasks.relu`, which trains the ReLU
        network; empty for spiking networks, which have none.
    """

    architecture: str = "mlp"
    channels: tuple[Any, ...] = ()
    hidden: tuple[int, ...] = (600,)
    classes: int = 10
    rule: str = "b1"
    init: str = "he"
    kernel: str = "ramp"
    tau: float = 1.0
    threshold: float = 1.0
    delay: str = ""
    batch_norm: str = ""
    conv_dropout: tuple[float, ...] = ()

    def __post_init__(self) -> None:
        if self.architecture not in ARCHITECTURES or self.init not in INITS:
            raise ValueError(
                f"architecture must be one of {ARCHITECTURES} and init one of {INITS}, got"
                f" {self.architecture!r} and {self.init!r}"
            )
        if self.rule not in ("b1", "alpha1", "autonomous"):
            raise ValueError(f"rule must be b1, alpha1 or autonomous, got {self.rule!r}")
        if self.kernel not in KERNELS or (self.kernel != "ramp" and self.rule != "autonomous"):
            raise ValueError(
                f"kernel must be one of {sorted(KERNELS)}, all but ramp with rule autonomous, got"
                f" {self.kernel!r} with rule {self.rule!r}"
            )
        if self.init == "alpha1_smart" and self.rule != "alpha1":
            raise ValueError(f"init alpha1_smart draws weights of rule alpha1, not {self.rule!r}")
        if self.conv_dropout and self.architecture != "vgg":
            raise ValueError(f"conv_dropout is for vgg, not {self.architecture!r}")

    def layers(self) -> tuple[relu.ReluLayer, ...]:
        """The ReLU network of the same shape."""
        if self.architecture == "mlp":
            return relu.mlp(self.hidden, self.classes)
        if self.architecture == "lenet":
            return relu.lenet(self.channels, self.hidden, self.classes, self.batch_norm)
        return relu.vgg(
            self.channels, self.hidden, self.classes, self.batch_norm, self.conv_dropout
        )


@dataclasses.dataclass(frozen=True)
class DataConfig:
    """Images.

    Attributes:
      name: see `images.DATASETS`.
      train_examples, test_examples: use the first so many; 0 for all.
      validation: the last so many training images are held out, for evaluation during training
        and for the choice of settings and parameters; the test images are used once, at the end.
      train_on_validation: train on the held-out images too (final runs with settled settings);
        nothing is evaluated during training then.
      certify_examples: the first so many test images on which the windows are certified; 0: all.
      augment: changes of training images.
      eval_batch_size: rows of an evaluation batch.
    """

    name: str = "mnist"
    train_examples: int = 0
    test_examples: int = 0
    validation: int = 0
    train_on_validation: bool = False
    certify_examples: int = 1000
    augment: images.Augment = images.Augment()
    eval_batch_size: int = 500


@dataclasses.dataclass(frozen=True)
class TaskConfig:
    """Loss and spiking behaviour.

    Attributes:
      semantics: "ideal", "clip" or "causal" (true early crossings, by the causal solver).
      window: initial Delta of every layer.
      growth: gamma of the adaptive windows, Delta <- max(Delta, gamma * largest lead time).
      activity: weight of the sum of the hidden neurons' lead times (L1; mean over the batch), which
        makes spikes rare.
      dropout: rate on the lead times of hidden dense layers.
      label_smoothing: of the cross-entropy.
      effects: imperfect hardware in training.
      init_from: model.safetensors of a mapped or trained network to fine-tune, in its windows.
    """

    semantics: str = "ideal"
    window: float = 30.0
    growth: float = 10.0
    activity: float = 0.0
    dropout: float = 0.0
    label_smoothing: float = 0.0
    effects: effects_lib.Effects = effects_lib.Effects()
    init_from: str = ""

    def __post_init__(self) -> None:
        if self.semantics not in net.SEMANTICS:
            raise ValueError(f"semantics must be one of {net.SEMANTICS}, got {self.semantics!r}")
        if self.semantics == "causal" and (self.dropout or not self.effects.none):
            raise ValueError("semantics causal has neither dropout nor effects")
        if self.window <= 0 or self.growth < 1:
            raise ValueError(f"window must be positive and growth at least 1: {self}")
        if not 0 <= self.dropout < 1:
            raise ValueError(f"dropout must be in [0, 1), got {self.dropout}")
        if self.dropout and not self.effects.none:
            raise ValueError("dropout and effects cannot be combined: set dropout to 0")


@dataclasses.dataclass(frozen=True)
class RunConfig:
    """A whole configuration file."""

    task: str
    model: ModelConfig
    data: DataConfig
    train: TrainConfig
    loss: TaskConfig = TaskConfig()
    optimizer: optim.AdamWConfig = optim.AdamWConfig()


def build_config(values: Any) -> RunConfig:
    """Checks a ConfigDict."""
    return config_lib.build(RunConfig, values)


# --- the task -----------------------------------------------------------------------------------


def spike_counts(network: net.Network, leads: Mapping[str, jax.Array]) -> tuple[jax.Array, int]:
    """Spikes of the hidden layers of each example [B], and the number of hidden neurons."""
    counts = jnp.asarray(0.0)
    for layer in network.hidden:
        x = leads[layer.name]
        counts = counts + (x > 0).reshape(x.shape[0], -1).sum(axis=1)
    return counts, sum(math.prod(layer.shape) for layer in network.hidden)


class TtfsTask:
    """Softmax cross-entropy on the logits of a TTFS network; the carry holds the windows."""

    def __init__(
        self,
        network: net.Network,
        cfg: TaskConfig,
        init: str = "he",
        white: float = 255.0,
        eval_source: Any = None,
        eval_batch_size: int = 500,
        windows: Mapping[str, float] | None = None,
        black: float = 0.0,
        bias_maps: tuple[str, ...] = (),
    ):
        """Args: windows: initial Delta of each layer instead of `cfg.window`; bias_maps: layers
        with a bias at each position; black, white: pixels with lead times 0 and 1.
        """
        self.windows = dict(windows or {})
        self.network, self.cfg, self.init = network, cfg, init
        self.black, self.white, self.bias_maps = black, white, bias_maps
        self.eval_source, self.eval_batch_size = eval_source, eval_batch_size
        self.units = ("images", 1)

    def param_specs(self) -> PyTree:
        """See `Task.param_specs`."""
        return param_specs(self.network, self.init, self.bias_maps)

    def init_carry(self, batch_size: int) -> PyTree:
        """Windows of the spiking layers."""
        del batch_size
        initial = lambda name: jnp.asarray(self.windows.get(name, self.cfg.window), jnp.float32)
        return {layer.name: initial(layer.name) for layer in self.network.hidden}

    def carry_axes(self, carry: PyTree) -> PyTree:
        """The windows are scalars."""
        return jax.tree.map(lambda _: (), carry)

    def encode(self, image: jax.Array) -> jax.Array:
        """Lead times of uint8 images."""
        return (image.astype(jnp.float32) - self.black) / (self.white - self.black)

    def forward(
        self, params: PyTree, windows: PyTree, x: jax.Array, key: jax.Array
    ) -> tuple[jax.Array, dict[str, jax.Array]]:
        """Logits and lead times, with the effects and dropout of training."""
        cfg, network = self.cfg, self.network
        if cfg.dropout:
            return self._with_dropout(params, windows, x, key)
        if not cfg.effects.none:
            return effects_lib.run(network, params, x, windows, cfg.effects, key, cfg.semantics)
        return simulate.forward(network, params, x, windows, cfg.semantics)

    def _with_dropout(self, params: PyTree, windows: PyTree, x: jax.Array, key: jax.Array) -> Any:
        leads = {net.INPUT: x}
        for number, node in enumerate(self.network.nodes[:-1]):
            if isinstance(node, net.Pool):
                leads[node.name] = net.pool(node, leads[node.source])
                continue
            z = net.drive(node, params[node.name], leads)
            window = windows[node.name]
            value = net.rectify(node, params[node.name], z, window, self.cfg.semantics)
            if len(node.shape) == 1:
                keep = 1.0 - self.cfg.dropout
                kept = jax.random.bernoulli(jax.random.fold_in(key, number), keep, value.shape)
                value = jnp.where(kept, value / keep, 0.0)
            leads[node.name] = value
        last = self.network.readout
        return net.drive(last, params[last.name], leads), leads

    def loss(
        self, params: PyTree, carry: PyTree, batch: Mapping[str, jax.Array], key: jax.Array
    ) -> tuple[jax.Array, tuple[PyTree, Aux]]:
        """See `Task.loss`; the windows grow as in arXiv 2306.08744 (adaptive t_max)."""
        cfg = self.cfg
        logits, leads = self.forward(params, carry, self.encode(batch["image"]), key)
        loss = cross_entropy(logits, batch["label"], cfg.label_smoothing)
        hidden = {layer.name: leads[layer.name] for layer in self.network.hidden}
        spikes, neurons = spike_counts(self.network, leads)
        aux = {
            "accuracy": (logits.argmax(-1) == batch["label"]).mean(),
            "spikes_per_neuron": spikes.mean() / neurons,
        }
        if cfg.activity:
            total = sum(x.sum() / x.shape[0] for x in hidden.values())
            loss = loss + cfg.activity * total
        windows = carry
        if cfg.semantics == "ideal" and cfg.effects.none:
            largest = {k: jax.lax.stop_gradient(x).max() for k, x in hidden.items()}
            windows = {k: jnp.maximum(w, cfg.growth * largest[k]) for k, w in carry.items()}
        aux["latency"] = 1.0 + sum(windows.values())
        return loss, (windows, aux)

    def eval_sums(self, params: PyTree, batch: Mapping[str, jax.Array]) -> dict[str, jax.Array]:
        """Sums over the valid rows of a batch, without effects and with windows that never clip."""
        x, valid = self.encode(batch["image"]), batch["valid"]
        if self.cfg.semantics == "causal":
            logits, leads = simulate.causal(self.network, params, x, self.init_carry(0))
        else:
            logits, leads = net.closed_form(self.network, params, x)
        spikes, neurons = spike_counts(self.network, leads)
        log_p = jax.nn.log_softmax(logits)
        nll = -jnp.take_along_axis(log_p, batch["label"][:, None], axis=1)[:, 0]
        return {
            "correct": ((logits.argmax(-1) == batch["label"]) * valid).sum(),
            "nll": (nll * valid).sum(),
            "spikes": (spikes / neurons * valid).sum(),
            "count": valid.sum(),
        }

    def eval_metrics(self, sums: Mapping[str, float]) -> dict[str, float]:
        """Accuracy, cross-entropy (nats) and hidden spikes per neuron."""
        n = sums["count"]
        return {
            "accuracy": sums["correct"] / n,
            "cross_entropy": sums["nll"] / n,
            "spikes_per_neuron": sums["spikes"] / n,
        }


def cross_entropy(logits: jax.Array, labels: jax.Array, smoothing: float = 0.0) -> jax.Array:
    """Mean softmax cross-entropy in nats."""
    log_p = jax.nn.log_softmax(logits)
    true = jnp.take_along_axis(log_p, labels[:, None], axis=1)[:, 0]
    return -((1.0 - smoothing) * true + smoothing * log_p.mean(axis=-1)).mean()


def sources(cfg: DataConfig, seed: int) -> tuple[images.ImageSource, Any, images.Images]:
    """Training source, validation source (None if there is none) and the images themselves."""
    data = images.load(cfg.name).hold_out(0 if cfg.train_on_validation else cfg.validation)
    n = cfg.train_examples or len(data.train)
    train = images.ImageSource(data.train[:n], data.train_labels[:n], seed, cfg.augment)
    if data.validation is None:
        return train, None, data
    assert data.validation_labels is not None
    return train, images.ImageSource(data.validation, data.validation_labels, None), data


def build_network(cfg: ModelConfig, input_shape: tuple[int, ...]) -> net.Network:
    """The network of a configuration."""
    if cfg.conv_dropout:
        raise config_lib.ConfigError(
            "config.model.conv_dropout is for task ttfs_relu; a spiking network has"
            " config.loss.dropout"
        )
    network = fuse.structure(cfg.layers(), input_shape)
    options = {
        "rule": cfg.rule,
        "kernel": KERNELS[cfg.kernel](cfg.tau),
        "threshold": cfg.threshold,
    }

    def change(node: net.Node) -> net.Node:
        if isinstance(node, net.Pool) or not node.spiking:
            return node
        edges = tuple(dataclasses.replace(e, delay=cfg.delay) for e in node.edges)
        return dataclasses.replace(node, edges=edges, **options)

    return dataclasses.replace(network, nodes=tuple(change(n) for n in network.nodes))


def make_optimizer(cfg: RunConfig, specs: PyTree) -> optax.GradientTransformation:
    """AdamW; weights decay, delays do not, and they stay non-negative."""
    is_delay = lambda path: path.split("/")[-1].startswith("delay")
    group = lambda path, shape: optim.Group(decay=len(shape) >= 2 and not is_delay(path))
    step = optim.adamw(cfg.optimizer, specs, cfg.train.steps, group)
    delays = params_lib.map_with_path(lambda path, _: is_delay(path), specs)
    if not any(jax.tree.leaves(delays)):
        return step
    return optax.chain(step, optax.masked(optax.keep_params_nonnegative(), delays))
