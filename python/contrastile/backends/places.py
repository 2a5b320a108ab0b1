"""Where blocks hold the columns of an index, in plain torch."""

from __future__ import annotations

from dataclasses import dataclass

from torch import Tensor

from ..engine.plan import Block


@dataclass(frozen=True, eq=False)
class Place:
    """Rows (from 0) of a block whose column lies in it, and that column (from 0)."""

    rows: Tensor
    columns: Tensor
    # Whether that is every row of the block.
    whole: bool

    def part(self, vector: Tensor, rows: slice) -> Tensor:
        """Their entries of a vector, of which the block has ``rows``."""
        return vector[rows] if self.whole else vector[rows][self.rows]

    def add(self, vector: Tensor, rows: slice, values: Tensor) -> None:
        """Add to these entries."""
        if self.whole:
            vector[rows].add_(values)
        else:
            vector[rows].index_add_(0, self.rows, values)


class Places:
    """Where blocks hold the columns of an index; each is looked for once."""

    def __init__(self) -> None:
        self._found: dict[tuple[int, ...], Place] = {}

    def find(self, columns: Tensor, rows: slice, cols: slice) -> Place:
        """``columns`` has to outlive this object: it is known by its identity."""
        key = (id(columns), rows.start, rows.stop, cols.start, cols.stop)
        if key not in self._found:
            mine = columns[rows]
            own = ((mine >= cols.start) & (mine < cols.stop)).nonzero().squeeze(1)
            whole = own.shape[0] == rows.stop - rows.start
            self._found[key] = Place(own, (mine if whole else mine[own]) - cols.start, whole)
        return self._found[key]


def take(places: Places, block: Block, dots: Tensor, columns: Tensor, out: Tensor) -> None:
    """out[i] += the block's dot product at (i, columns[i]), for the rows whose column it holds."""
    for side, rows, cols in _orientations(block, dots):
        place = places.find(columns, rows, cols)
        place.add(out, rows, side[place.rows, place.columns])


def put(
    places: Places,
    block: Block,
    weights: Tensor,
    columns: Tensor,
    grad: Tensor,
    dots: Tensor,
    products: Tensor | None,
    triangle: bool,
) -> None:
    """Add grad[i] to G at (i, columns[i]); on a triangle's diagonal at its mirror image too.

    And, where they are wanted, grad[i] dots[i] to products[i].
    """
    for side, rows, cols in _orientations(block, weights):
        place = places.find(columns, rows, cols)
        upstream = place.part(grad, rows)
        side.index_put_((place.rows, place.columns), upstream, accumulate=True)
        if triangle and not block.mirrored:
            side.index_put_((place.columns, place.rows), upstream, accumulate=True)
        if products is not None:
            place.add(products, rows, upstream.double() * place.part(dots, rows))


def _orientations(block: Block, values: Tensor) -> list[tuple[Tensor, slice, slice]]:
    """The block as rows by columns, and transposed too if it stands for its mirror image."""
    straight = (values, block.rows, block.cols)
    return [straight, (values.t(), block.cols, block.rows)] if block.mirrored else [straight]
