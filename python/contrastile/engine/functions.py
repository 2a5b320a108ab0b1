"""The primitives as autograd functions: one node a primitive, the graph above it is ordinary."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from ..problem import Problem
from .first_order import BackwardOnly, first_order
from .gaps import add_gap_gradients, gaps
from .gradients import Gradients, Needs
from .one_pass import Expected, fits_one_pass, one_pass
from .operands import Operand
from .positives import add_gradients, dots
from .run import Backend, Run
from .vectors import WHOLE, ScaledScores, Sides, form_coefficients

Grads = tuple[Tensor | None, ...]


class ReduceScores(BackwardOnly):
    """Stats of S: per reduction its rows, then its columns; then positives; then counts and gaps.

    ``apply(problem, backend, expected, query, key, scale, row_bias, col_bias)``.
    """

    @staticmethod
    def forward(
        ctx: Any,
        problem: Problem,
        backend: Backend,
        expected: Expected | None,
        query: Tensor,
        key: Tensor | None,
        scale: float | Tensor,
        row_bias: Tensor | None,
        col_bias: Tensor | None,
    ) -> tuple[Tensor, ...]:
        scores = ScaledScores.of(scale, row_bias, col_bias, backend.reads_scale)
        needs = _with_own_key(Needs(*ctx.needs_input_grad[3:]), key, problem)
        run = Run(problem, backend, query, key, scores)
        ctx.caller = problem.caller
        ctx.one_pass = None
        if expected is not None and needs.any and fits_one_pass(run):
            ctx.one_pass = one_pass(run, needs, expected)
        elif run.plan:
            if needs.any:
                run.keep_scores()
            kernel = backend.bind(run)
            for strip in run.plan:
                for block in strip:
                    kernel.reduce(block)
            kernel.finish()
        stats = _stats(run)
        counts = [count for count in _counted(run) if count is not None]
        found = [gap for gap in _gaps(run) if gap is not None]
        score = run.positives(WHOLE)
        positive = [] if score is None else [score]
        ctx.set_materialize_grads(False)
        ctx.mark_non_differentiable(*counts)
        if needs.any:
            ctx.run = run
            run.release()
            tensors = (query, key, scale if isinstance(scale, Tensor) else None, row_bias, col_bias)
            # The problem's own vectors are saved too: autograd then notices if one is changed.
            ctx.save_for_backward(*tensors, *problem.tensors())
        return (*stats, *positive, *counts, *found)

    @staticmethod
    @first_order
    def backward(ctx: Any, *upstream: Tensor | None) -> Grads:
        query, key, scale, row_bias, col_bias, *_ = ctx.saved_tensors
        run: Run = ctx.run
        needs = Needs(*ctx.needs_input_grad[3:])
        count = len(run.vectors) * len(_sides(run.problem))
        stat_grads = upstream[:count]
        positive_grad = upstream[count] if run.positive_dots is not None else None
        gap_grads = _of_gaps(run.problem, upstream)
        run.attach(query, key)
        gradients = None if ctx.one_pass is None else ctx.one_pass.take(run, stat_grads)
        ctx.one_pass = None
        run.unit = None
        if gradients is None:
            given = (*stat_grads, *gap_grads)
            reduced = bool(run.plan) and any(grad is not None for grad in given)
            single = reduced and len(run.plan) == 1 and len(run.plan[0]) == 1
            gradients = Gradients(run, _with_own_key(needs, key, run.problem), overwrite=single)
            if reduced:
                _set_gradients(run, stat_grads, gap_grads)
                if positive_grad is not None:
                    run.positive_grad = positive_grad.contiguous().resolve_neg()
                    positive_grad = None
                kernel = run.backend.bind(run)
                for strip in run.plan:
                    gradients.add_strip(kernel, strip)
        if positive_grad is not None:
            gradients.add_positives(positive_grad)
        gradients.finish()
        run.positive_grad = None
        for vectors in run.vectors:
            vectors.upstream = Sides()
        run.forget_scores()
        run.release()
        return (
            None,
            None,
            None,
            *_outputs(gradients, needs, query, key, scale, row_bias, col_bias),
        )


class ScoreLogSumExp(ReduceScores):
    """Log-sum-exps of the scores (the node of :func:`contrastile.ops.log_sum_exp`)."""


class PairSum(ReduceScores):
    """Sums of a function of the scores (the node of :func:`contrastile.ops.pair_sum`)."""


class GatherDot(BackwardOnly):
    """<q_rows[e], k_columns[e]>, rows None meaning row e itself.

    ``apply(caller, query, key, rows, columns)``.
    """

    @staticmethod
    def forward(
        ctx: Any,
        caller: str,
        query: Tensor,
        key: Tensor,
        rows: Tensor | None,
        columns: Tensor,
    ) -> Tensor:
        ctx.caller = caller
        ctx.save_for_backward(query, key, rows, columns)
        left, right = _operands(query, key)
        return dots(left, right, rows, columns, left.dtype)

    @staticmethod
    @first_order
    def backward(ctx: Any, *upstream: Tensor | None) -> Grads:
        query, key, rows, columns = ctx.saved_tensors
        (grad,) = upstream
        if grad is None:
            return None, None, None, None, None
        left, right = _operands(query, key)
        weight = torch.where(columns >= 0, grad, 0.0)
        dquery, dkey = (
            torch.zeros(x.shape, dtype=left.dtype, device=x.device) if wanted else None
            for x, wanted in zip((query, key), ctx.needs_input_grad[1:3], strict=True)
        )
        add_gradients(left, right, rows, columns, weight, dquery, dkey, weight)
        return None, _cast(dquery, query), _cast(dkey, key), None, None


def _operands(query: Tensor, key: Tensor) -> tuple[Operand, Operand]:
    double = torch.float64 in (query.dtype, key.dtype)
    dtype = torch.float64 if double else torch.float32
    return Operand(query, dtype), Operand(key, dtype)


def _sides(problem: Problem) -> list[str]:
    """The sides whose stats are outputs."""
    return ["rows"] * problem.rows + ["cols"] * problem.columns


def _stats(run: Run) -> list[Tensor]:
    return [
        vectors.row_stats(WHOLE) if side == "rows" else vectors.col_stats(WHOLE)
        for vectors in run.vectors
        for side in _sides(run.problem)
    ]


def _set_gradients(
    run: Run, upstream: tuple[Tensor | None, ...], of_gaps: tuple[Tensor | None, Tensor | None]
) -> None:
    sides = _sides(run.problem)
    for i, vectors in enumerate(run.vectors):
        given = dict(zip(sides, upstream[i * len(sides) :], strict=False))
        vectors.upstream = Sides(given.get("rows"), given.get("cols"))
    if run.score_sums is not None:
        add_gap_gradients(run.problem, run.vectors[-1], *of_gaps)
    if not run.backend.forms_coefficients:
        for vectors in run.vectors:
            form_coefficients(vectors, run.problem)


def _of_gaps(
    problem: Problem, upstream: tuple[Tensor | None, ...]
) -> tuple[Tensor | None, Tensor | None]:
    """The upstream gradients of the gaps, which are the last outputs."""
    last = list(upstream)
    cols = None if problem.col_counts is None else last.pop()
    rows = None if problem.row_counts is None else last.pop()
    return rows, cols


def _counted(run: Run) -> tuple[Tensor | None, Tensor | None]:
    counts = run.counts.counts
    return counts.rows, None if run.problem.triangle else counts.cols


def _gaps(run: Run) -> tuple[Tensor | None, Tensor | None]:
    found = gaps(run.problem, run.scores, run.vectors[-1], run.score_sums)
    return found.rows, found.cols


def _with_own_key(needs: Needs, key: Tensor | None, problem: Problem) -> Needs:
    """Without a key the query stands on both sides, and so does its gradient."""
    if key is not None or problem.triangle:
        return needs
    return Needs(needs.query, needs.query, needs.scale, needs.row_bias, needs.col_bias)


def _cast(gradient: Tensor | None, like: Tensor) -> Tensor | None:
    return None if gradient is None else gradient.to(like.dtype)


def _outputs(
    gradients: Gradients,
    needs: Needs,
    query: Tensor,
    key: Tensor | None,
    scale: Tensor | None,
    row_bias: Tensor | None,
    col_bias: Tensor | None,
) -> Grads:
    dquery, dkey = gradients.query, gradients.key
    if key is None and dkey is not None and dkey is not dquery:
        assert dquery is not None
        dquery = dquery.add_(dkey)
    out_scale = gradients.scale
    if scale is None or not needs.scale:
        out_scale = None
    elif out_scale is not None:
        out_scale = out_scale.to(scale.dtype).view(scale.shape)
    return (
        gradients.rounded(dquery, query),
        None if key is None else gradients.rounded(dkey, key),
        out_scale,
        _cast(gradients.row_bias, row_bias) if row_bias is not None else None,
        _cast(gradients.col_bias, col_bias) if col_bias is not None else None,
    )
