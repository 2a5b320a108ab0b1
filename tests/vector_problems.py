"""Problems for the CUDA kernels on vectors, checked against plain formulas in fp64."""

from __future__ import annotations

import math
from typing import Any

import torch
from torch import Tensor

INF = math.inf
ELEMENTS = {"bf16": torch.bfloat16, "fp16": torch.float16, "tf32": torch.float32}


def target(module: Any) -> Any:
    """Any device."""
    return module.Target(module.Family.sm90, 0, 2, 101376, 0)


def places(tensors: list[Tensor]) -> list[int]:
    """Addresses."""
    return [tensor.data_ptr() for tensor in tensors]


def close(got: Tensor, truth: Tensor, relative: float) -> None:
    """Equal where one is infinite or no number."""
    assert torch.allclose(got.double(), truth, rtol=relative, atol=0, equal_nan=True), (got, truth)


def check_merge(module: Any, seed: int) -> None:
    """Sums of tiles onto what is there, in the fixed form with and without a unit; by the flag."""
    generator = torch.Generator().manual_seed(seed)
    count, tiles, length = 3, (5, 8, 43)[seed], 257 + seed
    sums = torch.rand(count, tiles, length, generator=generator)
    before = torch.rand(count, length, generator=generator).double()
    unit = torch.tensor(8.0, dtype=torch.float64)
    for form, flag, adds in (
        ("fixed", None, True),
        ("fixed", 0, True),
        ("fixed", 1, False),
        ("general", 0, False),
        ("general", 1, True),
        ("term", None, True),
    ):
        totals = before.clone()
        on_device = None if flag is None else torch.tensor([flag], dtype=torch.int32)
        module.merge(
            target(module), getattr(module.Form, form), sums.data_ptr(), 0, tiles, length,
            0 if on_device is None else on_device.data_ptr(), unit.data_ptr(),
            places(list(totals)), [],
        )  # fmt: skip
        close(totals, before + sums.double().sum(1) / 8 * adds, 1e-14)


def check_raise(module: Any, seed: int) -> None:
    """Sums with shifts onto totals with shifts: empty ones, and a NaN, which stays in its place."""
    generator = torch.Generator().manual_seed(seed)
    count, tiles, length = 2, (4, 9, 40)[seed], 300
    sums = torch.rand(count, tiles, length, generator=generator)
    tops = torch.randn(count, tiles, length, generator=generator) * 100
    empty = torch.rand(count, tiles, length, generator=generator) < 0.3
    empty[:, :, 7] = True
    sums[empty], tops[empty] = 0.0, -INF
    sums[1, 2, 9], tops[1, 2, 9] = math.nan, 0.0
    totals = torch.zeros(count, length, dtype=torch.float64)
    shifts = torch.full((count, length), -INF)
    totals[0], shifts[0] = 1.0, torch.randn(length, generator=generator) * 100
    largest = torch.maximum(shifts, tops.amax(1)).double()
    base = torch.where(largest == -INF, 0.0, largest)
    parts = (sums.double() * torch.exp2(tops.double() - base[:, None])).sum(1)
    truth = parts + totals * torch.exp2(shifts.double() - base)
    for value in (0, 1):  # the first says that the other form holds
        flag = torch.tensor([value], dtype=torch.int32)
        assert bool((totals[0] == 1.0).all())
        module.merge(
            target(module), module.Form.general, sums.data_ptr(), tops.data_ptr(), tiles, length,
            flag.data_ptr(), 0, places(list(totals)), places(list(shifts)),
        )  # fmt: skip
    close(shifts, largest, 0)
    close(totals, truth, 1e-5)
    assert bool(totals[1, 9].isnan()) and int(totals.isnan().sum()) == 1
    assert float(totals[1, 7]) == 0.0 and float(shifts[1, 7]) == -INF


def check_certify(module: Any, seed: int) -> None:
    """The flag for one bad entry among many, and only then."""
    length, least, widest = 513 + seed, 1e-20, 200.0
    for value, span, empty, expected in (
        (1.0, 1.0, False, 0),
        (1e-30, 199.0, False, 0),
        (1e-30, 300.0, False, 1),
        (0.0, 300.0, False, 1),
        (0.0, 300.0, True, 0),
        (1e-30, 300.0, True, 1),
        (INF, 1.0, True, 1),
        (math.nan, 1.0, True, 1),
        (1.0, INF, True, 1),
        (1.0, math.nan, False, 1),
    ):
        totals = torch.ones(2, length, dtype=torch.float64)
        totals[1, length - 1] = value
        spans = torch.tensor([1.0, span], dtype=torch.float64)
        flag = torch.zeros(1, dtype=torch.int32)
        module.certify(
            target(module), places(list(totals)), length, least, widest, spans.data_ptr(),
            [True, empty], flag.data_ptr(),
        )  # fmt: skip
        assert int(flag) == expected, (value, span, empty)


def check_settle(module: Any, seed: int) -> None:
    """Logarithms of the form that the flag names; of nothing -inf."""
    generator = torch.Generator().manual_seed(seed)
    length = 259
    fixed, raised = torch.rand(2, 2, length, generator=generator).double()
    fixed[0, 3], raised[1, 4], raised[0, 5] = 0.0, 0.0, math.nan
    shifts = torch.tensor([3.0, -7.0])
    tops = torch.randn(2, length, generator=generator)
    tops[1, 4] = -INF
    for flag in (None, 0, 1):
        own = fixed if flag == 0 else raised
        above = shifts[:, None].expand(2, length) if flag == 0 else tops
        truth = torch.where(own == 0, -INF, own.log2() + above)
        on_device = None if flag is None else torch.tensor([flag], dtype=torch.int32)
        bits = torch.full((2, length), math.nan, dtype=torch.float64)
        got_shifts, logs = torch.full((2, 2, length), math.nan)
        module.settle(
            target(module), length, 0 if on_device is None else on_device.data_ptr(),
            places(list(fixed)), shifts.data_ptr(), places(list(raised)), places(list(tops)),
            bits.data_ptr(), got_shifts.data_ptr(), places(list(logs)),
        )  # fmt: skip
        close(bits, truth, 1e-14)
        assert torch.equal(got_shifts, above)
        close(logs, truth * math.log(2), 1e-6)


def check_form(module: Any, seed: int) -> None:
    """Coefficients of a channel's rows, of a pair sum, and a gradient that only sets the unit."""
    generator = torch.Generator().manual_seed(seed)
    # More numbers than threads, more warps than one reads at a time; the largest is the last.
    n, m, warps = ((300, 70, 16), (5000, 70, 64), (3600, 2100, 72))[seed]
    rows, cols, other = (torch.randn(k, generator=generator) for k in (n, m, n))
    rows[3], other[5] = INF, math.nan
    cols[m - 1], other[n - 1] = 5.0, -600.0
    bits = torch.randn(n, generator=generator).double()
    bits[3] = bits[4] = -INF
    shifts = torch.randn(n, generator=generator)
    out = torch.full((n,), math.nan), torch.full((m,), math.nan)
    channel = places([bits, shifts, out[0]])
    for size in (1.0, 1e-30, 1e30, 0.0):
        grads = rows * size, cols * size, other * size
        largest = [float(torch.where(g.abs() < INF, g.abs(), 0).max()) for g in grads]
        bound = 2 * (largest[0] + largest[1] * 3.0 + largest[2])
        exponent = 14 - math.ceil(math.log2(bound)) if 0 < bound < INF else 0
        unit = torch.full((), math.nan, dtype=torch.float64)
        parts = torch.full((3, warps), math.nan)
        module.form(
            target(module),
            [
                (grads[0].data_ptr(), n, 1.0, *channel),
                (grads[1].data_ptr(), m, -3.0, 0, 0, out[1].data_ptr()),
                (grads[2].data_ptr(), n, 1.0, 0, 0, 0),
            ],
            True, parts.data_ptr(), warps, unit.data_ptr(),
        )  # fmt: skip
        assert float(unit) == 2.0 ** min(exponent, 126)
        powers = grads[0].double() * torch.exp2(shifts.double() - bits) * unit
        close(out[0], torch.where(bits == -INF, 0.0, powers).float().double(), 1e-6)
        close(out[1], (grads[1].double() * -3.0 * unit).float().double(), 1e-6)


def check_positives(module: Any, seed: int) -> None:
    """Dot products taken, and gradients put into a block and its mirror image."""
    generator = torch.Generator().manual_seed(seed)
    for name, dtype in ELEMENTS.items():
        n, m, d, step = 21, 13, (37, 300, 1101)[seed], 16 // dtype.itemsize
        memory = torch.full((2, n, -(-d // step) * step), math.nan, dtype=dtype)
        memory[:, :, :d] = torch.randn(2, n, d, generator=generator).to(dtype)
        query, key = memory[0], memory[1, :m]
        columns = torch.randint(-1, m, (n,), generator=generator)
        out = torch.full((n,), math.nan)
        operands = query.data_ptr(), key.data_ptr(), query.stride(0), key.stride(0), d
        element = getattr(module.Element, name)
        module.take(element, target(module), operands, columns.data_ptr(), n, out.data_ptr())
        dots = (query[:, :d].double() * key[columns.clamp(min=0), :d].double()).sum(1)
        dots[columns < 0] = 0.0
        assert torch.allclose(out.double(), dots, rtol=0, atol=2.0**-20 * d**0.5 * 8)

        grad = torch.randn(n, generator=generator)
        unit = torch.tensor(4.0, dtype=torch.float64)
        first, last = 3, 11
        rows, inside = torch.arange(n), (columns >= first) & (columns < last)
        for mirrored in (False, True):
            shape = (last - first, n) if mirrored else (n, last - first)
            strip = torch.randn(shape, generator=generator).to(dtype)
            products = torch.ones(n, dtype=torch.float64)
            truth = (strip.t() if mirrored else strip).clone()
            at = rows[inside], columns[inside] - first
            truth[at] = (truth[at].float() + 4 * grad[inside]).to(dtype)
            view = strip.t() if mirrored else strip
            module.put(
                element, target(module), view.data_ptr(), view.stride(), columns.data_ptr(), n,
                (first, last), grad.data_ptr(), out.data_ptr(), unit.data_ptr(),
                0 if mirrored else products.data_ptr(),
            )  # fmt: skip
            assert torch.equal(view, truth)
            added = torch.where(inside, grad.double() * out.double(), 0.0)
            close(products, 1 + (0 if mirrored else 1) * added, 1e-14)


CHECKS = {
    "merge": check_merge,
    "raise": check_raise,
    "certify": check_certify,
    "settle": check_settle,
    "form": check_form,
    "positives": check_positives,
}
