"""What is to be computed: scores, pairs, channels, and the one place that checks user input.

Everything here is a frozen description. Nothing here computes a score.
"""

from .advice import ContrastileWarning
from .channels import Channel, Phi, Term
from .checks import InputError
from .pairs import And, Equal, Index, Not, Or, Overlap, Pairs
from .problem import Problem
from .scores import Scores

__all__ = [
    "And",
    "Channel",
    "ContrastileWarning",
    "Equal",
    "Index",
    "InputError",
    "Not",
    "Or",
    "Overlap",
    "Pairs",
    "Phi",
    "Problem",
    "Scores",
    "Term",
]
