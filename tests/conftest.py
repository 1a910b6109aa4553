# SPDX-License-Identifier: Apache-2.0
"""Session-wide set-up: eight virtual CPU devices, a persistent compile cache, parsed absl flags.

Everything here must happen before jax is imported by any test module.
"""

import gc
import importlib.metadata
import os
import pathlib
import sys
import warnings
from collections.abc import Iterator

_CACHE = pathlib.Path(__file__).resolve().parent.parent / ".jax_cache"

os.environ.setdefault("JAX_PLATFORMS", "cpu")
if "xla_force_host_platform_device_count" not in os.environ.get("XLA_FLAGS", ""):
    os.environ["XLA_FLAGS"] = (
        os.environ.get("XLA_FLAGS", "") + " --xla_force_host_platform_device_count=8"
    ).strip()
# Compilation dominates the suite, and the tests' arrays are small: programs that are hardly
# optimised are ready in about half the time. (Level 0 gives NaN gradients in a network with batch
# norm.)
if "xla_backend_optimization_level" not in os.environ["XLA_FLAGS"]:
    os.environ["XLA_FLAGS"] += (
        " --xla_backend_optimization_level=1 --xla_llvm_disable_expensive_passes=true"
    )
    # The older way to emit fused loops takes two thirds of the time. An unknown flag would end the
    # process, so it is given to versions only that are known to have it.
    if importlib.metadata.version("jaxlib").startswith("0.10."):
        os.environ["XLA_FLAGS"] += " --xla_cpu_use_fusion_emitters=false"
# The cache's own threshold of one second would skip nearly everything.
os.environ.setdefault("JAX_COMPILATION_CACHE_DIR", str(_CACHE))
os.environ.setdefault("JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS", "0")
os.environ.setdefault("JAX_PERSISTENT_CACHE_MIN_ENTRY_SIZE_BYTES", "0")
os.environ.setdefault("MPLBACKEND", "Agg")

import pytest  # noqa: E402
from absl import flags  # noqa: E402

flags.FLAGS.mark_as_parsed()

try:
    from hypothesis import HealthCheck, settings
except ImportError:  # property tests are skipped where hypothesis is absent
    pass
else:
    # The first example of a jitted property compiles; a deadline would only measure that.
    settings.register_profile(
        "project",
        deadline=None,
        derandomize=True,
        suppress_health_check=[HealthCheck.too_slow, HealthCheck.function_scoped_fixture],
    )
    settings.load_profile("project")


# Linux allows a process 65,530 memory mappings, and each compiled program takes about seven:
# without this, a worker dies of a segmentation fault after some thousands of programs.
_MANY_MAPPINGS = 20_000


def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    """Leaves out what takes minutes, unless -m or a single test asks for it."""
    if config.getoption("-m") or any("::" in arg for arg in config.args):
        return
    reason = pytest.mark.skip(reason="takes minutes; run with -m slow")
    for item in items:
        if "slow" in item.keywords:
            item.add_marker(reason)


@pytest.fixture(autouse=True, scope="module")
def _drop_compiled_programs() -> Iterator[None]:
    yield
    maps = pathlib.Path("/proc/self/maps")
    if maps.exists() and maps.read_bytes().count(b"\n") > _MANY_MAPPINGS:
        import jax

        jax.clear_caches()
        with warnings.catch_warnings():  # what others left open is not this module's failure
            warnings.simplefilter("ignore")
            gc.collect()


@pytest.fixture
def python() -> str:
    """The interpreter for tests that run a program in its own process."""
    return sys.executable


@pytest.fixture(scope="session")
def repo() -> pathlib.Path:
    """Root of the checkout."""
    return pathlib.Path(__file__).resolve().parent.parent
