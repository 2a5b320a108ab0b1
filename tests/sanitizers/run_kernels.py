"""Run by test_sanitizers.py: emulated kernels, compiled with sanitizers, on a few problems."""

from __future__ import annotations

import importlib.util
import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parents[1]))

import torch
import vector_problems
from kernel_problems import Case, Problem

ELEMENTS = (("sm80", "tf32"), ("sm80", "fp16"), ("sm90", "bf16"))
FORMS = ("fixed", "general", "term")


def cases() -> list[Case]:
    """Each family and form: odd sizes, a diagonal, an inner block; together every predicate."""
    found = []
    for family, element in ELEMENTS:
        for form, predicate in zip(FORMS, ("mixed", "equal", "overlap"), strict=True):
            found.append(Case(family, element, form, 131, 131, 7, "hole", diagonal=True))
            # Both halves differ only in how the strip is stored.
            if element != "fp16":
                found.append(
                    Case(
                        family, element, form, 67, 133, 33, predicate, biases=True, per_row=True,
                        members=form != "term", first_row=2, first_col=3,
                    )
                )  # fmt: skip
    # Queries that do not stay in shared memory, and the smallest problem.
    wide = Case("sm90", "bf16", "fixed", 3, 259, 515, columns=False)
    return [*found, wide, Case("sm80", "fp16", "term", 1, 1, 1, channels=2)]


class Short(Problem):
    """The partial sums have no room for the last of their numbers."""

    def _room(self, tiles: int, length: int, absent: float) -> torch.Tensor:
        return super()._room(tiles, length, absent).flatten()[:-1].clone()


def main(library: str, kind: str) -> None:
    spec = importlib.util.spec_from_file_location("sanitized.emulated", library)
    assert spec is not None and spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    for case in cases():
        print(case.name, flush=True)
        problem = (Short if kind == "short" else Problem)(module, case)
        problem.reduce()
        problem.weigh()
    for name, check in vector_problems.CHECKS.items():
        print(name, flush=True)
        check(module, 0)
    print("no complaints")


main(*sys.argv[1:])
