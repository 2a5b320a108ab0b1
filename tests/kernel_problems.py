"""Problems for the CUDA kernels, and what they ought to compute: plain formulas in fp64."""

from __future__ import annotations

import math
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor

LOG2E = math.log2(math.e)
DTYPES = {"bf16": torch.bfloat16, "fp16": torch.float16, "tf32": torch.float32}
# Of one rounding, to what the strip is stored in.
ROUNDING = {"bf16": 2.0**-8, "fp16": 2.0**-11, "tf32": 2.0**-24}
# Fixed shifts leave sums of 2^90 and smaller.
HEADROOM = 90.0
PHI = ("softplus", "relu", "identity", "square")
# Codes of predicates' operators.
INDEX, EQUAL, OVERLAP, NOT, AND, OR = range(6)


@dataclass(frozen=True)
class Case:
    """What is asked of `reduce` and `weigh`."""

    family: str
    element: str
    form: str
    n: int
    m: int
    d: int
    predicate: str = "all"
    phi: int = 0
    channels: int = 1
    biases: bool = False
    per_row: bool = False
    members: bool = False
    columns: bool = True
    diagonal: bool = False
    first_row: int = 0
    first_col: int = 0
    scale: float = 20.0
    seed: int = 0

    @property
    def name(self) -> str:
        """Only what is not as usual."""
        parts = [self.family, self.element, self.form, f"{self.n}x{self.m}x{self.d}"]
        parts += [self.predicate] if self.predicate != "all" else []
        parts += [PHI[self.phi]] if self.form == "term" else []
        parts += [f"{self.channels} channels"] if self.channels > 1 else []
        flags = ("biases", "per_row", "members", "diagonal")
        parts += [flag for flag in flags if getattr(self, flag)]
        parts += [] if self.columns else ["rows only"]
        parts += ["inner block"] if self.first_row or self.first_col else []
        return ", ".join(parts)


@dataclass
class Data:
    """Tensors of a case; ``scores`` and ``kept`` of each reduction are the truth's, fp64."""

    query: Tensor
    key: Tensor
    dots: Tensor
    scores: list[Tensor] = field(default_factory=list)
    kept: list[Tensor] = field(default_factory=list)
    shifts: Tensor = field(default_factory=lambda: torch.zeros(0))
    alive: list[Tensor] = field(default_factory=list)

    def address(self, tensor: Tensor | None) -> int:
        """For a kernel; the tensor lives as long as the data."""
        if tensor is None:
            return 0
        self.alive.append(tensor)
        return tensor.data_ptr()


def embedding(case: Case, rows: int, generator: torch.Generator) -> Tensor:
    """Unit vectors with NaN beside every row, which is 16-byte aligned."""
    x = torch.nn.functional.normalize(torch.randn(rows, case.d, generator=generator), dim=1)
    dtype = DTYPES[case.element]
    step = 16 // dtype.itemsize
    memory = torch.full((rows, -(-case.d // step) * step + step), math.nan, dtype=dtype)
    memory[:, : case.d] = x.to(dtype)
    return memory[:, : case.d]


def multiplied(x: Tensor) -> Tensor:
    """What tensor cores make of a number: fp32 loses the lower 13 bits, rounded."""
    if x.dtype != torch.float32:
        return x.double()
    bits = x.contiguous().view(torch.int32)
    return ((bits + 0x1000) & ~0x1FFF).view(torch.float32).double()


class Problem:
    """A case's tensors, the module's objects for it, and the truth."""

    def __init__(self, module: Any, case: Case) -> None:
        self.module, self.case = module, case
        module.seed(case.seed)
        self.generator = torch.Generator().manual_seed(case.seed)
        query = embedding(case, case.n, self.generator)
        key = query if case.diagonal else embedding(case, case.m, self.generator)
        self.data = Data(query, key, multiplied(query) @ multiplied(key).T)
        self.element = getattr(module.Element, case.element)
        self.form = getattr(module.Form, case.form)
        # The smallest and the largest shared memory that the families have.
        family = getattr(module.Family, case.family)
        shared = 101376 if case.family == "sm80" else 232448
        self.target = module.Target(family, 0, 2, shared, 0)
        self.reductions = module.Reductions()
        shifts = [self._add(channel) for channel in range(case.channels)]
        self.data.shifts = torch.tensor(shifts)
        self.tile_cols = module.tile_cols(self.element, self.target, case.d)

    def _random(self, *shape: int) -> Tensor:
        return torch.randn(*shape, generator=self.generator)

    def _add(self, channel: int) -> float:
        """One reduction; returns its shift."""
        case, data = self.case, self.data
        unit = (1.0 if case.form == "term" else LOG2E) * (1.0 + 0.5 * channel)
        rows = case.n if case.per_row else 1
        coef = (case.scale * unit * (1 + 0.1 * self._random(rows).tanh())).double()
        high = coef.float()
        low = (coef - high.double()).float()
        row_offset = self._random(case.n) if case.biases else torch.zeros(1)
        col_offset = self._random(case.m) if case.biases else None
        scores = data.dots * coef[:, None]
        if col_offset is not None:
            scores = scores + row_offset.double()[:, None] + col_offset.double()
        steps, kept = self._predicate(channel)
        code, members = self._equal(3) if case.members else ([], torch.zeros(()))
        scores = scores + 0.75 * members
        weight = torch.tensor([0.75]) if case.members else None
        self.reductions.add(
            data.address(high),
            data.address(low),
            case.per_row,
            data.address(row_offset),
            case.biases,
            data.address(col_offset),
            steps,
            code,
            data.address(weight),
            case.phi,
            False,
        )
        data.scores.append(scores)
        data.kept.append(kept)
        return case.scale * unit - HEADROOM

    def _equal(self, groups: int) -> tuple[list[tuple[int, int, int]], Tensor]:
        rows = torch.randint(groups, (self.case.n,), generator=self.generator)
        cols = torch.randint(groups, (self.case.m,), generator=self.generator)
        code = [(EQUAL, self.data.address(rows), self.data.address(cols))]
        return code, rows[:, None] == cols

    def _index(self) -> tuple[list[tuple[int, int, int]], Tensor]:
        columns = torch.randint(-1, self.case.m, (self.case.n,), generator=self.generator)
        code = [(INDEX, self.data.address(columns), 0)]
        return code, columns[:, None] == torch.arange(self.case.m)

    def _overlap(self) -> tuple[list[tuple[int, int, int]], Tensor]:
        rows = torch.randint(2**40, (self.case.n,), generator=self.generator) & 0x7000000003
        cols = torch.randint(2**40, (self.case.m,), generator=self.generator) & 0x1000000002
        code = [(OVERLAP, self.data.address(rows), self.data.address(cols))]
        return code, (rows[:, None] & cols) != 0

    def _predicate(self, channel: int) -> tuple[list[tuple[int, int, int]], Tensor]:
        name = self.case.predicate if channel == 0 else "hole"
        if name == "all":
            return [], torch.ones(self.case.n, self.case.m, dtype=torch.bool)
        if name == "hole":
            code, where = self._index()
            return [*code, (NOT, 0, 0)], ~where
        if name == "equal":
            return self._equal(4)
        if name == "overlap":
            return self._overlap()
        if name == "nothing":
            code, where = self._equal(4)
            return [*code, *code, (NOT, 0, 0), (AND, 0, 0)], where & ~where
        assert name == "mixed"
        (first, a), (second, b), (third, c) = self._equal(3), self._overlap(), self._index()
        code = [*first, *second, *third, (OR, 0, 0), (NOT, 0, 0), (AND, 0, 0)]
        return code, a & ~(b | c)

    # --- calls

    @property
    def block(self) -> tuple[int, int, int, int, bool]:
        case = self.case
        return case.first_row, case.n, case.first_col, case.m, case.diagonal

    @property
    def shape(self) -> tuple[int, int]:
        return self.case.n - self.case.first_row, self.case.m - self.case.first_col

    def _operands(self) -> tuple[int, int, int, int, int]:
        query, key = self.data.query, self.data.key
        strides = query.stride(0), key.stride(0)
        return query.data_ptr(), key.data_ptr(), *strides, self.case.d

    def _room(self, tiles: int, length: int, absent: float) -> Tensor:
        """Tiles below a diagonal write nothing; else every number is written."""
        value = absent if self.case.diagonal else math.nan
        return torch.full((self.case.channels, tiles, length), value)

    def reduce(self, flag: Tensor | None = None) -> dict[str, Tensor]:
        """Partial sums and, of the general form, their shifts."""
        height, width = self.shape
        col_tiles, groups = -(-width // self.tile_cols), -(-height // 64)
        out = {
            "row_sums": self._room(col_tiles, height, 0.0),
            "col_sums": self._room(groups, width, 0.0),
            "row_tops": self._room(col_tiles, height, -math.inf),
            "col_tops": self._room(groups, width, -math.inf),
        }
        kinds = ["sums", "tops"] if self.case.form == "general" else ["sums"]
        sides = ["row", "col"] if self.case.columns else ["row"]
        wanted = [f"{side}_{kind}" for side in sides for kind in kinds]
        address = self.data.address
        self.module.reduce(
            self.element,
            self.form,
            self.target,
            self.reductions,
            self._operands(),
            self.block,
            address(flag),
            address(self.data.shifts),
            *(address(out[name] if name in wanted else None) for name in out),
        )
        return {name: out[name] for name in wanted}

    def weigh(self, flag: Tensor | None = None) -> tuple[Tensor, Tensor, Tensor]:
        """The strip, the row products, and what the strip ought to be."""
        case, address = self.case, self.data.address
        height, width = self.shape
        coefficients, truth = [], torch.zeros(case.n, case.m, dtype=torch.float64)
        for r in range(case.channels):
            own, part = self._coefficients(r)
            coefficients.append(own)
            truth += part
        padded = -(-width // 16) * 16
        out = torch.full((height, padded), math.nan, dtype=DTYPES[case.element])
        products = self._room(-(-width // self.tile_cols), height, 0.0)[0]
        self.module.weigh(
            self.element,
            self.form,
            self.target,
            self.reductions,
            self._operands(),
            self.block,
            address(flag),
            address(self.data.shifts),
            coefficients,
            address(out),
            padded,
            address(products),
        )
        return out[:, :width], products, self.inner(truth)

    def inner(self, matrix: Tensor) -> Tensor:
        """The block of a matrix of all pairs."""
        return matrix[self.case.first_row :, self.case.first_col :]

    def _coefficients(self, r: int) -> tuple[tuple[int, ...], Tensor]:
        """Of reduction r, and its share of G."""
        case, data, address = self.case, self.data, self.data.address
        size = 2.0**-HEADROOM if case.form == "fixed" else 1.0
        a = torch.rand(case.n, generator=self.generator) * size
        b = a if case.diagonal else torch.rand(case.m, generator=self.generator) * size
        top = case.scale * (1.0 + 0.5 * r) * LOG2E
        row_top = top + self._random(case.n)
        col_top = row_top if case.diagonal else top + self._random(case.m)
        has_b = case.columns
        scores, kept = data.scores[r], data.kept[r]
        whole = a.double()[:, None] + (b.double() if has_b else 0.0)
        if case.form == "fixed":
            g = torch.exp2(scores - data.shifts[r].double()) * whole
        elif case.form == "general":
            g = torch.exp2(scores - row_top.double()[:, None]) * a.double()[:, None]
            if has_b:
                g = g + torch.exp2(scores - col_top.double()) * b.double()
        else:
            g = slope(case.phi, scores) * whole
        own = address(a), address(row_top)
        other = (address(b), address(col_top)) if has_b else (0, 0)
        return (*own, *other), torch.where(kept, g, 0.0)

    def values(self, r: int) -> Tensor:
        """What reduction r sums, of the block; powers above the shift."""
        scores, kept = self.inner(self.data.scores[r]), self.inner(self.data.kept[r])
        if self.case.form == "term":
            return torch.where(kept, value(self.case.phi, scores), 0.0)
        return torch.where(kept, torch.exp2(scores - self.data.shifts[r].double()), 0.0)

    @property
    def tolerance(self) -> float:
        """Of sums and weights, relative: exponents up to HEADROOM are rounded, and D products."""
        return 2.0**-24 * (4 * HEADROOM + self.case.d)


def value(phi: int, x: Tensor) -> Tensor:
    """phi(x)."""
    return (torch.nn.functional.softplus(x), torch.relu(x), x, x * x)[phi]


def slope(phi: int, x: Tensor) -> Tensor:
    """phi'(x)."""
    return (torch.sigmoid(x), (x > 0).double(), torch.ones_like(x), 2 * x)[phi]
