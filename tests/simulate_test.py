# SPDX-License-Identifier: Apache-2.0
"""Traffic read off compiled programs, and the roofline of the simulated large models."""

import jax
import jax.numpy as jnp
import pytest
from jax.sharding import NamedSharding
from jax.sharding import PartitionSpec as P

from benchmarks import collectives, simulate
from core import sharding
from rwkvjax import flops
from rwkvjax.config import get_config

LAYERS, WIDTH = 5, 16

TEXT = """
HloModule program

%body (p: (s32[], f32[8])) -> (s32[], f32[8]) {
  %x = f32[8] parameter(0)
  %g = f32[64]{0} all-gather(%x), replica_groups=[2,4]<=[8], dimensions={0}
  ROOT %t = (s32[], f32[8]) tuple(%i, %x)
}

%condition (p: (s32[], f32[8])) -> pred[] {
  ROOT %less = pred[] compare(%i, %n), direction=LT
}

ENTRY %main (a: f32[8]) -> f32[8] {
  %a = f32[8] parameter(0)
  %w = (s32[], f32[8]) while(%t0), condition=%condition, body=%body, TRIPS
  %s = (f32[4], bf16[32]) all-reduce(%a, %b), replica_groups={{0,1,2,3,4,5,6,7}}, to_apply=%add
  ROOT %r = f32[8]{0} collective-permute(%a), source_target_pairs={{0,1},{1,0}}
}
"""
TRIPS = 'backend_config={"known_trip_count":{"n":"12"}}'


def test_loops_groups_and_tuples_count():
    text = TEXT.replace("TRIPS", TRIPS)
    found = collectives.traffic(text, 8)
    assert found["all-gather"] == 12 * 64 * 4 * 3 / 4  # groups of four
    assert found["all-reduce"] == 2 * (4 * 4 + 32 * 2) * 7 / 8
    assert found["collective-permute"] == 8 * 4


def test_asynchronous_collectives_count_their_results_once():
    count = lambda text: collectives.traffic(TEXT.replace("TRIPS", TRIPS).replace(*text), 8)
    plain, started = "all-reduce(%a, %b)", "all-reduce-start(%a, %b)"
    assert count((plain, started)) == count((plain, plain))  # all results, no operands
    alone = "f32[64]{0} all-gather(%x)"
    both = "(f32[16]{0}, f32[64]{0}) all-gather-start(%x)"
    assert count((alone, both)) == count((alone, alone))


def test_a_loop_of_unknown_length_and_other_texts_are_errors():
    with pytest.raises(ValueError, match="a loop whose length the compiler does not know"):
        collectives.traffic(TEXT.replace(", TRIPS", ""), 8)
    with pytest.raises(ValueError, match="ENTRY"):
        collectives.traffic("no program", 8)


def test_a_scan_over_sharded_layers_gathers_each_once():
    mesh = sharding.make_mesh({"data": 8})
    weights = jax.ShapeDtypeStruct(
        (LAYERS, WIDTH, WIDTH), jnp.float32, sharding=NamedSharding(mesh, P(None, "data"))
    )
    x = jax.ShapeDtypeStruct((8, WIDTH), jnp.float32, sharding=NamedSharding(mesh, P("data")))
    rows = NamedSharding(mesh, P("data"))
    whole = sharding.replicated(mesh)

    def layer(x, w):
        w = jax.lax.with_sharding_constraint(w, whole)
        return jax.lax.with_sharding_constraint(jnp.tanh(x @ w), rows), None

    run = jax.jit(lambda x, w: jax.lax.scan(layer, x, w)[0], out_shardings=rows)
    found = collectives.traffic(run.lower(x, weights).compile().as_text(), 8)
    assert found["all-gather"] == LAYERS * WIDTH * WIDTH * 4 * 7 / 8
    assert sum(found.values()) == found["all-gather"]


def test_roofline_by_hand():
    cfg = get_config("finch-7b")
    row = {"tokens": 8 * 4096, "devices": 8, "model": 1, "sent": 45e9}
    machine = simulate.MACHINES[0]
    found = simulate.seconds(cfg, row, machine)
    useful = flops.train_flops_per_token(cfg) * 4096
    assert found["compute"] == pytest.approx(useful * 4 / 3 / 989e12)
    assert found["network"] == pytest.approx(0.1)  # 45 GB at 450 GB/s within one machine
    assert found["overlapped"] <= found["in turn"]
    assert found["mfu to"] <= 0.75 + 1e-9  # a quarter of the work is recomputation
    far = simulate.seconds(cfg, row | {"devices": 64, "tokens": 64 * 4096}, machine)
    assert far["network"] == pytest.approx(0.1125)  # 400 GB/s between machines


def test_unknown_slices_and_too_many_devices_are_errors():
    with pytest.raises(ValueError, match="TPU v5p slices have"):
        simulate.devices_of("tpu", 7)
    with pytest.raises(ValueError, match="virtual devices, got 100000"):
        simulate.devices_of("cpu", 100_000)
