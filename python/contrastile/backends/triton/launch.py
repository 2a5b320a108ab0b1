"""Launch configurations: one frozen record, the tables of them, and the choice of one.

``launches/<architecture>.json`` has a table for each architecture, ``default.json`` what they leave
out. The environment variable CONTRASTILE_LAUNCHES may name one more file, as ``contrastile tune``
writes it, with other values of what changes no arithmetic.
"""

from __future__ import annotations

import json
import os
from collections.abc import Collection, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import MISSING, dataclass, fields, replace
from enum import Enum
from functools import cache
from pathlib import Path
from typing import Any

import torch

from ...problem import InputError
from .device import Device


class Purpose(Enum):
    """Which kernel is launched. Sums over columns take registers, and no warp specialisation; the
    general forms need more, and run where a problem is small or a bound fails; the weights of a
    diagonal block are written twice.
    """

    REDUCE = "reduce"
    REDUCE_ROWS = "reduce rows"
    REDUCE_GENERAL = "reduce, general form"
    REDUCE_TERMS = "reduce pair sums"
    REDUCE_AND_KEEP = "reduce, keep dot products"
    REDUCE_GIVEN = "reduce given numbers"
    WEIGH = "weigh"
    WEIGH_TERMS = "weigh pair sums"
    WEIGH_AND_SUM = "weigh and sum"
    WEIGH_GENERAL = "weigh, general form"
    WEIGH_DIAGONAL = "weigh diagonal"
    WEIGH_DIAGONAL_GENERAL = "weigh diagonal, general form"
    WEIGH_KEPT = "weigh kept dot products"
    TOP_K = "top k"
    GROUP_MAX = "group max"


@dataclass(frozen=True)
class Launch:
    """Shape and resources of a kernel; no choice of them may change a result beyond rounding."""

    rows: int
    cols: int
    depth: int
    warps: int
    stages: int
    descriptors: bool
    per_processor: int = 1
    # Into how many parts, side by side, the weights of a tile are made and stored.
    parts: int = 1
    # Of the loop over features, at least: where embeddings are small, ``depth`` is less.
    steps: int = 1
    group: int = 8
    flatten: bool = False
    specialize: bool = False

    def constants(self) -> dict[str, int | bool]:
        """The kernel's compile-time arguments."""
        return {
            "ROWS": self.rows,
            "COLS": self.cols,
            "DEPTH": self.depth,
            "GROUP": self.group,
            "DESCRIPTORS": self.descriptors,
            "FLATTEN": self.flatten,
            "SPECIALIZE": self.specialize,
        }

    def options(self) -> dict[str, int]:
        """The compiler's options."""
        return {"num_warps": self.warps, "num_stages": self.stages}

    def programs(self, row_count: int, col_count: int, device: Device) -> int:
        """A persistent grid: no more programs than run at once, no more than tiles."""
        tiles = -(-row_count // self.rows) * -(-col_count // self.cols)
        return max(min(tiles, device.processors * self.per_processor), 1)


Table = Mapping[tuple[str, Purpose], Launch]

INTERPRETED = Launch(16, 32, 16, 4, 1, descriptors=True)
# A tile is not halved below: the tensor cores of sm_90 and sm_100 take no fewer rows.
FEWEST_ROWS, FEWEST_COLS = 64, 32
# Nor does any tensor core take fewer features.
SHALLOWEST = 16
FOLDER = Path(__file__).parent / "launches"
# Architectures that take another's table: as much shared memory, as good tensor cores.
RELATIVES = {"sm_86": "sm_120", "sm_89": "sm_120", "sm_103": "sm_100", "sm_121": "sm_120"}
VARIABLE = "CONTRASTILE_LAUNCHES"
# Classes of dtypes, as files name them.
KINDS = ("half", "single", "double")
FIELDS = {field.name: field for field in fields(Launch)}
POWERS_OF_TWO = ("rows", "cols", "depth", "warps", "parts")
# The order and the overlap of tiles. Any other field may change what is added to what first.
TUNABLE = ("stages", "group", "per_processor", "flatten")
# The entry for all purposes that a file does not name.
OTHERWISE = "otherwise"
# What ``trying`` tries.
_trial: dict[tuple[str, Purpose], Launch] = {}


def pick(
    device: Device,
    dtype: torch.dtype,
    purpose: Purpose,
    reductions: int = 1,
    size: int | None = None,
) -> Launch:
    """The configuration for operands of ``dtype`` with ``size`` features (None: many).

    ``reductions`` (stats) of one tile take registers each: of several its sides are half as long.
    """
    launch = _pick(device.arch, kind_of(dtype), purpose, reductions > 1)
    return launch if size is None else _in_steps(launch, size)


def _in_steps(launch: Launch, size: int) -> Launch:
    """Slabs of features so shallow that the loop over them takes its ``steps``."""
    depth = launch.depth
    while depth > SHALLOWEST and depth * (launch.steps - 1) >= max(size, 1):
        depth //= 2
    return launch if depth == launch.depth else replace(launch, depth=depth)


@dataclass(frozen=True, eq=False)
class Launches:
    """The launches of an architecture as they stand now: another object once they changed."""

    table: Table


@cache
def launches(arch: str) -> Launches:
    """Shipped, tuned or on trial."""
    return Launches({**shipped(arch), **_from_environment(arch), **_trial})


def forget() -> None:
    """Look at all tables anew."""
    launches.cache_clear()
    _pick.cache_clear()


@cache
def _pick(arch: str, kind: str, purpose: Purpose, several: bool) -> Launch:
    launch = launches(arch).table[kind, purpose]
    if purpose is Purpose.WEIGH_KEPT:
        kept = Purpose.REDUCE_AND_KEEP
        return _within(launch, _pick(arch, kind, kept, several))
    if not several or arch == "interpreter":
        return launch
    rows = min(launch.rows, max(launch.rows // 2, FEWEST_ROWS))
    cols = min(launch.cols, max(launch.cols // 2, FEWEST_COLS))
    # Specialised, two groups of warps take 64 rows each.
    return replace(launch, rows=rows, cols=cols, parts=1, specialize=False)


def _within(launch: Launch, outer: Launch) -> Launch:
    """``launch`` with no side longer than the longest of ``outer``.

    On a block on the diagonal ``reduce`` keeps dot products in tiles that lie on the diagonal or
    above it. A tile of weights reads them, so it must not reach further below it than they do.
    """
    longest = max(outer.rows, outer.cols)
    return replace(launch, rows=min(launch.rows, longest), cols=min(launch.cols, longest))


def kind_of(dtype: torch.dtype) -> str:
    """The class of a dtype: one table serves it."""
    return {torch.float32: "single", torch.float64: "double"}.get(dtype, "half")


def shipped(arch: str) -> Table:
    """The table of an architecture, every kind and purpose in it."""
    _, table = read(FOLDER / "default.json")
    if arch == "interpreter":
        # No descriptor describes blocks of any width.
        given = {Purpose.REDUCE_GIVEN: replace(INTERPRETED, descriptors=False, specialize=False)}
        return {
            key: launch if key[1] is Purpose.WEIGH_KEPT else given.get(key[1], INTERPRETED)
            for key, launch in table.items()
        }
    file = FOLDER / f"{RELATIVES.get(arch, arch)}.json"
    return {**table, **read(file)[1]} if file.exists() else table


def specialised(arch: str) -> Table:
    """Warp-specialised launches that wait for a device to be measured on; see :func:`trying`."""
    file = FOLDER / f"{arch}_specialised.json"
    return read(file)[1] if file.exists() else {}


def _from_environment(arch: str) -> Table:
    file = os.environ.get(VARIABLE)
    return tuned(Path(file), arch) if file else {}


def tuned(file: Path, arch: str) -> Table:
    """What a file changes for ``arch``; results stay bitwise the same."""
    tuned_for, table = read(file)
    if tuned_for != arch:
        raise InputError(
            f"{file}: tuned for {tuned_for}, but this device is {arch}: unset {VARIABLE}, or "
            "tune again on this device"
        )
    before = shipped(arch)
    for (kind, purpose), launch in table.items():
        for name in [name for name in FIELDS if name not in TUNABLE]:
            old, new = (getattr(each, name) for each in (before[kind, purpose], launch))
            if new != old:
                raise InputError(
                    f"{file}: {kind}, {purpose.value!r}: {name} may change results and must stay "
                    f"{old}, got {new}; tunable are {', '.join(TUNABLE)}. If the shipped launches "
                    "changed since, tune again"
                )
    return table


@contextmanager
def trying(table: Table) -> Iterator[None]:
    """Inside, its launches take the place of all others."""
    _trial.update(table)
    forget()
    try:
        yield
    finally:
        _trial.clear()
        forget()


@cache
def read(file: Path) -> tuple[str, Table]:
    """The architecture that a file is for, and its launches."""
    try:
        content = json.loads(file.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise InputError(f"{file}: not a file of launch configurations: {error}") from error
    content = _object(content, ("arch", "why", "measured", *KINDS), str(file))
    if not isinstance(content.get("arch"), str):
        raise InputError(f"{file}: arch must name an architecture, got {content.get('arch')!r}")
    table = {}
    for kind in KINDS:
        names = [OTHERWISE, *(purpose.value for purpose in Purpose)]
        entries = _object(content.get(kind, {}), names, f"{file}: {kind}")
        found = {k: _launch(v, f"{file}: {kind}, {k!r}") for k, v in entries.items()}
        for purpose in Purpose:
            launch = found.get(purpose.value, found.get(OTHERWISE))
            if launch is not None:
                table[kind, purpose] = launch
    return content["arch"], table


def _launch(entry: object, where: str) -> Launch:
    values = _object(entry, (*FIELDS, "why"), where)
    values.pop("why", None)
    for name, field in FIELDS.items():
        if name not in values:
            if field.default is MISSING:
                raise InputError(f"{where}: {name} is missing")
            continue
        value = values[name]
        # Annotations are text in this file; a bool is an int to isinstance.
        if type(value).__name__ != field.type:
            raise InputError(f"{where}: {name} must be of type {field.type}, got {value!r}")
        if field.type == "int" and value < 1:
            raise InputError(f"{where}: {name} must be positive, got {value}")
        if name in POWERS_OF_TWO and value & (value - 1):
            raise InputError(f"{where}: {name} must be a power of two, got {value}")
    return Launch(**values)


def _object(value: object, names: Collection[str], where: str) -> dict[str, Any]:
    """A copy of a JSON object that has no other names."""
    if not isinstance(value, dict):
        raise InputError(f"{where}: must be a JSON object, got {value!r}")
    for name in value:
        if name not in names:
            raise InputError(f"{where}: unknown name {name!r}, known are {', '.join(names)}")
    return dict(value)
