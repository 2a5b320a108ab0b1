"""A step of each kind of problem: between them they launch every kernel in every form."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import contrastile.functional as losses
import torch
from contrastile.ops import pair_sum, sweep
from contrastile.problem import (
    Above,
    Channel,
    Index,
    Map,
    Mapped,
    Phi,
    Plane,
    Reduction,
    Term,
)
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
        "smooth ranks": lambda: smooth_ranks(make(), make(), own),
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
    made |= _sweeps(make, scalar, {"backend": "triton"})
    return {name: _with_backward(step) for name, step in made.items()}


def smooth_ranks(x: Tensor, y: Tensor, own: dict[str, Any]) -> Tensor:
    """How many of each row score above its positive, as a sum of sigmoids."""
    positive = -9.0 * (x * y).float().sum(1)
    others = Term(Phi.SIGMOID, ~Index.diagonal(len(x), device=x.device))
    return pair_sum(x, y, terms=[others], scale=9.0, row_bias=positive, **own).rows[0].sum()


def _sweeps(
    make: Callable[..., Tensor], scalar: Callable[[float], Tensor], own: dict[str, Any]
) -> dict[str, Callable[[], Tensor]]:
    """Planes with factors, all maps, predicates over planes; of one set; of the most planes."""

    def several() -> Tensor:
        x, y = make(), make()
        rows, columns, size = x.float().sum(1), y.float().sum(1), x.shape[1]
        planes: list[Plane | Mapped] = [
            Plane(x, y, rows, columns, (0, size // 2)),
            Plane(x, y, rows, columns),
            Mapped(Map.VOLUME, (0, 1), rows, columns),
            Mapped(Map.SOFT_TARGET, (0, 2), rows, columns),
            Mapped(Map.CENTRED, (3,), rows, columns),
        ]
        limits, pairs = rows.detach(), Index.diagonal(len(x), device=x.device)
        above = Above(0, rows=limits) & ~Above(1, columns=columns.detach())
        scale = scalar(9.0)
        reductions = [
            Reduction(0, [Channel(~pairs)], scale=scale, columns=True, positives=pairs),
            Reduction(1, terms=[Term(Phi.SOFTPLUS, above)], scale=scale, columns=True),
            Reduction(2, [Channel(above), Channel()], columns=True),
            Reduction(4, terms=[Term(Phi.IDENTITY)]),
        ]
        return total(sweep(planes, reductions, **own))

    def one_set() -> Tensor:
        x = make()
        factors = x.float().sum(1)
        others = Channel(~Index.diagonal(len(x), device=x.device))
        return total(sweep([Plane(x, None, factors, factors)], [Reduction(0, [others])], **own))

    def most() -> Tensor:
        planes = [Plane(make(16), make(16)) for _ in range(7)]
        volume = Mapped(
            Map.VOLUME, tuple(range(7)), make(16).float().sum(1), make(16).float().sum(1)
        )
        return total(sweep([*planes, volume], [Reduction(7, [Channel()], columns=True)], **own))

    def total(found: tuple[Any, ...]) -> Tensor:
        return sum((v.sum() for s in found for v in (*s.rows, *s.columns)), torch.zeros(()))

    return {"sweep": several, "sweep of one set": one_set, "sweep of seven planes": most}


def _with_backward(step: Callable[[], Tensor]) -> Step:
    return lambda: step().backward()
