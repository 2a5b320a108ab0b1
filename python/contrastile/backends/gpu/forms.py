"""The forms of a pass over blocks, and which of them a problem takes."""

from __future__ import annotations

from enum import Enum

from ...engine.plan import Plan
from ...problem.spec import Sizes, Spec

# Up to so many scores, in one block, only the general form is launched. It takes twice the powers
# (predicted: 9 us of an H200 at N = 4096) and saves the host seven launches of 10 us or more.
SMALL = 2**22


class Form(Enum):
    """What is computed of a block: powers above one shift, or above the largest exponent of each
    row and column; or a function of the scores.
    """

    FIXED = "fixed"
    GENERAL = "general"
    SUM = "term"


def forms_of(spec: Spec, sizes: Sizes, plan: Plan, given: bool) -> tuple[Form, ...]:
    """Which forms are launched: fixed shifts, then the general form in case they fail; that alone
    where numbers are ``given``, as those of blocks before are gone then, and cost a load from
    memory, beside which a second power costs nothing.
    """
    if not spec.log_sums:
        return (Form.SUM,)
    small = sizes.n * sizes.m <= SMALL and plan.single
    return (Form.GENERAL,) if small or given else (Form.FIXED, Form.GENERAL)
