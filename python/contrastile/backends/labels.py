"""What predicates on labels mean for a sum of powers."""

from __future__ import annotations

from ..problem.pairs import Op, Pairs


def may_keep_none(pairs: Pairs | None) -> bool:
    """Whether rows without any pair are nothing unusual: with labels, of a class of one."""
    return pairs is not None and any(op in (Op.EQUAL, Op.OVERLAP) for op, *_ in pairs.program())
