"""A whole federation in one process, under simulated time: everything follows from one seed.

The real core of a node (`NodeCore`), the real consensus, LMDB, authority, check path and signed
commands; simulated are time, clocks, network, disks' faults and the people. docs/simulation.md says
what it covers, and how to run it.
"""

from quorate.testing.simulation.plan import PROFILES, Plan, Profile, make_plan
from quorate.testing.simulation.run import Failure, Report, run_plan, run_seed

__all__ = [
    "PROFILES",
    "Failure",
    "Plan",
    "Profile",
    "Report",
    "make_plan",
    "run_plan",
    "run_seed",
]
