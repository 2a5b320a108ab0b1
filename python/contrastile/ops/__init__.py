"""The differentiable primitives. A loss is an O(N) formula over what they return."""

from .expectation import Expectation, expectation
from .gather import gather_dot
from .group_max import GroupMax, group_max
from .lse import log_sum_exp
from .merge import merge_log_sum_exp
from .stats import ScoreStats
from .sums import pair_sum
from .sweep import sweep
from .top_k import TopK, top_k

__all__ = [
    "Expectation",
    "GroupMax",
    "ScoreStats",
    "TopK",
    "expectation",
    "gather_dot",
    "group_max",
    "log_sum_exp",
    "merge_log_sum_exp",
    "pair_sum",
    "sweep",
    "top_k",
]
