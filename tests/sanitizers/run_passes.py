"""Run by test_sanitizers.py: losses on the CPU through passes compiled with sanitizers."""

from __future__ import annotations

import importlib.util
import sys
from typing import Any

import torch

DTYPES = (torch.float32, torch.bfloat16)
# Off every vector's width; the second in several blocks of the small workspace.
SHAPES = ((1, 1), (37, 19), (133, 5))
WORKSPACE = 40_000


def load(library: str) -> Any:
    """The compiled passes in the place of the installed ones."""
    spec = importlib.util.spec_from_file_location("contrastile._C", library)
    assert spec is not None and spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    sys.modules["contrastile._C"] = module
    return module


def losses(x: torch.Tensor, y: torch.Tensor, level: str, **common: Any) -> None:
    from contrastile import functional, native, ops
    from contrastile.problem import Channel, Equal, Index, Phi, Term

    native.level = lambda: level
    labels = torch.arange(len(x)) // 2
    scale = torch.full((), 5.0, requires_grad=True)
    common |= {"logit_scale": scale, "backend": "cpu"}
    square = Term(Phi.SQUARE, pairs=Equal(labels, labels))
    sums = ops.pair_sum(x, y, terms=[square], rows=False, columns=True, scale=scale, backend="cpu")
    own = Index.diagonal(len(x))
    some = Channel(~own, row_log_weight=torch.randn(len(x)), col_log_weight=torch.randn(len(y)))
    # Beyond any shift that could be fixed, with counts and, below, gaps.
    ranked = ops.log_sum_exp(
        x, y, scale=300 * torch.rand(len(x)), channels=[Channel(~own), some], columns=True,
        positives=own, ranks=True, col_thresholds=torch.zeros(len(y)), backend="cpu",
        workspace=common.get("workspace"),
    )  # fmt: skip
    counted = torch.bincount(labels)[labels]
    agreeing = ops.log_sum_exp(
        x, y, channels=[Channel(Equal(labels, labels))], columns=True, row_counts=counted,
        col_counts=counted, backend="cpu", workspace=common.get("workspace"),
    )  # fmt: skip
    assert agreeing.row_gap is not None and agreeing.col_gap is not None
    for loss in (
        sums.columns[0].sum(),
        torch.stack([*ranked.rows, *ranked.columns]).nan_to_num(neginf=0.0).sum(),
        (agreeing.row_gap + agreeing.col_gap).sum(),
        functional.clip_loss(x, y, ids=labels, label_smoothing=0.1, margin=0.1, **common),
        functional.nt_xent(x, y, **common),
        functional.siglip_loss(x, y, logit_bias=-2.0, **common),
        functional.supcon_loss(x, labels, **common),
        functional.info_nce(x, y, logit_bias=torch.randn(len(y)), **common),
    ):
        assert loss.isfinite()
        loss.backward()


def main(library: str, kind: str) -> None:
    module = load(library)
    if kind == "short":
        x = torch.randn(64)
        module.max_norm(x.data_ptr(), 0, 5, 13, 13, 1, 1)
    for level in module.levels():
        for rows, size in SHAPES:
            for dtype in DTYPES:
                print(level, rows, size, dtype, flush=True)
                x, y = (torch.randn(rows, size).to(dtype).requires_grad_() for _ in range(2))
                losses(x, y, level)
                losses(x, y, level, workspace=WORKSPACE)
    print("no complaints")


main(*sys.argv[1:])
