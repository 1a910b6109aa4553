# SPDX-License-Identifier: Apache-2.0
"""The bare RWKV recurrences as pure functions with explicit state.

Each `wkvN` runs a sequence and each `wkvN_step` one token; both take the state before and return
the state after. See the modules v4 ... v7 for the equations.
"""

from rwkvjax.wkv.summary import Wkv6Summary, combine, wkv6_summary
from rwkvjax.wkv.v4 import Wkv4State, wkv4, wkv4_initial_state, wkv4_step
from rwkvjax.wkv.v5 import wkv5, wkv5_step
from rwkvjax.wkv.v6 import wkv6, wkv6_step
from rwkvjax.wkv.v7 import wkv7, wkv7_step

__all__ = [
    "Wkv4State",
    "Wkv6Summary",
    "combine",
    "wkv4",
    "wkv4_initial_state",
    "wkv4_step",
    "wkv5",
    "wkv5_step",
    "wkv6",
    "wkv6_step",
    "wkv6_summary",
    "wkv7",
    "wkv7_step",
]
