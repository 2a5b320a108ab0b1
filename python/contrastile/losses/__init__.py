"""The losses: O(N) formulas over the primitives' stats, each with its paper, and module twins."""

from .clip import ClipLoss, clip_loss
from .dcl import DCL, DCLW, dcl_loss, dclw_loss
from .distill import DistillClipLoss, distill_clip_loss
from .gist import GISTEmbedLoss, gist_loss
from .gram import GramLoss, gram_loss
from .hard_negative import HardNegativeNCE, hard_negative_nce
from .infonce import InfoNCE, info_nce
from .logit_scale import LogitScale
from .matryoshka import Matryoshka, matryoshka
from .max_sim import MaxSimInfoNCE, max_sim_info_nce
from .multi_positive import MultiPositiveNCE, multi_positive_nce
from .ntxent import NTXent, nt_xent
from .options import Options
from .qwen3 import Qwen3Loss, qwen3_loss
from .rows import Stats
from .siglip import SigLip, siglip_loss
from .supcon import SupCon, supcon_loss

__all__ = [
    "DCL",
    "DCLW",
    "ClipLoss",
    "DistillClipLoss",
    "GISTEmbedLoss",
    "GramLoss",
    "HardNegativeNCE",
    "InfoNCE",
    "LogitScale",
    "Matryoshka",
    "MaxSimInfoNCE",
    "MultiPositiveNCE",
    "NTXent",
    "Options",
    "Qwen3Loss",
    "SigLip",
    "Stats",
    "SupCon",
    "clip_loss",
    "dcl_loss",
    "dclw_loss",
    "distill_clip_loss",
    "gist_loss",
    "gram_loss",
    "hard_negative_nce",
    "info_nce",
    "matryoshka",
    "max_sim_info_nce",
    "multi_positive_nce",
    "nt_xent",
    "qwen3_loss",
    "siglip_loss",
    "supcon_loss",
]
