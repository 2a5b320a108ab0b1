"""gradient_cache: the gradient of one pass over the whole batch, from sub-batches."""

from __future__ import annotations

from collections import UserDict
from collections.abc import Callable, Iterator
from functools import partial
from typing import Any

import pytest
import torch
from contrastile import ClipLoss, ContrastileWarning, InputError, clip_loss
from contrastile.losses.registry import LOSSES, LossEntry
from contrastile.problem.advice import GIVEN
from contrastile.training import GradientCache, gradient_cache
from contrastile.training.batch import Batch
from torch import Tensor, nn
from towers import ROWS, SIZE, SUB_BATCH, assert_same, in_pieces, linear, rows, taken, with_dropout


@pytest.fixture(autouse=True)
def seeded() -> None:
    torch.manual_seed(0)
    GIVEN.clear()


# Exact.


@pytest.mark.parametrize("entry", LOSSES.values(), ids=LOSSES)
def test_every_loss_gets_the_gradient_of_one_pass(entry: LossEntry) -> None:
    generator = torch.Generator().manual_seed(0)
    made = entry.make_inputs(24, SIZE, torch.float64, generator=generator, learned=True)
    encoders = [linear() for _ in made.embeddings]
    inputs = [each.detach() for each in made.embeddings]
    parameters = [each for encoder in encoders for each in encoder.parameters()]
    parameters += [each for each in made.parameters.values() if isinstance(each, Tensor)]

    def loss_fn(*embeddings: Tensor) -> Tensor:
        value = entry.function(
            *embeddings, *made.guides, *made.labels, normalize=True, **made.parameters
        )
        assert isinstance(value, Tensor)
        return value

    expected = loss_fn(*(e(x) for e, x in zip(encoders, inputs, strict=True)))
    expected.backward()
    gradients = taken(*parameters)
    towers = list(zip(encoders, inputs, strict=True))
    found = gradient_cache(loss_fn, towers, sub_batch=SUB_BATCH)
    assert not found.requires_grad
    assert_same([found], [expected.detach()])
    assert_same(taken(*parameters), gradients)


@pytest.mark.parametrize("sub_batch", [1, 4, ROWS, 100])
def test_any_size_of_sub_batches(sub_batch: int) -> None:
    encoder, x, y = linear(), rows(), rows()
    loss = ClipLoss(temperature=1.0)
    loss(encoder(x), encoder(y)).backward()
    expected = taken(*encoder.parameters())
    gradient_cache(loss, [(encoder, x), (encoder, y)], sub_batch=sub_batch)
    assert_same(taken(*encoder.parameters()), expected)


def test_gradients_are_added_to_those_that_are_there() -> None:
    encoder, x = linear(), rows()
    loss = partial(clip_loss, y=rows(), temperature=1.0)
    gradient_cache(loss, [(encoder, x)], sub_batch=SUB_BATCH)
    once = [each.clone() for each in (encoder.weight.grad, encoder.bias.grad) if each is not None]
    gradient_cache(loss, [(encoder, x)], sub_batch=SUB_BATCH)
    assert_same(taken(*encoder.parameters()), [2 * each for each in once])


def test_a_batch_of_nothing() -> None:
    encoder = linear()
    loss = gradient_cache(Tensor.sum, [(encoder, rows(0))], sub_batch=SUB_BATCH)
    assert loss == 0
    assert_same(taken(*encoder.parameters()), [torch.zeros_like(p) for p in encoder.parameters()])


# Inputs and outputs.


class Encoding(UserDict[str, Tensor]):
    """As a tokenizer's BatchEncoding: a mapping that is no dict."""

    def to(self, device: torch.device) -> Encoding:
        return Encoding({name: each.to(device) for name, each in self.items()})


class Masked(nn.Module):
    """Takes and returns what a transformer does."""

    def __init__(self) -> None:
        super().__init__()
        self.layer = linear()

    def forward(
        self, ids: Tensor, mask: Tensor | None = None, more: Any = None
    ) -> dict[str, Tensor]:
        ids = ids if mask is None else ids * mask
        ids = ids if more is None else ids + more["shift"]
        return {"hidden": ids, "pooled": self.layer(ids)}


X, MASK = rows(), torch.randint(0, 2, (ROWS, SIZE))
FORMS = [
    X,
    (X,),
    [X, MASK],
    (X, None, {"shift": MASK}),
    {"ids": X, "mask": MASK},
    Encoding({"ids": X, "mask": MASK}),
]


@pytest.mark.parametrize("inputs", FORMS, ids=["tensor", "tuple", "list", "nested", "dict", "HF"])
@pytest.mark.parametrize("offload", [None, "cpu"])
def test_inputs_are_what_encoders_take(inputs: Any, offload: str | None) -> None:
    encoder, key = Masked(), rows()
    loss = partial(clip_loss, y=key, temperature=1.0)
    if isinstance(inputs, Tensor):
        whole = encoder(inputs)
    elif isinstance(inputs, (tuple, list)):
        whole = encoder(*inputs)
    else:
        whole = encoder(**inputs)
    loss(whole["pooled"]).backward()
    expected = taken(*encoder.parameters())
    gradient_cache(loss, [(encoder, inputs)], sub_batch=SUB_BATCH, output="pooled", offload=offload)
    assert_same(taken(*encoder.parameters()), expected)


def test_an_encoder_may_return_several_embeddings() -> None:
    first, second, x, y = linear(), linear(6), rows(), rows(size=6)

    def both(x: Tensor, y: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        return first(x), second(y), torch.tensor(1.0)

    parameters = [*first.parameters(), *second.parameters()]
    clip_loss(first(x), second(y), temperature=1.0).backward()
    expected = taken(*parameters)
    loss = ClipLoss(temperature=1.0)
    gradient_cache(loss, [(both, (x, y))], sub_batch=SUB_BATCH, output=lambda made: made[:2])
    assert_same(taken(*parameters), expected)
    with pytest.raises(InputError, match=r"one row an item, .* got \(\) for 5 items"):
        gradient_cache(loss, [(both, (x, y))], sub_batch=SUB_BATCH)


def test_offloaded_sub_batches_go_where_they_are_wanted() -> None:
    batch = Batch.of("here", {"x": rows(), "y": (MASK, None)}).on_host(torch.device("meta"))
    piece = batch.piece(5, 10)
    assert piece.options["x"].is_meta and piece.options["y"][0].is_meta
    assert batch.options["x"].device.type == "cpu" and piece.options["x"].shape == (5, SIZE)


# The context.


def test_three_lines_of_a_loop() -> None:
    encoder, x, y = with_dropout(), rows(), rows()
    scale = nn.Parameter(torch.tensor(2.0, dtype=torch.float64))
    parameters = [*encoder.parameters(), scale]
    for seed in range(2):
        torch.manual_seed(seed)
        loss = clip_loss(in_pieces(encoder, x), in_pieces(encoder, y), logit_scale=scale)
        loss.backward()
        expected, state = taken(*parameters), torch.get_rng_state()
        torch.manual_seed(seed)
        with GradientCache(SUB_BATCH) as cache:
            a, b = cache(encoder, x), cache(encoder, y)
            loss = clip_loss(a, b, logit_scale=scale)
            cache.backward(loss)
        assert_same(taken(*parameters), expected)
        assert torch.equal(torch.get_rng_state(), state)


def test_a_loss_that_goes_backward_by_itself_is_told() -> None:
    encoder = linear()
    told = pytest.raises(InputError, match=r"call cache.backward\(loss\) instead")
    with told, GradientCache(SUB_BATCH) as cache:
        cache(encoder, rows()).sum().backward()
    with GradientCache(SUB_BATCH) as cache, torch.no_grad():
        assert not cache(encoder, rows()).requires_grad


# Errors.


class Broken(Exception):
    """What an encoder or a loss raises."""


def fails(*_: object) -> Tensor:
    raise Broken


def refused() -> Iterator[tuple[type[Exception], str | None, Callable[[nn.Module], object]]]:
    def call(inputs: Any, loss: Any = Tensor.sum, **options: Any) -> Callable[[nn.Module], object]:
        return lambda encoder: gradient_cache(
            loss, [(encoder, inputs)], **{"sub_batch": SUB_BATCH, **options}
        )

    yield TypeError, r"inputs\[0\] must be a tensor.* got str 'a cat'; tokenise", call(["a cat"])
    yield TypeError, r"inputs\['on'\] .* got bool True; bind .*partial", call({"x": X, "on": True})
    yield InputError, r"inputs\[0\] \(23, 8\) and inputs\[1\] \(3, 8\)", call((X, rows(3)))
    yield InputError, r"0-d tensor as inputs\[1\]; bind", call((X, torch.tensor(1.0)))
    yield InputError, "must hold a tensor, got none", call(())
    yield InputError, "inputs requires grad; .* detach", call(X.clone().requires_grad_())
    yield InputError, "sub_batch must be a positive integer, got 0", call(X, sub_batch=0)
    yield InputError, "offload must be one of cpu, got 'disk'", call(X, offload="disk")
    yield InputError, r"one number, a 0-d tensor, got \(23, 8\); use", call(X, lambda e: e)
    yield TypeError, "got tuple; return_stats=True needs", call(X, lambda e: (e.sum(), e))
    yield (
        TypeError,
        "got dict of hidden; name .* output=",
        call(X, output=lambda made: {"hidden": made}),
    )
    yield InputError, r"one row an item.* got \(8, 5\) for 5 items", call(X, output=lambda e: e.T)
    yield InputError, "floating point, got torch.int64", call(X, output=Tensor.long)
    yield Broken, None, call(X, fails)
    yield Broken, None, call(X, output=fails)
    yield (
        TypeError,
        "must be a sequence of pairs",
        lambda encoder: gradient_cache(Tensor.sum, (encoder, X), sub_batch=SUB_BATCH),
    )


@pytest.mark.parametrize(("error", "message", "call"), list(refused()))
def test_what_is_refused_leaves_gradients_alone(
    error: type[Exception], message: str | None, call: Callable[[nn.Module], object]
) -> None:
    encoder = linear()
    with pytest.raises(error, match=message):
        call(encoder)
    assert encoder.weight.grad is None


def test_a_loss_of_other_embeddings_is_refused() -> None:
    encoder, x = linear(), rows()
    with pytest.raises(InputError, match="must depend on embeddings of the cache"):
        gradient_cache(lambda _: encoder(x).sum(), [(encoder, x)], sub_batch=SUB_BATCH)


def test_an_error_in_the_second_pass_puts_everything_back() -> None:
    encoder = nn.Sequential(linear(), nn.Dropout(0.5), nn.BatchNorm1d(SIZE, dtype=torch.float64))
    states = []

    def second_fails(x: Tensor) -> Tensor:
        if torch.is_grad_enabled():
            raise Broken
        made = encoder(x)
        states.append(torch.get_rng_state())
        return made

    with pytest.raises(Broken), pytest.warns(ContrastileWarning):
        gradient_cache(Tensor.sum, [(second_fails, rows())], sub_batch=12)
    assert torch.equal(torch.get_rng_state(), states[-1])
    assert encoder[2].track_running_stats is True


def test_the_group_is_the_losss() -> None:
    group = object()

    def loss_fn(x: Tensor, *, group: object) -> Tensor:
        given.append(group)
        return x.sum()

    given: list[object] = []
    gradient_cache(loss_fn, [(linear(), X)], sub_batch=SUB_BATCH, group=group)
    assert given == [group]
