"""Contrastive losses for PyTorch, tile by tile: the N x M score matrix is never stored."""

from . import functional, ops
from .losses import (
    DCL,
    DCLW,
    ClipLoss,
    HardNegativeNCE,
    InfoNCE,
    LogitScale,
    Matryoshka,
    MultiPositiveNCE,
    NTXent,
    SigLip,
    Stats,
    SupCon,
    clip_loss,
    dcl_loss,
    dclw_loss,
    hard_negative_nce,
    info_nce,
    matryoshka,
    multi_positive_nce,
    nt_xent,
    siglip_loss,
    supcon_loss,
)
from .problem import ContrastileWarning, InputError
from .training import MemoryQueue
from .warm_up import warm_up

__version__ = "0.1.0"

__all__ = [
    "DCL",
    "DCLW",
    "ClipLoss",
    "ContrastileWarning",
    "HardNegativeNCE",
    "InfoNCE",
    "InputError",
    "LogitScale",
    "Matryoshka",
    "MemoryQueue",
    "MultiPositiveNCE",
    "NTXent",
    "SigLip",
    "Stats",
    "SupCon",
    "__version__",
    "clip_loss",
    "dcl_loss",
    "dclw_loss",
    "functional",
    "hard_negative_nce",
    "info_nce",
    "matryoshka",
    "multi_positive_nce",
    "nt_xent",
    "ops",
    "siglip_loss",
    "supcon_loss",
    "warm_up",
]
