"""open_clip's losses by open_clip's signatures, in blocks and over all ranks.

One line of a training script changes: ``from contrastile.integrations.open_clip import
create_loss`` in place of open_clip's, or ``ClipLoss`` and ``SigLipLoss`` where they are made by
hand. Written against open_clip 3; docs/integrations.md has the modes in a table.
"""

from __future__ import annotations

from typing import Any

import torch
import torch.distributed as dist
from open_clip import loss as theirs
from torch import Tensor, nn

from ..losses import clip_loss, distill_clip_loss, info_nce, siglip_loss
from ..problem.advice import advise
from ..problem.checks import InputError
from .inputs import as_multiplied, world

# Which of open_clip's ways never hold the embeddings of all ranks at once.
EXCHANGES = {"bidir": "ring", "shift": "ring", "reduce": "ring", "gather": "gather"}


class ClipLoss(theirs.ClipLoss):
    """:func:`~contrastile.clip_loss` as ``open_clip.ClipLoss``: same arguments, same gradients.

    With several ranks ``gather_with_grad=True`` gives the gradients of the mean over all pairs,
    after DDP has averaged them, with ``local_loss`` or without. ``gather_with_grad=False`` gives
    what open_clip's gives: towers get a ``world_size``-th of that, and with ``local_loss`` lose the
    part that comes through other ranks' rows, which warns.

    The value is the mean over all pairs on every rank, except in that last mode, where it is the
    rank's own as in open_clip.

    Args:
        local_loss, gather_with_grad: see above; neither costs memory here.
        cache_labels: kept; there are no labels to cache.
        rank, world_size: as ``torch.distributed`` has them.
        use_horovod: refused.

    Raises:
        InputError: Horovod; ranks that are not those of torch.distributed (a ValueError).
    """

    def __init__(
        self,
        local_loss: bool = False,
        gather_with_grad: bool = False,
        cache_labels: bool = False,
        rank: int = 0,
        world_size: int = 1,
        use_horovod: bool = False,
    ) -> None:
        if use_horovod:
            name = type(self).__name__
            raise InputError(
                f"{name}: use_horovod is not supported, embeddings travel by torch.distributed; "
                f"open_clip.{name} takes it"
            )
        super().__init__(local_loss, gather_with_grad, cache_labels, rank, world_size, use_horovod)
        if self._loses_a_part:
            self._tell_of_the_part()

    def forward(
        self,
        image_features: Tensor,
        text_features: Tensor,
        logit_scale: Tensor | float,
        logit_bias: Tensor | float | None = None,
        output_dict: bool = False,
    ) -> Any:
        """The loss, or ``{"contrastive_loss": loss}``."""
        x, y = as_multiplied(image_features), as_multiplied(text_features)
        options: dict[str, Any] = {"logit_scale": logit_scale, "logit_bias": logit_bias}
        if self._loses_a_part:
            loss = self._against_constants(x, y, options) + self._against_constants(y, x, options)
            loss = loss / 2
        else:
            loss = clip_loss(x, y, **options, **self._over_ranks())
        return {"contrastive_loss": loss} if output_dict else loss

    @property
    def _loses_a_part(self) -> bool:
        return self.world_size > 1 and self.local_loss and not self.gather_with_grad

    def _tell_of_the_part(self) -> None:
        advise(
            "ClipLoss",
            "partial gradient",
            "local_loss=True with gather_with_grad=False leaves out of each embedding's "
            "gradient what it does as a negative of other rows, as in open_clip; "
            "gather_with_grad=True has all of it",
        )

    def _over_ranks(self) -> dict[str, Any]:
        """Each rank's own part of the gradient, as if it were alone, is what a gather without
        gradient leaves; a scale's is whole on every rank.
        """
        if self.world_size == 1:
            return {}
        group = world(type(self).__name__, self.rank, self.world_size)
        return {"group": group, "grad_scale": "ddp" if self.gather_with_grad else "none"}

    def _against_constants(self, query: Tensor, key: Tensor, options: dict[str, Any]) -> Tensor:
        """This rank's queries against the keys of all ranks, its own among them, as constants."""
        group = world("ClipLoss", self.rank, self.world_size)
        keys = [torch.empty_like(key) for _ in range(self.world_size)]
        dist.all_gather(keys, key.detach().contiguous(), group=group)
        n = query.shape[0]
        own = torch.arange(n, device=query.device) + n * self.rank
        return info_nce(query, torch.cat(keys), positives=own, **options)


class CoCaLoss(theirs.CoCaLoss, ClipLoss):
    """``open_clip.CoCaLoss``, whose contrastive part is :class:`ClipLoss`."""


class DistillClipLoss(theirs.DistillClipLoss, ClipLoss):
    """:func:`~contrastile.distill_clip_loss` beside :class:`ClipLoss`, as
    ``open_clip.DistillClipLoss``: same arguments, same gradients, of a teacher that learns too.

    Args:
        local_loss, gather_with_grad, cache_labels, rank, world_size, use_horovod: as of
            :class:`ClipLoss`, but for the mode whose gradient is a part.

    Raises:
        InputError: with several ranks ``local_loss=True`` and ``gather_with_grad=False``; and what
            :class:`ClipLoss` refuses (a ValueError).
    """

    def _tell_of_the_part(self) -> None:
        raise InputError(
            "DistillClipLoss: local_loss=True needs gather_with_grad=True here; "
            "open_clip.DistillClipLoss leaves a part of the gradient out"
        )

    def forward(  # type: ignore[override]
        self,
        image_features: Tensor,
        text_features: Tensor,
        logit_scale: Tensor | float,
        dist_image_features: Tensor,
        dist_text_features: Tensor,
        dist_logit_scale: Tensor | float,
        output_dict: bool = False,
    ) -> Any:
        """Both losses, or ``{"contrastive_loss": loss, "distill_loss": loss}``."""
        contrastive = ClipLoss.forward(self, image_features, text_features, logit_scale)
        given = image_features, text_features, dist_image_features, dist_text_features
        options: dict[str, Any] = {"logit_scale": logit_scale, **self._over_ranks()}
        options["teacher_scale"] = dist_logit_scale
        distill = distill_clip_loss(*(as_multiplied(x) for x in given), **options)
        if output_dict:
            return {"contrastive_loss": contrastive, "distill_loss": distill}
        return contrastive, distill


class SigLipLoss(theirs.SigLipLoss):
    """:func:`~contrastile.siglip_loss` as ``open_clip.SigLipLoss``: same arguments and gradients.

    All ``dist_impl`` have the same gradients, after DDP has averaged them; the value is the mean
    over the images of all ranks, where open_clip has the rank's own.

    Args:
        cache_labels: kept; there are no labels to cache.
        rank, world_size: as ``torch.distributed`` has them.
        dist_impl: "gather" holds the embeddings of all ranks, the others send them round in a ring.

    Raises:
        InputError: ranks that are not those of torch.distributed (a ValueError).
    """

    def forward(
        self,
        image_features: Tensor,
        text_features: Tensor,
        logit_scale: Tensor | float,
        logit_bias: Tensor | float | None,
        output_dict: bool = False,
    ) -> Any:
        """The loss, or ``{"contrastive_loss": loss}``."""
        options: dict[str, Any] = {"logit_scale": logit_scale, "logit_bias": logit_bias}
        if self.world_size > 1:
            options["group"] = world("SigLipLoss", self.rank, self.world_size)
            options["exchange"] = EXCHANGES[self.dist_impl]
        loss = siglip_loss(as_multiplied(image_features), as_multiplied(text_features), **options)
        return {"contrastive_loss": loss} if output_dict else loss


def create_loss(args: Any) -> nn.Module:
    """``open_clip.create_loss``: the loss that the arguments of open_clip's training script name.

    Raises:
        InputError: Horovod, or what the loss refuses (a ValueError).
    """
    ranks = {"rank": args.rank, "world_size": args.world_size}
    shared = {
        **ranks,
        "local_loss": args.local_loss,
        "gather_with_grad": args.gather_with_grad,
        "cache_labels": True,
        "use_horovod": args.horovod,
    }
    if args.distill:
        return DistillClipLoss(**shared)
    if "coca" in args.model.lower():
        return CoCaLoss(args.coca_caption_loss_weight, args.coca_contrastive_loss_weight, **shared)
    if not args.siglip:
        return ClipLoss(**shared)
    if args.horovod:
        raise InputError("create_loss: SigLipLoss has no Horovod, in open_clip neither")
    return SigLipLoss(**ranks, dist_impl=args.loss_dist_impl)
