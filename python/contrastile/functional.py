"""The losses as functions: ``import contrastile.functional as CF``."""

from .losses import (
    clip_loss,
    dcl_loss,
    dclw_loss,
    distill_clip_loss,
    gist_loss,
    gram_loss,
    hard_negative_nce,
    info_nce,
    matryoshka,
    max_sim_info_nce,
    multi_positive_nce,
    nt_xent,
    qwen3_loss,
    siglip_loss,
    supcon_loss,
)

__all__ = [
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
