"""What surrounds a call: default devices, lazy views, shared parameters, torch.compile."""

from __future__ import annotations

import contrastile
import pytest
import torch
from contrastile import InputError, SigLip, clip_loss, info_nce, nt_xent, siglip_loss
from contrastile.ops import gather_dot, log_sum_exp
from contrastile.problem import Channel, Index
from torch import Tensor
from torch.testing._internal.two_tensor import TwoTensor


@pytest.fixture
def pair() -> tuple[Tensor, Tensor]:
    return torch.randn(8, 4), torch.randn(8, 4)


def test_default_device_is_not_the_embeddings(pair: tuple[Tensor, Tensor]) -> None:
    expected = clip_loss(*pair, temperature=0.1)
    with torch.device("meta"):
        assert torch.equal(clip_loss(*pair, temperature=0.1), expected)


def negated(values: Tensor) -> Tensor:
    """The same numbers with torch's lazy negation bit set."""
    view = torch.complex(torch.zeros_like(values), -values).conj().imag
    assert view.is_neg()
    return view


def test_upstream_gradient_with_the_negation_bit() -> None:
    query, key = torch.randn(1, 3, requires_grad=True), torch.randn(4, 3)
    upstream = torch.tensor([1.5])
    got, expected = (
        torch.autograd.grad(log_sum_exp(query, key).rows[0], query, grad)[0]
        for grad in (negated(upstream), upstream)
    )
    assert torch.equal(got, expected)


def test_positives_with_the_negation_bit(pair: tuple[Tensor, Tensor]) -> None:
    index = torch.tensor([3, 0, 1, 2, 7, 6, 5, 4])
    lazy = torch._neg_view(-index)
    assert torch.equal(
        info_nce(*pair, positives=lazy, temperature=0.1),
        info_nce(*pair, positives=index, temperature=0.1),
    )


def test_index_beyond_the_columns_keeps_no_pair_in_either_form() -> None:
    x = torch.randn(4, 3)
    channels = [Channel(~Index.diagonal(4, 1))]
    own, other = (log_sum_exp(x, key, channels=channels).rows[0] for key in (None, x.clone()))
    assert torch.allclose(own, other)


def test_scale_of_shape_one_in_one_pass() -> None:
    query, key = torch.randn(300, 4, requires_grad=True), torch.randn(300, 4)
    options = {"margin": 0.1, "workspace": 128 * 600 * 4}
    one = info_nce(query, key, logit_scale=torch.tensor([3.0]), **options)
    assert torch.allclose(one, info_nce(query, key, logit_scale=3.0, **options))


def test_scale_per_row_of_no_rows() -> None:
    stats = log_sum_exp(torch.zeros(0, 3), torch.randn(5, 3), scale=torch.zeros(0))
    assert stats.rows[0].shape == (0,)


def test_one_parameter_may_be_two_options(pair: tuple[Tensor, Tensor]) -> None:
    p = torch.nn.Parameter(torch.tensor(1.0))
    module = SigLip(logit_scale=p, logit_bias=p)
    assert torch.equal(module(*pair), siglip_loss(*pair, logit_scale=p, logit_bias=p))


def test_bias_gets_a_gradient_from_no_rows() -> None:
    bias = torch.nn.Parameter(torch.ones(()))
    empty = torch.zeros(0, 3)
    nt_xent(empty, empty, temperature=0.1, logit_bias=bias).backward()
    assert bias.grad is not None and bias.grad == 0


def test_scores_of_listed_pairs() -> None:
    rows, columns = torch.tensor([0, 0, 2, 2, 2]), torch.tensor([1, 0, -1, 3, 1])
    starts = torch.tensor([0, 2, 2, 5])
    leaves = [
        torch.randn(shape, dtype=torch.float64, requires_grad=True)
        for shape in ((3, 4), (4, 4), (3,), (3,), (4,))
    ]
    query, key, scale, row_bias, col_bias = leaves
    got = gather_dot(query, key, columns, starts, scale=scale, row_bias=row_bias, col_bias=col_bias)
    dense = (query @ key.T) * scale[:, None] + row_bias[:, None] + col_bias
    expected = torch.where(columns >= 0, dense[rows, columns], 0.0)
    upstream = torch.randn(5, dtype=torch.float64)
    for ours, theirs in zip(
        torch.autograd.grad(got, leaves, upstream),
        torch.autograd.grad(expected, leaves, upstream),
        strict=True,
    ):
        assert torch.allclose(ours, theirs)
    assert torch.allclose(got, expected)


@pytest.mark.parametrize("name", ["clip_loss", "info_nce", "nt_xent", "siglip_loss"])
def test_compiled_step_equals_the_eager_one(name: str, pair: tuple[Tensor, Tensor]) -> None:
    loss = getattr(contrastile, name)
    x, y = (t.clone().requires_grad_() for t in pair)

    def step(x: Tensor, y: Tensor) -> Tensor:
        return loss(2 * x, y, temperature=0.2)

    expected = torch.autograd.grad(step(x, y), (x, y))
    got = torch.autograd.grad(torch.compile(step, backend="eager")(x, y), (x, y))
    for ours, theirs in zip(got, expected, strict=True):
        assert torch.allclose(ours, theirs)


def test_compiled_code_meets_the_gate_too(pair: tuple[Tensor, Tensor]) -> None:
    """Where torch.compile leaves the engine as it is, tensors are real for the first time."""
    step = torch.compile(lambda x, y: clip_loss(x, y, temperature=0.1), backend="eager")
    assert torch.allclose(step(*pair), clip_loss(*pair, temperature=0.1))
    with pytest.raises(InputError, match=r"^clip_loss: y is a TwoTensor"):
        step(pair[0], TwoTensor(pair[1], pair[1]))
