"""A learned scale of the scores, kept as its logarithm and within bounds; a bias for SigLIP."""

from __future__ import annotations

import math
from typing import Any

import torch
from torch import Tensor, nn

from ..problem.checks import InputError, check_number
from ..problem.scores import LARGEST_SCALE

NAME = "LogitScale"


class LogitScale(nn.Module):
    r"""The learned number that multiplies the dot products, :math:`s = e^t`.

    Learned by its logarithm t, so that s is positive and a step changes it by a factor. In training
    t is first brought back into its bounds, in place: what open_clip does after each step of its
    optimizer. At a bound the gradient still passes, so that t can come back.

    ``logit_scale`` (t, 0-d) and ``logit_bias`` (0-d, if there is one) are the parameters' names in
    open_clip too: state dicts fit. Optimizers should not decay them.

    Args:
        scale: s at the start; 1 / 0.07 is CLIP's, 10 SigLIP's.
        bias: b at the start, learned too; -10 is SigLIP's. None: there is none.
        smallest: lower bound of s.
        largest: upper bound of s, CLIP's; ``math.inf`` for none.

    Returns:
        (when called) s, 0-d, fp32 (fp64 for an fp64 parameter); with a bias the pair (s, b).

    Raises:
        InputError: numbers that do not fit (a ValueError).

    Source: Radford et al., Learning Transferable Visual Models From Natural Language
    Supervision, 2021, section 2.5; Zhai et al., Sigmoid Loss for Language Image Pre-Training, 2023.

    >>> import torch
    >>> from contrastile import LogitScale, clip_loss, siglip_loss
    >>> x = torch.eye(4)
    >>> scale = LogitScale(2.0)
    >>> clip_loss(x, x, logit_scale=scale()).detach()
    tensor(0.3408)
    >>> siglip = LogitScale(10.0, bias=-10.0)
    >>> s, b = siglip()
    >>> siglip_loss(x, x, logit_scale=s, logit_bias=b).detach()
    tensor(0.6933)
    """

    logit_bias: nn.Parameter | None

    def __init__(
        self,
        scale: float = 1 / 0.07,
        bias: float | None = None,
        *,
        smallest: float = 1.0,
        largest: float = 100.0,
    ) -> None:
        super().__init__()
        check_number(NAME, "smallest", smallest, 1 / LARGEST_SCALE, LARGEST_SCALE)
        if largest != math.inf:
            check_number(NAME, "largest", largest, smallest, LARGEST_SCALE)
        check_number(NAME, "scale", scale, 1 / LARGEST_SCALE, LARGEST_SCALE)
        if not smallest <= scale <= largest:
            raise InputError(
                f"{NAME}: scale must be from smallest={smallest:g} to largest={largest:g}, "
                f"got {scale:g}; it is the scale itself, not its logarithm"
            )
        if bias is not None:
            check_number(NAME, "bias", bias, -LARGEST_SCALE, LARGEST_SCALE)
        self.smallest, self.largest = smallest, largest
        self.logit_scale = nn.Parameter(torch.tensor(math.log(scale)))
        self.logit_bias = None if bias is None else nn.Parameter(torch.tensor(float(bias)))

    def forward(self) -> Any:
        """The scale; with a bias the pair of both. (A union would make typed callers narrow it.)"""
        if self.training:
            # The graph holds the result of exp, not the parameter: a later call may clamp it again.
            self.clamp_()
            scale = _widen(self.logit_scale).exp()
        else:
            scale = _widen(self.logit_scale).clamp(*self._bounds).exp()
        return scale if self.logit_bias is None else (scale, _widen(self.logit_bias))

    @torch.no_grad()
    def clamp_(self) -> None:
        """Bring the parameter back into its bounds, as the next call in training would: before a
        checkpoint, say.
        """
        self.logit_scale.clamp_(*self._bounds)

    @property
    def _bounds(self) -> tuple[float, float]:
        return math.log(self.smallest), math.log(self.largest)

    def extra_repr(self) -> str:
        """The bounds, and whether there is a bias."""
        bias = self.logit_bias is not None
        return f"smallest={self.smallest:g}, largest={self.largest:g}, bias={bias}"


def _widen(parameter: Tensor) -> Tensor:
    return parameter.to(torch.promote_types(parameter.dtype, torch.float32))
