"""Distillation of CLIP: the softmaxes of a teacher's scores are a student's soft targets."""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import torch
from torch import Tensor
from typing_extensions import Unpack

from ..engine.rules import softmax_loss
from ..ops import expectation, gather_dot
from ..parallel import Columns
from ..problem import Channel, Index, InputError, Not, Plane, Reduction
from ..problem.checks import check_paired, shape
from ..problem.scores import check_scale
from .blocks import check_keys_stay
from .module import Loss
from .options import LossOptions, LossOutput, Options, loss_function
from .rows import Stats, make_stats, reduce_rows, shift_of, wants_valid

NAME = "distill_clip_loss"


@loss_function
def distill_clip_loss(
    x: Tensor,
    y: Tensor,
    teacher_x: Tensor,
    teacher_y: Tensor,
    *,
    teacher_scale: float | Tensor | None = None,
    **options: Unpack[LossOptions],
) -> LossOutput:
    r"""Cross-entropy of a student's scores with a teacher's softmaxes, in both directions.

    .. math:: L_i = -\tfrac12 \sum_j t_{ij} \log p_{ij} - \tfrac12 \sum_j t'_{ji} \log p'_{ji},

    p the softmaxes of the student's rows :math:`S_{ij} = s \langle x_i, y_j \rangle`, t those of
    the teacher's, :math:`T_{ij} = s_T \langle u_i, v_j \rangle`, and p', t' of their columns: the
    distillation term of open_clip's ``DistillClipLoss``. That class returns the plain loss of the
    student beside it, and its training adds both: ``clip_loss(x, y, logit_scale=s) +
    distill_clip_loss(x, y, u, v, logit_scale=s, teacher_scale=s_T)``.

    Computed of what pairs other than (i, i) add, ``softplus(lse_others - S_ii) + sum_{j != i} t_ij
    (S_ii - S_ij)``: right also where student and teacher are all but sure of the same pair.

    Args:
        x: [N, D], fp32, fp64, bf16 or fp16: the student's images, say.
        y: [N, D]; row i belongs to row i of ``x``.
        teacher_x: u [N, E], of any size; with a gradient where it asks for one.
        teacher_y: v [N, E].
        teacher_scale: s_T, a float or a 0-d tensor; by default the student's scale, which gets no
            gradient through it.
        options: see :class:`~contrastile.losses.options.Options`. The scale is one number;
            ``normalize`` is of all four sets; a ``logit_bias`` cancels. Stats are the student's.
            Over a group keys are gathered.

    Returns:
        fp32 (fp64 for fp64 input): 0-d, or [N] with ``reduction="none"``.

    Raises:
        InputError: shapes, dtypes, devices or options that do not fit (a ValueError).

    Source: Yang et al. 2024, CLIP-KD: An Empirical Study of CLIP Model Distillation; open_clip.

    >>> import torch
    >>> from contrastile import distill_clip_loss
    >>> x = torch.eye(4)
    >>> distill_clip_loss(x, x, x, x, temperature=0.5, teacher_scale=3.0)
    tensor(0.6007)
    """
    opts = Options(NAME, **options)
    check_keys_stay(opts)
    check_paired(NAME, x=x, y=y)
    check_paired(NAME, teacher_x=teacher_x, teacher_y=teacher_y)
    n = x.shape[0]
    if teacher_x.shape[0] != n:
        raise InputError(
            f"{NAME}: teacher_x must have an embedding for each row of x, got "
            f"{shape(teacher_x)} for {shape(x)}"
        )
    scale, bias, weights = opts.scalar_scale(n), opts.bias(y), opts.row_weights(n)
    if teacher_scale is None:
        teacher_scale = scale.detach() if isinstance(scale, Tensor) else scale
    else:
        check_scale(NAME, "teacher_scale", teacher_scale, 0)
        teacher_scale = opts.peers.replicated("teacher_scale", teacher_scale)
    columns = opts.peers.columns("y", y)
    student = Sets.of(opts, x, y, scale)
    teacher = Sets.of(opts, teacher_x, teacher_y, teacher_scale)
    if opts.peers.alone:
        rows, cols = _soft(opts, columns, student, teacher, both=True)
    else:
        (rows,) = _soft(opts, columns, student, teacher)
        (cols,) = _soft(opts, columns, student.swapped, teacher.swapped)

    def valid() -> Tensor:
        return ~(torch.isneginf(rows.others) | torch.isneginf(cols.others))

    def seen() -> Stats:
        some, shift = valid(), shift_of(bias, rows.positive)
        row, column = (
            (torch.logaddexp(own.others, own.positive) + shift, own.positive + shift, own.rank)
            for own in (rows, cols)
        )
        return make_stats(opts, *row, some, make_stats(opts, *column, some))

    losses = (rows.loss + cols.loss) * 0.5
    return reduce_rows(opts, losses, valid if wants_valid(opts) else None, weights, seen, bias)


def distill_clip_loss_reference(
    x: Tensor,
    y: Tensor,
    teacher_x: Tensor,
    teacher_y: Tensor,
    *,
    logit_scale: float | Tensor,
    teacher_scale: float | Tensor | None = None,
) -> Tensor:
    """The formula with all scores in memory, mean over rows: what :func:`distill_clip_loss` must
    equal.
    """
    if teacher_scale is None:
        teacher_scale = torch.as_tensor(logit_scale).detach()
    student, teacher = logit_scale * x @ y.T, teacher_scale * teacher_x @ teacher_y.T
    cross_entropy = torch.nn.functional.cross_entropy
    rows = cross_entropy(student, teacher.softmax(1))
    return (rows + cross_entropy(student.T, teacher.T.softmax(1))) / 2


class DistillClipLoss(Loss):
    """Module twin of :func:`~contrastile.functional.distill_clip_loss`; takes its options."""

    function = staticmethod(distill_clip_loss)


class Sets(NamedTuple):
    """Both sets of a model, and what multiplies their dot products."""

    x: Tensor
    y: Tensor
    scale: float | Tensor

    @classmethod
    def of(cls, opts: Options, x: Tensor, y: Tensor, scale: float | Tensor) -> Sets:
        """Of the arguments. A scale's gradient is a sum of terms that nearly cancel: in fp64, to be
        rounded once.
        """
        wide = scale.double() if isinstance(scale, Tensor) else scale
        return cls(opts.embeddings(x), opts.embeddings(y), wide)

    @property
    def swapped(self) -> Sets:
        """Columns as rows."""
        return Sets(self.y, self.x, self.scale)

    def plane(self, columns: Columns) -> Plane:
        """Own rows with the columns of all."""
        return Plane(self.x, columns.matrix_everywhere(self.y))


class Soft(NamedTuple):
    """Of each row the loss, and of the student's scores: the log-sum-exp of all but the positive,
    the positive, and how many are above it.
    """

    loss: Tensor
    others: Tensor
    positive: Tensor
    rank: Tensor | None


def _soft(
    opts: Options, columns: Columns, student: Sets, teacher: Sets, both: bool = False
) -> Sequence[Soft]:
    """The losses of rows, and of columns too if ``both``."""
    own = Index.diagonal(student.x.shape[0], device=student.x.device)
    # In fp64, as what both models add to the gradient at the positive nearly cancels where they
    # agree, by whatever they agree on.
    dot, target = (
        gather_dot(sets.x, sets.y, own.columns, caller=NAME).double() for sets in (student, teacher)
    )
    target = target * teacher.scale
    positive, kept = dot * student.scale, Not(columns.place(own))
    limits = positive.detach()
    scores = Reduction(
        channels=[Channel(kept)],
        scale=student.scale,
        columns=both,
        ranks=opts.return_stats,
        row_thresholds=limits if opts.return_stats else None,
        col_thresholds=limits if opts.return_stats and both else None,
    )
    soft = expectation(
        student.plane(columns),
        teacher.plane(columns),
        scale=teacher.scale,
        pairs=kept,
        columns=both,
        others=[scores],
        **opts.engine,
    )
    (stats,) = soft.others

    def side(others: Tensor, mean: Tensor, lse: Tensor, rank: Tensor | None) -> Soft:
        # The teacher's probability of all but the positive, and their mean under its softmax.
        missing = torch.sigmoid(lse.double() - target) * (dot - mean.double()) * student.scale
        loss = softmax_loss(others.double(), positive) + missing
        return Soft(loss.to(others.dtype), others, positive.to(others.dtype), rank)

    assert soft.rows is not None and soft.row_lse is not None
    found = [side(stats.rows[0], soft.rows, soft.row_lse, stats.row_rank)]
    if both:
        assert soft.columns is not None and soft.col_lse is not None
        found.append(side(stats.columns[0], soft.columns, soft.col_lse, stats.col_rank))
    return found
