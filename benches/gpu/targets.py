"""What the project aims at on a GPU: bf16 on an H200, forward and backward, a learnable scale."""

from __future__ import annotations

WIDTHS = (256, 512, 768, 1024)
AIMED_SIZES = (32768, 65536)


def _of_clip(n: int, *milliseconds: float) -> dict[tuple[str, int, int], float]:
    return {("clip_loss", n, d): ms for d, ms in zip(WIDTHS, milliseconds, strict=True)}


# Milliseconds by (loss, N, D).
MILLISECONDS = {
    **_of_clip(32768, 3.4, 6.7, 10.0, 13.3),
    **_of_clip(65536, 13.3, 26.5, 40.0, 53.0),
    ("siglip_loss", 65536, 768): 40.0,
}
# clip_loss over the formula in eager torch at the aimed sizes, by D.
OVER_EAGER = dict(zip(WIDTHS, (8.0, 4.4, 3.2, 2.6), strict=True))
# Batches at which clip_loss is to be no slower than it.
NO_SLOWER_AT = (1024, 2048, 4096)
# TFLOP/s of each pass of the backend "cuda" over all pairs, and clip_loss over Triton's, by D.
PASS_TFLOPS = 640.0
OVER_TRITON = {256: 1.15}
# What a step of clip_loss or siglip_loss may take of the host.
HOST_US = 250.0
