"""The differentiable primitives. A loss is an O(N) formula over what they return."""

from .gather import gather_dot
from .lse import log_sum_exp
from .merge import merge_log_sum_exp
from .stats import ScoreStats
from .sums import pair_sum
from .sweep import sweep

__all__ = ["ScoreStats", "gather_dot", "log_sum_exp", "merge_log_sum_exp", "pair_sum", "sweep"]
