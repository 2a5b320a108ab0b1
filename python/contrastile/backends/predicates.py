"""The opcodes of predicates in plain torch: which pairs of a block count."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import torch
from torch import Tensor

from ..engine.plan import Block
from ..problem.pairs import Op
from ..problem.spec import Program

# What an opcode makes of the data that its instruction names, on a block.
LEAVES: dict[Op, Callable[[Tensor, Tensor, Block], Tensor]] = {
    Op.INDEX: lambda columns, _, block: (
        columns[block.rows, None]
        == torch.arange(block.cols.start, block.cols.stop, device=columns.device)
    ),
    Op.EQUAL: lambda rows, cols, block: rows[block.rows, None] == cols[block.cols],
    Op.OVERLAP: lambda rows, cols, block: (rows[block.rows, None] & cols[block.cols]) != 0,
    Op.LESS: lambda rows, cols, block: rows[block.rows, None] < cols[block.cols],
    Op.AT_MOST: lambda rows, cols, block: rows[block.rows, None] <= cols[block.cols],
    Op.WITHIN: lambda rows, cols, block: (
        (rows[block.rows, :1] - cols[block.cols]).abs() < rows[block.rows, 1:]
    ),
}
# What an opcode makes of a plane's numbers and of the limits that they are compared with.
ABOVE: dict[Op, Callable[[Tensor, Tensor, Block], Tensor]] = {
    Op.ROW_ABOVE: lambda numbers, limits, block: numbers > limits[block.rows, None],
    Op.COL_ABOVE: lambda numbers, limits, block: numbers > limits[block.cols],
}
# What an opcode makes of the masks before it.
BRANCHES: dict[Op, Callable[[Tensor, Tensor], Tensor]] = {
    Op.AND: lambda left, right: left & right,
    Op.OR: lambda left, right: left | right,
}


def mask(
    program: Program, tensors: Sequence[Tensor], block: Block, planes: Sequence[Tensor] = ()
) -> Tensor:
    """The pairs of a block in a predicate, as a bool tensor that broadcasts to it.

    ``planes``: each plane's numbers of the block.
    """
    stack: list[Tensor] = []
    for code, first, second in program:
        op = Op(code)
        if op is Op.NOT:
            stack.append(~stack.pop())
        elif op in BRANCHES:
            right, left = stack.pop(), stack.pop()
            stack.append(BRANCHES[op](left, right))
        elif op in ABOVE:
            stack.append(ABOVE[op](planes[second], tensors[first], block))
        else:
            stack.append(LEAVES[op](tensors[first], tensors[second], block))
    (found,) = stack
    return found


def others(
    program: Program, tensors: Sequence[Tensor], block: Block, planes: Sequence[Tensor] = ()
) -> Tensor:
    """The pairs of a block that are not in a predicate."""
    if program[-1][0] == Op.NOT:
        return mask(program[:-1], tensors, block, planes)
    return ~mask(program, tensors, block, planes)
