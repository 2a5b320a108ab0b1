"""The CUDA kernels on an emulated machine, against formulas in fp64."""

from __future__ import annotations

import os
import random
from dataclasses import replace
from types import ModuleType

import emulated
import pytest
import torch
from contrastile.problem.pairs import Op
from kernel_problems import ROUNDING, Case, Problem
from selected import rest_in_gates
from torch import Tensor


@pytest.fixture(scope="session")
def module() -> ModuleType:
    return emulated.load()


ELEMENTS = (
    ("sm80", "bf16"),
    ("sm80", "fp16"),
    ("sm80", "tf32"),
    ("sm90", "bf16"),
    ("sm90", "fp16"),
)
FORMS = ("fixed", "general", "term")
PREDICATES = ("hole", "equal", "overlap", "mixed", "nothing")
# As hypothesis' profiles: more of them at night. The first are for the test command.
RANDOM_CASES = 2000 if os.environ.get("HYPOTHESIS_PROFILE") == "nightly" else 500
QUICK_CASES = 30


def _cases() -> list[Case]:
    cases = []
    for seed, (family, element) in enumerate(ELEMENTS):
        for form in FORMS:
            plain = Case(family, element, form, 100, 70, 48, seed=seed)
            cases += [
                plain,
                replace(plain, n=150, m=300, d=130, predicate="hole"),
                replace(
                    plain,
                    n=133,
                    m=259,
                    d=72,
                    predicate="mixed",
                    biases=True,
                    members=form != "term",
                ),
                replace(plain, n=300, m=300, d=64, diagonal=True, first_row=0),
                replace(plain, n=77, m=200, d=40, channels=2, per_row=True, columns=False),
                replace(plain, n=1, m=1, d=1),
                replace(plain, n=131, m=65, d=33, first_row=3, first_col=1, biases=True),
                replace(plain, predicate=PREDICATES[(seed + FORMS.index(form)) % 5], m=140),
            ]
        term = Case(family, element, "term", 70, 90, 32, seed=seed, predicate="hole")
        cases += [replace(term, phi=phi) for phi in (1, 2, 3)]
    # Queries that do not fit in shared memory beside a ring.
    wide = Case("sm90", "bf16", "fixed", 130, 600, 600)
    cases += [replace(wide, form=form) for form in FORMS]
    cases.append(replace(wide, n=520, m=520, diagonal=True))
    return cases


def total(sums: Tensor, tops: Tensor | None, shift: float) -> Tensor:
    """Partial sums added up, above the shift."""
    parts = sums.double()
    if tops is not None:
        parts = torch.where(tops == -torch.inf, 0.0, parts * torch.exp2(tops.double() - shift))
    return parts.sum(0)


def close(got: Tensor, truth: Tensor, size: Tensor, tolerance: float) -> None:
    """Relative to the sum of absolute terms."""
    error = (got.double() - truth).abs()
    assert bool((error <= tolerance * size + 1e-35).all()), (error / (size + 1e-35)).max()


def _random_case(seed: int) -> Case:
    """Any kernel with any predicate on any small shape."""
    rng = random.Random(seed)
    family, element = rng.choice(ELEMENTS)
    form = rng.choice(FORMS)
    n, d = rng.randint(1, 150), rng.randint(1, 90)
    diagonal = rng.random() < 0.2
    return Case(
        family,
        element,
        form,
        n,
        n if diagonal else rng.randint(1, 150),
        d,
        predicate="all" if diagonal else rng.choice(("all", *PREDICATES)),
        phi=rng.randrange(4),
        channels=1 if diagonal else rng.randint(1, 3),
        biases=not diagonal and rng.random() < 0.5,
        per_row=not diagonal and rng.random() < 0.3,
        members=not diagonal and form != "term" and rng.random() < 0.3,
        columns=diagonal or rng.random() < 0.7,
        diagonal=diagonal,
        seed=seed,
    )


CASES = [
    # Every third, which is each kind of case with several formats.
    *rest_in_gates(_cases(), _cases()[::3]),
    *(_random_case(1000 + i) for i in range(QUICK_CASES)),
    *(
        pytest.param(_random_case(1000 + i), marks=pytest.mark.gates)
        for i in range(QUICK_CASES, RANDOM_CASES)
    ),
]


@pytest.mark.parametrize("case", CASES, ids=lambda case: case.name)
def test_sums(module: ModuleType, case: Case) -> None:
    problem = Problem(module, case)
    out = problem.reduce()
    for r in range(case.channels):
        shift = float(problem.data.shifts[r])
        sides = {}
        for side in ("row", "col") if case.columns else ("row",):
            tops = out[f"{side}_tops"][r] if case.form == "general" else None
            sides[side] = total(out[f"{side}_sums"][r], tops, shift)
        values = problem.values(r)
        size = values.abs() + (1.0 if case.form == "term" else 0.0)
        if case.diagonal:
            sides = {"row": sides["row"] + sides["col"]}
        for side, got in sides.items():
            axis = 1 if side == "row" else 0
            close(got, values.sum(axis), size.sum(axis), problem.tolerance)


@pytest.mark.parametrize("case", CASES, ids=lambda case: case.name)
def test_weights(module: ModuleType, case: Case) -> None:
    problem = Problem(module, case)
    strip, products, truth = problem.weigh()
    rounding = ROUNDING[case.element]
    # The smallest fp16 numbers are coarse.
    smallest = 2.0**-25 if case.element == "fp16" else 0.0
    if case.form == "term":
        smallest += problem.tolerance * case.scale  # a slope near 0 has the error of its argument
    error = (strip.double() - truth).abs()
    assert bool((error <= (problem.tolerance + rounding) * truth.abs() + smallest).all())
    dots = problem.inner(problem.data.dots)
    share = torch.ones_like(dots)
    if case.diagonal:
        # Each pair once: those below the diagonal are their mirror images' share.
        rows = torch.arange(case.n)
        # sm_90's thread blocks come in pairs, one below the other.
        size = 256 if case.family == "sm90" else 128
        square = (rows // size)[:, None] - (rows // size)
        share = torch.where(square == 0, 0.5, torch.where(square < 0, 1.0, 0.0)).double()
    terms = truth * dots * share
    # A dot product's own error, below 2^-20 of its vectors' lengths, is no part of a small one.
    size = terms.abs().sum(1) + 2.0**-4 * (truth * share).abs().sum(1)
    close(products.double().sum(0), terms.sum(1), size, 2 * problem.tolerance)


@pytest.mark.parametrize("family", ["sm80", "sm90"])
def test_the_flag_says_which_form_works(module: ModuleType, family: str) -> None:
    for form, value in (("fixed", 1), ("general", 0)):
        problem = Problem(module, Case(family, "bf16", form, 40, 40, 16))
        flag = torch.tensor([value], dtype=torch.int32)
        assert all(bool(part.isnan().all()) for part in problem.reduce(flag).values())
        assert bool(problem.weigh(flag)[0].isnan().all())
        flag.fill_(1 - value)
        assert not any(bool(part.isnan().any()) for part in problem.reduce(flag).values())


@pytest.mark.parametrize("family", ["sm80", "sm90"])
def test_same_bits_in_every_order(module: ModuleType, family: str) -> None:
    """Threads run, and copies arrive, in another order with every seed."""
    case = Case(family, "bf16", "fixed", 200, 300, 200)
    results = []
    for seed in range(5):
        problem = Problem(module, case)
        module.seed(100 + seed)
        results.append([*problem.reduce().values(), *problem.weigh()[:2]])
    for other in results[1:]:
        assert all(torch.equal(a, b) for a, b in zip(results[0], other, strict=True))


@pytest.mark.parametrize("family", ["sm80", "sm90"])
def test_nan_and_infinity_come_out(module: ModuleType, family: str) -> None:
    for form in ("fixed", "general", "term"):
        for bad in (torch.nan, torch.inf):
            problem = Problem(module, Case(family, "bf16", form, 70, 90, 32))
            problem.data.query[5, 3] = bad
            out = problem.reduce()
            assert not torch.isfinite(out["row_sums"][0, :, 5].sum())
            assert bool(torch.isfinite(out["row_sums"][0, :, 6]).all())


@pytest.mark.parametrize("family", ["sm80", "sm90"])
def test_an_exact_zero_stays_one(module: ModuleType, family: str) -> None:
    """Pairs that do not count never contribute, whatever their scores."""
    problem = Problem(module, Case(family, "bf16", "fixed", 70, 90, 32, predicate="nothing"))
    assert not any(bool(part.any()) for name, part in problem.reduce().items() if "sums" in name)
    strip, products, _ = problem.weigh()
    assert not bool(strip.any()) and not bool(products.any())


def test_bad_calls_are_refused(module: ModuleType) -> None:
    reductions = module.Reductions()
    arguments = [0, 0, False, 0, False, 0]
    with pytest.raises(ValueError, match="lacks its operands"):
        reductions.add(*arguments, [(4, 0, 0)], [], 0, 0, False)
    with pytest.raises(ValueError, match="unknown op"):
        reductions.add(*arguments, [(99, 0, 0)], [], 0, 0, False)
    with pytest.raises(ValueError, match="reads what is no integer"):
        reductions.add(*arguments, [(int(Op.LESS), 0, 0)], [], 0, 0, False)
    with pytest.raises(ValueError, match="too many operands"):
        reductions.add(*arguments, [(0, 0, 0)] * 5, [], 0, 0, False)
    with pytest.raises(ValueError, match="no kernels for this element"):
        target = module.Target(module.Family.sm90, 0, 2, 232448, 0)
        module.tile_cols(module.Element.tf32, target, 64)


def test_what_the_machine_refuses_is_an_error(module: ModuleType) -> None:
    problem = Problem(module, Case("sm90", "bf16", "fixed", 40, 40, 24))
    problem.data.query = problem.data.query[:, 1:]
    with pytest.raises(RuntimeError, match="not aligned"):
        problem.reduce()
