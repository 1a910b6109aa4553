# SPDX-License-Identifier: Apache-2.0
"""The bare RWKV recurrences as pure functions with explicit state.

Each `wkvN` runs a sequence and each `wkvN_step` one token; both take the state before and return
the state after. See the modules v4 ... v7 for the equations.
"""

from rwkvjax.wkv.summary import Wkv6Summary as Wkv6Summary
from rwkvjax.wkv.summary import combine as combine
from rwkvjax.wkv.summary import wkv6_summary as wkv6_summary
from rwkvjax.wkv.v4 import Wkv4State as Wkv4State
from rwkvjax.wkv.v4 import wkv4 as wkv4
from rwkvjax.wkv.v4 import wkv4_initial_state as wkv4_initial_state
from rwkvjax.wkv.v4 import wkv4_step as wkv4_step
from rwkvjax.wkv.v5 import wkv5 as wkv5
from rwkvjax.wkv.v5 import wkv5_step as wkv5_step
from rwkvjax.wkv.v6 import wkv6 as wkv6
from rwkvjax.wkv.v6 import wkv6_step as wkv6_step
from rwkvjax.wkv.v7 import wkv7 as wkv7
from rwkvjax.wkv.v7 import wkv7_step as wkv7_step
