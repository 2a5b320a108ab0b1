"""Late interaction against the dense formula with masks, in fp64."""

from __future__ import annotations

import itertools
from collections.abc import Callable, Iterator
from typing import Any

import pytest
import rank_max_sim
import torch
from contrastile import InputError, MaxSimInfoNCE, clip_loss, info_nce, matryoshka, max_sim_info_nce
from contrastile.backends import torch_select
from contrastile.backends.cpu import select as compiled_select
from contrastile.engine.picked import Picked
from contrastile.losses.max_sim import max_sim_info_nce_reference
from contrastile.testing import AllocationSpy
from helpers import Arguments, assert_results_close, cast, evaluate, generator
from processes import Processes
from torch import Tensor

pytestmark = pytest.mark.usefixtures("poisoned_empty")

Engine = dict[str, Any]
N, A, M, B, SIZE = 9, 5, 11, 7, 6


def arguments(seed: int = 0, masks: bool = True, scale: float = 0.9) -> Arguments:
    """A document and a query have no token, one has all; what stands in masked ones is nothing."""
    rng = generator(seed)
    made: Arguments = {
        "query_tokens": torch.randn(N, A, SIZE, generator=rng, dtype=torch.float64),
        "document_tokens": torch.randn(M, B, SIZE, generator=rng, dtype=torch.float64),
        "logit_scale": torch.tensor(scale, dtype=torch.float64),
    }
    if masks:
        made["query_mask"] = torch.rand(N, A, generator=rng) < 0.7
        made["document_mask"] = torch.rand(M, B, generator=rng) < 0.6
        made["query_mask"][:3] = torch.tensor([[True], [False], [True]])
        made["document_mask"][[2, 4, M - 1]] = torch.tensor([[True], [False], [False]])
        made["query_tokens"][~made["query_mask"]] = torch.nan
        made["document_tokens"][~made["document_mask"]] = torch.inf
    return {k: v.requires_grad_() if v.is_floating_point() else v for k, v in made.items()}


def dense(
    query_tokens: Tensor,
    document_tokens: Tensor,
    query_mask: Tensor | None = None,
    document_mask: Tensor | None = None,
    *,
    logit_scale: float | Tensor,
    reduction: str = "mean",
    empty: str = "zero",
    weights: Tensor | None = None,
) -> Tensor:
    """With all dot products in memory."""
    n, m = len(query_tokens), len(document_tokens)
    asked = torch.ones(query_tokens.shape[:2], dtype=torch.bool)
    asked = asked if query_mask is None else query_mask
    there = torch.ones(document_tokens.shape[:2], dtype=torch.bool)
    there = there if document_mask is None else document_mask
    query = torch.where(asked[..., None], query_tokens, 0.0)
    document = torch.where(there[..., None], document_tokens, 0.0)
    dots = torch.einsum("iad,jbd->ijab", query, document)
    some = there.any(1)
    dots = dots.masked_fill(~(there | ~some[:, None])[None, :, None, :], -torch.inf)
    sums = torch.where(asked[:, None], dots.amax(3), 0.0).sum(2)
    scale = (
        logit_scale[:, None]
        if isinstance(logit_scale, Tensor) and logit_scale.dim()
        else logit_scale
    )
    scores = (scale * sums).masked_fill(~some, -torch.inf)
    valid = asked.any(1) & some[:n] & (some.sum() > 1)
    positive = torch.where(valid, scores.diagonal(), 0.0)
    losses = torch.where(valid, scores.logsumexp(1) - positive, 0.0)
    losses = losses if weights is None else losses * weights
    if reduction == "none":
        return losses
    count = {"mean": int(valid.sum()) if empty == "skip" else n, "sum": 1}[reduction]
    assert m >= n
    return losses.sum() / count


def compare(given: Arguments, engine: Engine, **options: Any) -> None:
    got = evaluate(max_sim_info_nce, given, **options, **engine)
    assert_results_close(got, evaluate(dense, given, **options))


@pytest.mark.parametrize("bad", [torch.inf, -torch.inf, torch.nan])
@pytest.mark.parametrize("side", ["query_tokens", "document_tokens"])
def test_never_a_finite_lie(side: str, bad: float) -> None:
    """A document of infinite numbers is in every row's denominator, a query in its own."""
    rng = generator(7)
    given = {
        name: torch.randn(6, 2, 4, generator=rng) for name in ("query_tokens", "document_tokens")
    }
    given[side][2, 1, 0] = bad
    losses = max_sim_info_nce(**given, logit_scale=2.0, reduction="none")
    of_rows = torch.arange(6) == 2 if side == "query_tokens" else torch.ones(6, dtype=torch.bool)
    assert torch.equal(losses.isnan(), of_rows)
    assert bool(losses[~of_rows].isfinite().all())


@pytest.mark.parametrize("masks", [True, False])
@pytest.mark.parametrize("reduction", ["mean", "none"])
def test_against_all_dot_products(masks: bool, reduction: str, engine: Engine) -> None:
    """Loss, and the gradients of queries, documents and scale."""
    compare(arguments(masks=masks), engine, reduction=reduction)


def test_in_strips() -> None:
    """Of one query each, in blocks of a few scores; and all at once."""
    for workspace in (1, 5000, 20_000, 2**24):
        compare(arguments(1), {"workspace": workspace})


@pytest.mark.parametrize("empty", ["zero", "skip"])
@pytest.mark.parametrize("scale", ["number", "negative", "of each query", "temperature"])
def test_options(scale: str, empty: str) -> None:
    given = arguments(2)
    if scale == "number":
        given["logit_scale"] = 1.3
    if scale == "negative":
        given["logit_scale"] = torch.tensor(-0.4, dtype=torch.float64, requires_grad=True)
    if scale == "of each query":
        rng = generator(3)
        given["logit_scale"] = torch.rand(N, generator=rng, dtype=torch.float64).requires_grad_()
    given["weights"] = torch.rand(N, generator=generator(4), dtype=torch.float64)
    options = {"empty": empty}
    if scale == "temperature":
        given["logit_scale"] = 2.0
        expected = evaluate(dense, given, **options)
        given["temperature"] = given.pop("logit_scale") / 4.0
        got = evaluate(max_sim_info_nce, given, **options)
        return assert_results_close(got, expected)
    compare(given, {}, **options)


def test_normalised() -> None:
    given = arguments(masks=False)
    leaves = {k: given[k] for k in ("query_tokens", "document_tokens")}
    units = {k: torch.nn.functional.normalize(v, dim=2) for k, v in leaves.items()}
    got = max_sim_info_nce(**leaves, logit_scale=3.0, normalize=True, logit_bias=1.5)
    expected = dense(**units, logit_scale=3.0)
    torch.testing.assert_close(got, expected)
    found, wanted = (torch.autograd.grad(x, list(leaves.values())) for x in (got, expected))
    torch.testing.assert_close(found, wanted)


@pytest.mark.parametrize("native", [True, False])
def test_memory_that_is_not_contiguous(native: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    """With the compiled pass, and with products of matrices in its place."""
    if not native:
        monkeypatch.setattr("contrastile.native.load", lambda: None)
    query = torch.randn(SIZE, A, N, dtype=torch.float64).permute(2, 1, 0).requires_grad_()
    document = torch.randn(B, M, 2 * SIZE, dtype=torch.float64)[..., ::2].transpose(0, 1)
    given = {"query_tokens": query, "document_tokens": document.requires_grad_()}
    got, expected = (of(**given, logit_scale=0.5) for of in (max_sim_info_nce, dense))
    torch.testing.assert_close(got, expected)
    found, wanted = (torch.autograd.grad(x, list(given.values())) for x in (got, expected))
    torch.testing.assert_close(found, wanted)


def test_one_token_each_is_info_nce() -> None:
    x, y = torch.randn(8, 1, 5), torch.randn(12, 1, 5)
    got = max_sim_info_nce(x, y, temperature=0.5)
    torch.testing.assert_close(got, info_nce(x[:, 0], y[:, 0], temperature=0.5))


def test_the_first_of_equal_tokens_has_the_gradient(engine: Engine) -> None:
    rng = generator(8)
    query = torch.randint(-3, 4, (N, A, SIZE), generator=rng).float()
    tokens = torch.randint(-3, 4, (M, B, SIZE), generator=rng).float()
    tokens[:, 3:6] = tokens[:, :3]
    tokens.requires_grad_()
    max_sim_info_nce(query, tokens, logit_scale=0.9, **engine).backward()
    assert tokens.grad[:, :3].any() and not tokens.grad[:, 3:6].any()


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16], ids=str)
@pytest.mark.parametrize("backend", ["cpu", "reference", "triton"])
def test_lower_precision(backend: str, dtype: torch.dtype) -> None:
    """No worse than the plain formula in that dtype, but for a rounding of the result."""
    given = cast(cast(arguments(5, masks=False), dtype), torch.float32, "logit_scale")
    exact = evaluate(dense, cast(given, torch.float64))
    got = evaluate(max_sim_info_nce, given, backend=backend)
    plain = evaluate(dense, given)
    for name, value in exact.items():
        errors = [(found[name].double() - value).norm() / value.norm() for found in (got, plain)]
        assert errors[0] <= errors[1] + torch.finfo(dtype).eps, name
    assert got["loss"].dtype == torch.float32


@pytest.mark.parametrize("compiled", [True, False])
def test_the_same_tokens_win_in_both_passes(
    compiled: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    """To the last bit, with documents whose tokens nearly tie."""
    module = compiled_select if compiled else torch_select
    kind = module.NativeSelector if compiled else module.TorchSelector
    if not compiled:
        monkeypatch.setattr("contrastile.native.load", lambda: None)
    seen: list[Picked] = []
    plain = kind.group_max

    def watch(self: Any, starts: Tensor) -> Picked:
        found = plain(self, starts)
        seen.append(found)
        return found

    monkeypatch.setattr(kind, "group_max", watch)
    query = torch.randn(30, 8, 16, requires_grad=True)
    document = torch.randn(30, 1, 16) + 1e-7 * torch.randn(30, 40, 16)
    max_sim_info_nce(query, document, temperature=1.0, workspace=60_000).backward()
    half = len(seen) // 2
    assert half > 1
    for first, second in zip(seen[:half], seen[half:], strict=True):
        assert torch.equal(first.values, second.values)
        assert torch.equal(first.columns, second.columns)


@pytest.mark.parametrize("backend", ["cpu", "reference"])
def test_no_matrix_is_stored(backend: str) -> None:
    """Beside the workspace only what is of the size of the tokens."""
    n, a, b, size, workspace = 64, 8, 24, 8, 2**18
    query = torch.randn(n, a, size, requires_grad=True)
    document = torch.randn(n, b, size, requires_grad=True)
    with AllocationSpy() as spy:
        max_sim_info_nce(
            query, document, temperature=1.0, backend=backend, workspace=workspace
        ).backward()
    dots, best = 4 * n * a * n * b, 12 * n * a * n
    tokens = 4 * n * (a + b) * size
    assert spy.peak_bytes < 1.2 * workspace + 4 * tokens < (dots + best) / 4
    assert spy.largest_bytes < workspace


def test_stats() -> None:
    given = arguments(6)
    loss, stats = max_sim_info_nce(**given, return_stats=True)
    torch.testing.assert_close(loss, dense(**given))
    losses = dense(**given, reduction="none")
    filled = losses != 0
    torch.testing.assert_close((stats.lse - stats.positive)[filled], losses[filled])
    biased = max_sim_info_nce(**given, return_stats=True, logit_bias=2.0)[1]
    torch.testing.assert_close(biased.positive, stats.positive + 2.0)
    assert stats.rank.dtype == torch.int64
    exact = max_sim_info_nce(
        torch.eye(6).view(2, 3, 6), torch.eye(6).view(2, 3, 6), temperature=0.1, return_stats=True
    )[1]
    assert exact.accuracy == 1.0 and not exact.rank.any()


def test_empty_rows() -> None:
    """A query without a token, one whose document has none, one without another document."""
    given = arguments(0)
    losses = max_sim_info_nce(**given, reduction="none")
    assert losses[1] == losses[4] == 0.0 and losses[0] > 0.0
    with pytest.raises(InputError, match="2 of 9 rows have no positive or no negative"):
        max_sim_info_nce(**given, empty="error")
    alone = max_sim_info_nce(torch.randn(1, 2, 3), torch.randn(1, 4, 3), temperature=1.0)
    assert alone == 0.0


@pytest.mark.parametrize("shape", [(0, 3, 0, 4), (0, 3, 2, 4), (2, 0, 3, 4), (2, 3, 3, 0)])
def test_nothing(shape: tuple[int, ...]) -> None:
    n, a, m, b = shape
    query = torch.randn(n, a, 5, requires_grad=True)
    document = torch.randn(m, b, 5, requires_grad=True)
    loss = max_sim_info_nce(query, document, temperature=1.0)
    loss.backward()
    assert loss == 0.0 and not query.grad.any() and not document.grad.any()


def test_not_a_number_shows() -> None:
    given = {k: v.detach().clone() for k, v in arguments(masks=False).items()}
    given["document_tokens"][3, 2, 1] = torch.nan
    assert max_sim_info_nce(**given).isnan()


def losses_of(given: Arguments) -> Callable[..., Tensor]:
    def call(query_tokens: Tensor, document_tokens: Tensor, logit_scale: Tensor) -> Tensor:
        return max_sim_info_nce(
            query_tokens,
            document_tokens,
            given["query_mask"],
            given["document_mask"],
            logit_scale=logit_scale,
        )

    return call


def test_in_a_graph() -> None:
    given = arguments(7)
    leaves = [given[k] for k in ("query_tokens", "document_tokens", "logit_scale")]
    call = losses_of(given)
    compiled = torch.compile(call, fullgraph=True, backend="aot_eager")
    loss, expected = compiled(*leaves), call(*leaves)
    torch.testing.assert_close(loss, expected, rtol=0, atol=0)
    found, wanted = (torch.autograd.grad(x, leaves) for x in (loss, expected))
    torch.testing.assert_close(found, wanted, rtol=0, atol=0)


def test_torch_func() -> None:
    given = arguments(7)
    leaves = [given[k] for k in ("query_tokens", "document_tokens", "logit_scale")]
    wanted = torch.autograd.grad(losses_of(given)(*leaves), leaves)
    plain = [leaf.detach() for leaf in leaves]
    found = torch.func.grad(losses_of(given), argnums=(0, 1, 2))(*plain)
    torch.testing.assert_close(found, wanted)


def test_second_derivatives_raise() -> None:
    query = torch.randn(3, 2, 4, requires_grad=True)
    loss = max_sim_info_nce(query, torch.randn(3, 2, 4), temperature=1.0)
    (grad,) = torch.autograd.grad(loss, query, create_graph=True)
    with pytest.raises(RuntimeError, match="max_sim_info_nce: double backward is not supported"):
        grad.sum().backward()


def test_module() -> None:
    given = arguments(masks=False)
    module = MaxSimInfoNCE(temperature=0.5)
    assert repr(module) == "MaxSimInfoNCE(temperature=0.5)"
    tokens = given["query_tokens"], given["document_tokens"]
    got = module(*tokens)
    torch.testing.assert_close(got, max_sim_info_nce_reference(*tokens, logit_scale=2.0))
    mask = torch.arange(A).expand(N, A) > 1
    torch.testing.assert_close(module(*tokens, mask), dense(*tokens, mask, logit_scale=2.0))


def test_prefixes() -> None:
    """Of tokens, each normalised."""
    given = arguments(masks=False)
    tokens = given["query_tokens"], given["document_tokens"]
    got = matryoshka(max_sim_info_nce, *tokens, dims=(2, SIZE), temperature=0.5)
    expected = sum(
        max_sim_info_nce(*(x[..., :d] for x in tokens), temperature=0.5, normalize=True)
        for d in (2, SIZE)
    )
    torch.testing.assert_close(got, expected)


def test_errors() -> None:
    q, d = torch.randn(3, 2, 4), torch.randn(3, 5, 4)
    one = {"temperature": 1.0}
    cases: list[tuple[tuple[Any, ...], dict[str, Any], str]] = [
        ((q[0], d), one, r"query_tokens must be \[items, tokens, embedding size\], got \(2, 4\)"),
        ((q.int(), d), one, "query_tokens must be float32"),
        ((q, d[..., :3]), one, "need the same embedding size"),
        ((q, d[:2]), one, "at least as many documents as queries"),
        ((q, d, torch.ones(3, 3).bool()), one, r"query_mask must have shape \(3, 2\)"),
        ((q, d, None, torch.ones(3, 5)), one, "document_mask must be bool"),
        ((q, d), {}, "give exactly one of temperature and logit_scale"),
        ((q, d), {**one, "offload": "cpu"}, "there is no offload"),
        ((q, d), {**one, "backend": "cuda"}, "backend 'cuda' cannot compute this"),
    ]
    for args, options, match in cases:
        with pytest.raises(InputError, match=f"max_sim_info_nce: .*{match}"):
            max_sim_info_nce(*args, **options)
    with pytest.raises(TypeError, match="query_tokens must be a tensor"):
        max_sim_info_nce([1.0], d, temperature=1.0)
    with pytest.raises(InputError, match="clip_loss: x must be"):
        clip_loss(q, d, temperature=1.0)


@pytest.fixture(scope="module")
def processes() -> Iterator[Processes]:
    pool = Processes(2)
    yield pool
    pool.stop()


@pytest.mark.parametrize("sizes", rank_max_sim.SIZES)
def test_ranks(sizes: str, processes: Processes) -> None:
    """Documents of all ranks are gathered; whichever way gradients are reduced."""
    for convention, reduction in itertools.product(("ddp", "sum", "none"), ("mean", "none")):
        processes.run(
            rank_max_sim.compare, rank_max_sim.SIZES[sizes], convention, {"reduction": reduction}
        )


def test_ranks_refuse(processes: Processes) -> None:
    processes.run(rank_max_sim.refuse)
