# SPDX-License-Identifier: Apache-2.0
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from core import optim
from rwkvjax import model
from rwkvjax.config import Config, get_config
from rwkvjax.losses import cross_entropy, l2_wrap
from rwkvjax.optim import group_fn
from rwkvjax.task import LanguageModelTask, TaskConfig, score

CFG = Config(
    version="6", vocab_size=11, dim=16, layers=1, head_size=8, mix_rank=2, decay_rank=2, wkv="scan"
)


def _batch(rows=3, context=6, seed=0):
    rng = np.random.default_rng(seed)
    mask = (rng.random((rows, context)) < 0.7).astype(np.float32)
    mask[0] = 1
    return {
        "tokens": rng.integers(0, 11, (rows, context + 1)).astype(np.int32),
        "reset": np.zeros((rows, context + 1), bool),
        "loss_mask": mask,
    }


@pytest.fixture(scope="module")
def params():
    start = jax.jit(lambda: model.init(jax.random.key(0), CFG))()
    rng = np.random.default_rng(0)
    return jax.tree.map(lambda x: x + 0.3 * rng.normal(size=x.shape).astype(x.dtype), start)


def test_l2_wrap_leaves_the_loss_and_pulls_the_largest_logit():
    logits = jax.random.normal(jax.random.key(0), (2, 3, 5))
    weight = jnp.full((2, 3), 1e-4 / 6)

    def wrapped(logits, scale):
        return scale * l2_wrap(cross_entropy(logits, jnp.zeros((2, 3), int)).mean(), logits, weight)

    plain = lambda x: cross_entropy(x, jnp.zeros((2, 3), int)).mean()
    assert wrapped(logits, 1.0) == plain(logits)
    closed = jax.grad(lambda x: 0.5e-4 * jnp.square(x.max(-1)).mean())(logits)
    for scale in (1.0, 7.0):  # the pull does not scale with the incoming gradient
        extra = jax.grad(wrapped)(logits, scale) - scale * jax.grad(plain)(logits)
        np.testing.assert_allclose(extra, closed, atol=3e-7)


def test_loss_is_the_masked_mean(params):
    batch = _batch()
    task = LanguageModelTask(CFG, 6)
    loss, (carry, aux) = jax.jit(task.loss)(params, (), batch, jax.random.key(0))
    logits, _ = jax.jit(model.apply, static_argnums=1)(params, CFG, batch["tokens"][:, :-1])
    log_p = jax.nn.log_softmax(logits)
    picked = np.take_along_axis(np.asarray(log_p), batch["tokens"][:, 1:, None], -1)[..., 0]
    mask = batch["loss_mask"]
    np.testing.assert_allclose(loss, -(picked * mask).sum() / mask.sum(), rtol=1e-5)
    assert aux["weight"] == mask.sum() and carry == ()
    np.testing.assert_allclose(score(params, CFG, batch["tokens"]), picked, atol=1e-5)


def test_carried_state_continues_the_sequence(params):
    batch = _batch(context=12)
    halves = [
        {
            "tokens": batch["tokens"][:, i : i + 7],
            "reset": batch["reset"][:, i : i + 7],
            "loss_mask": np.ones((3, 6), np.float32),
        }
        for i in (0, 6)
    ]
    batch["loss_mask"][:] = 1
    whole, _ = jax.jit(LanguageModelTask(CFG, 12).loss)(params, (), batch, jax.random.key(0))
    task = LanguageModelTask(CFG, 6, TaskConfig(carry_state=True))
    part = jax.jit(task.loss)
    first, (state, _) = part(params, task.init_carry(3), halves[0], jax.random.key(0))
    second, _ = part(params, state, halves[1], jax.random.key(0))
    np.testing.assert_allclose((first + second) / 2, whole, rtol=1e-5)
    into_first = jax.jit(jax.grad(lambda s: task.loss(params, s, halves[1], None)[0]))(state)
    assert all(not np.any(g) for g in jax.tree.leaves(into_first))  # truncated


def test_evaluation_counts_bytes(params):
    lengths = np.arange(11.0)
    task = LanguageModelTask(CFG, 6, token_bytes=lengths)
    batch = {**_batch(), "valid": np.array([1, 1, 0], np.float32)}
    sums = jax.jit(task.eval_sums)(params, batch)
    mask = batch["loss_mask"] * batch["valid"][:, None]
    np.testing.assert_allclose(sums["bytes"], (lengths[batch["tokens"][:, 1:]] * mask).sum())
    metrics = task.eval_metrics({k: float(v) for k, v in sums.items()})
    expected = float(sums["nats"]) / np.log(2) / float(sums["bytes"])
    assert metrics["bits_per_byte"] == pytest.approx(expected)
    with pytest.raises(ValueError, match="no token to predict"):
        task.eval_metrics({"nats": 0.0, "tokens": 0.0, "bytes": 0.0})
    with pytest.raises(ValueError, match="token_bytes must have shape"):
        LanguageModelTask(CFG, 6, token_bytes=np.ones(3))


# --- optimiser groups -------------------------------------------------------------------------


def test_official_groups_of_finch():
    groups = optim.describe_groups(model.param_specs(get_config("finch-0.1b")), group_fn())
    assert groups["lr2"] == ["blocks/att/time_decay"]
    assert set(groups) == {"lr1", "lr1_decay", "lr2"}
    matrices = {p.removeprefix("blocks/") for p in groups["lr1_decay"]}
    assert matrices == {
        *("emb/weight", "head/weight", "ffn/key", "ffn/receptance", "ffn/value"),
        *("att/gate", "att/key", "att/output", "att/receptance", "att/value"),
    }
    assert "blocks/att/time_decay_w2" in groups["lr1"]  # a LoRA factor, not the decay itself


def test_official_groups_of_rwkv4_and_goose():
    groups = optim.describe_groups(model.param_specs(get_config("rwkv4-pile-0.1b")), group_fn())
    assert groups["lr3"] == ["blocks/att/time_first"]
    assert groups["lr2"] == ["blocks/att/time_decay"]
    later = optim.describe_groups(model.param_specs(get_config("rwkv4-pile-0.1b")), group_fn(2))
    assert {"time_mix_k", "time_decay", "time_first"} <= {p.split("/")[-1] for p in later["lr5"]}
    goose = optim.describe_groups(model.param_specs(get_config("goose-0.1b")), group_fn())
    assert goose["lr2"] == ["blocks/att/w0"]
    with pytest.raises(ValueError, match="stage must be 1 or 2"):
        group_fn(3)
