"""Losses over the ranks of a process group: who takes part, and how keys and sums travel."""

from .columns import Columns, OwnColumns
from .peers import (
    ALONE,
    EXCHANGES,
    GRAD_SCALES,
    OFFLOADS,
    Alone,
    Offloaded,
    Peers,
    Processes,
    process_group,
    together,
)

__all__ = [
    "ALONE",
    "EXCHANGES",
    "GRAD_SCALES",
    "OFFLOADS",
    "Alone",
    "Columns",
    "Offloaded",
    "OwnColumns",
    "Peers",
    "Processes",
    "process_group",
    "together",
]
