"""A step of each kind of problem: between them they launch every kernel in every form."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import contrastile.functional as losses
import torch
from torch import Tensor
from torch.nn.functional import normalize

# No tile of any configuration divides the rows; so few as SMALL_ROWS launch the general form alone.
# Embeddings are aligned; from KEPT_SIZE on dot products are kept in every dtype, if the workspace
# has room.
ROWS, SMALL_ROWS, SIZE, KEPT_SIZE = 2088, 2000, 512, 1024
Step = Callable[[], object]


def steps(
    dtype: torch.dtype, device: torch.device | str = "cpu", rows: int = ROWS, size: int = SIZE
) -> dict[str, Step]:
    """A step of each kind of problem: sides, self mode, predicates, pair sums, two reductions;
    small ones, and those that keep dot products.
    """
    kept_size = max(size, KEPT_SIZE)

    def make(size: int = size, rows: int = rows) -> Tensor:
        return normalize(torch.randn(rows, size, device=device)).to(dtype).requires_grad_()

    def scalar(value: float) -> Tensor:
        return torch.tensor(value, device=device, requires_grad=True)

    ids = torch.arange(rows, device=device) % 7

    def siglip(size: int = size, **own: Any) -> Tensor:
        """Of rows, sums and weights each take a look at the scores; of one number, one for both."""
        own = {"logit_scale": scalar(9.0), "logit_bias": scalar(-9.0), **own}
        return losses.siglip_loss(make(size), make(size), **own).sum()

    kept: dict[str, Any] = {"backend": "triton"}
    own = {**kept, "workspace": rows * rows * max(dtype.itemsize, 4)}
    # Room for one block of all weights, but not for dot products beside it.
    small = {**kept, "workspace": SMALL_ROWS * SMALL_ROWS * max(dtype.itemsize, 4) * 3 // 2}
    made: dict[str, Callable[[], Tensor]] = {
        "clip_loss": lambda: losses.clip_loss(make(), make(), logit_scale=scalar(9.0), **own),
        "info_nce": lambda: losses.info_nce(make(), make(), temperature=0.1, **own),
        "nt_xent": lambda: losses.nt_xent(make(), make(), logit_scale=scalar(9.0), **own),
        "supcon_loss": lambda: losses.supcon_loss(make(), ids, logit_scale=scalar(9.0), **own),
        "multi_positive_nce": lambda: losses.multi_positive_nce(
            make(), make(), ids, ids, logit_scale=scalar(9.0), **own
        ),
        "siglip_loss": lambda: siglip(**own),
        "siglip_loss with ids": lambda: siglip(ids=ids, **own),
        "siglip_loss of rows": lambda: siglip(reduction="none", **own),
        "siglip_loss of rows with ids": lambda: siglip(ids=ids, reduction="none", **own),
        "clip_loss, small": lambda: losses.clip_loss(
            make(rows=SMALL_ROWS), make(rows=SMALL_ROWS), logit_scale=scalar(9.0), **small
        ),
        "nt_xent, small": lambda: losses.nt_xent(
            make(rows=SMALL_ROWS // 2), make(rows=SMALL_ROWS // 2), logit_scale=9.0, **small
        ),
        "clip_loss, kept": lambda: losses.clip_loss(
            make(kept_size), make(kept_size), logit_scale=scalar(9.0), **kept
        ),
        "nt_xent, kept": lambda: losses.nt_xent(
            make(kept_size), make(kept_size), logit_scale=scalar(9.0), **kept
        ),
        "siglip_loss of rows, kept": lambda: siglip(kept_size, reduction="none", **kept),
    }
    return {name: _with_backward(step) for name, step in made.items()}


def _with_backward(step: Callable[[], Tensor]) -> Step:
    return lambda: step().backward()
