"""What a batch takes of GPUs, their memory and their links, before it is trained with.

Nothing here was measured on the GPUs it speaks of: memory is counted and checked against what the
CPU allocates, bytes and calls are those of the exchange, times are a model's.
"""

from .cost import Cost, cost_of
from .memory import Memory, memory_of
from .plans import Plan, Wanted, plan
from .presets import GPUS, LINKS, Cluster, Gpu, Kernels, Link, Pass
from .schedule import schedule_of
from .shapes import Shape
from .simulate import replay

__all__ = [
    "GPUS",
    "LINKS",
    "Cluster",
    "Cost",
    "Gpu",
    "Kernels",
    "Link",
    "Memory",
    "Pass",
    "Plan",
    "Shape",
    "Wanted",
    "cost_of",
    "memory_of",
    "plan",
    "replay",
    "schedule_of",
]
