"""What is to be computed: scores, pairs, channels, and the one place that checks user input.

Everything here is a frozen description. Nothing here computes a score.
"""

from .advice import ContrastileWarning
from .channels import Channel, Phi, Term
from .checks import InputError
from .comparisons import Above, AtMost, Less, Within
from .pairs import And, Equal, Index, Not, Or, Overlap, Pairs
from .planes import Map, Mapped, Plane
from .problem import Problem
from .scores import Scores
from .sweep import Reduction, Sweep

__all__ = [
    "Above",
    "And",
    "AtMost",
    "Channel",
    "ContrastileWarning",
    "Equal",
    "Index",
    "InputError",
    "Less",
    "Map",
    "Mapped",
    "Not",
    "Or",
    "Overlap",
    "Pairs",
    "Phi",
    "Plane",
    "Problem",
    "Reduction",
    "Scores",
    "Sweep",
    "Term",
    "Within",
]
