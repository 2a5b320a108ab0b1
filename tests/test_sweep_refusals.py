"""What sweeps reject, word for word."""

from __future__ import annotations

import re
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import torch
from contrastile import InputError
from contrastile.ops import sweep
from contrastile.problem import (
    Channel,
    Equal,
    Index,
    Map,
    Mapped,
    Phi,
    Plane,
    Reduction,
    Term,
)
from contrastile.problem.row_loss import RowLoss
from rejections import meta_as_a_device
from torch import Tensor
from torch.fx.experimental.proxy_tensor import make_fx

N, D = 12, 6


def embeddings() -> Tensor:
    return torch.randn(N, D, dtype=torch.float64)


WRONG: dict[str, tuple[Callable[[Tensor], Any], str]] = {
    "no planes": (lambda x: sweep([], []), "planes must be a list of at least one Plane"),
    "first a map": (
        lambda x: sweep([Mapped(Map.VOLUME, (0,))], []),
        "the first plane must be a Plane, got Mapped",
    ),
    "no reductions": (lambda x: sweep([Plane(x)], []), "reductions must be a list of at least one"),
    "no such plane": (
        lambda x: sweep([Plane(x)], [Reduction(1, [Channel()])]),
        "there are 1 planes, a Reduction asks for number 1",
    ),
    "rows": (
        lambda x: sweep([Plane(x), Plane(x[:3], x)], [Reduction(0, [Channel()])]),
        r"the same rows and columns, \(12, 12\) as planes\[0\] has, got planes\[1\] of \(3, 12\)",
    ),
    "features": (
        lambda x: sweep([Plane(x, features=(2, 7))], [Reduction(0, [Channel()])]),
        r"planes\[0\].features must lie within the 6 features, got \(2, 7\)",
    ),
    "three features": (
        lambda x: sweep([Plane(x, features=(0, 1, 2))], [Reduction(0, [Channel()])]),  # type: ignore[arg-type]
        r"planes\[0\].features must be \(start, stop\), got \(0, 1, 2\)",
    ),
    "factor": (
        lambda x: sweep([Plane(x, row_factor=x[0])], [Reduction(0, [Channel()])]),
        r"planes\[0\].row_factor",
    ),
    "map of what comes later": (
        lambda x: sweep([Plane(x), Mapped(Map.VOLUME, (1,))], [Reduction(0, [Channel()])]),
        "reads planes that stand before it",
    ),
    "map of too few": (
        lambda x: sweep([Plane(x), Mapped(Map.SOFT_TARGET, (0,))], [Reduction(0, [Channel()])]),
        "SOFT_TARGET reads 2 to 2 planes",
    ),
    "channels and terms": (
        lambda x: sweep([Plane(x)], [Reduction(0, [Channel()], [Term(Phi.RELU)])]),
        "either channels or terms",
    ),
    "ranks of a map": (
        lambda x: sweep(
            [Plane(x), Mapped(Map.VOLUME, (0,))],
            [Reduction(1, [Channel()], positives=Index.diagonal(N), ranks=True)],
        ),
        "ranks of a mapped plane need row_thresholds",
    ),
    "backend": (
        lambda x: sweep([Plane(x)], [Reduction(0, [Channel()])], backend="cuda"),
        "backend 'cuda' cannot compute this",
    ),
}


@pytest.mark.parametrize("what", WRONG)
def test_what_does_not_fit(what: str) -> None:
    call, message = WRONG[what]
    with pytest.raises(InputError, match=rf"^sweep: .*{message}"):
        call(embeddings())


OF_A_WRONG_TYPE: dict[str, tuple[Callable[[Tensor], Any], str]] = {
    **{
        f"number of a plane: {plane!r}": (
            lambda x, plane=plane: sweep([Plane(x)], [Reduction(plane, [Channel()])]),
            f"the plane of a Reduction must be an integer, got {type(plane).__name__}",
        )
        for plane in ("a", 0.0, True)
    },
    "one feature": (
        lambda x: sweep([Plane(x, features=2)], [Reduction(0, [Channel()])]),  # type: ignore[arg-type]
        "planes[0].features must be a sequence of integers, got int",
    ),
    "half a feature": (
        lambda x: sweep([Plane(x, features=(0, 1.5))], [Reduction(0, [Channel()])]),  # type: ignore[arg-type]
        "planes[0].features[1] must be an integer, got float",
    ),
    "map of a number": (
        lambda x: sweep([Plane(x), Mapped(Map.VOLUME, 0)], [Reduction(0, [Channel()])]),  # type: ignore[arg-type]
        "planes[1].planes must be a sequence of integers, got int",
    ),
    "map of no integer": (
        lambda x: sweep([Plane(x), Mapped(Map.VOLUME, (0.0,))], [Reduction(0, [Channel()])]),  # type: ignore[arg-type]
        "planes[1].planes[0] must be an integer, got float",
    ),
}


@pytest.mark.parametrize("what", OF_A_WRONG_TYPE)
def test_what_is_of_a_wrong_type(what: str) -> None:
    call, message = OF_A_WRONG_TYPE[what]
    with pytest.raises(TypeError, match=f"^sweep: {re.escape(message)}$"):
        call(embeddings())


def test_numbers_of_numpy() -> None:
    """Also where all is written down for an op."""
    x = embeddings()

    def reduced(x: Tensor, zero: Any, four: Any) -> Tensor:
        planes = [Plane(x, features=(zero, four)), Mapped(Map.CENTRED, (zero,), x[:, 0])]
        return torch.stack([own.rows[0] for own in sweep(planes, [Reduction(zero, [Channel()])])])

    expected = reduced(x, 0, 4)
    assert torch.equal(reduced(x, np.int64(0), np.int32(4)), expected)
    traced = make_fx(lambda x: reduced(x, np.int64(0), np.int32(4)), tracing_mode="fake")
    assert torch.equal(traced(x)(x), expected)


META = torch.ones(N, device="meta")
ON_META: dict[str, Callable[[Tensor], Any]] = {
    "planes[0].key": lambda x: sweep([Plane(x, x.to("meta"))], []),
    "planes[1].row": lambda x: sweep([Plane(x), Mapped(Map.CENTRED, (0,), META)], []),
    **{
        f"reductions[1].{name}": lambda x, name=name: sweep(
            [Plane(x)], [Reduction(), Reduction(**{name: META})]
        )
        for name in ("scale", "row_bias", "positives", "row_thresholds")
    },
    "reductions[0].channels[1].row_log_weight": lambda x: sweep(
        [Plane(x)], [Reduction(0, [Channel(), Channel(row_log_weight=META)])]
    ),
    "reductions[0].row_loss.weights": lambda x: sweep(
        [Plane(x)], [Reduction(row_loss=RowLoss("softmax", weights=META))]
    ),
    "Equal.rows": lambda x: sweep([Plane(x)], [Reduction(0, [Channel(Equal(META, META))])]),
}


@pytest.mark.parametrize("name", ON_META)
def test_the_part_that_has_no_memory_is_named(name: str) -> None:
    """Compiled code would read from no address."""
    with pytest.raises(InputError, match=f"^sweep: {re.escape(name)} is on the meta device"):
        ON_META[name](embeddings())


def test_both_parts_of_two_devices_are_named() -> None:
    x = embeddings()
    message = "sweep: planes[1].row must be on cpu as planes[0].query is, got meta"
    with meta_as_a_device(), pytest.raises(InputError, match=f"^{re.escape(message)}$"):
        ON_META["planes[1].row"](x)
