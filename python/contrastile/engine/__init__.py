"""The engine: streams stats over blocks of the scores, and their gradients in bounded strips."""

from .functions import GatherDot, PairSum, ScoreLogSumExp

__all__ = ["GatherDot", "PairSum", "ScoreLogSumExp"]
