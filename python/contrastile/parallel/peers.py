"""Who takes part in a loss: this process alone, or all ranks of a group."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from numbers import Integral, Real
from typing import Any, TypeAlias, TypeVar

import torch
import torch.distributed as dist
from torch import Tensor

from ..problem.checks import InputError
from ..problem.plain import is_traced
from .agreement import agree, check_everywhere, tell_failure
from .collectives import Collectives
from .columns import Columns, OwnColumns, PassingColumns
from .host import HostSource
from .shares import Share
from .sources import PeerSource
from .vectors import Quotient, Replicated, Total

T = TypeVar("T")
Number = TypeVar("Number", bound="float | Tensor")

# What becomes of gradients after the backward pass, and so what they are multiplied by in it.
GRAD_SCALES = ("ddp", "sum", "none")
EXCHANGES = ("auto", "gather", "ring")
OFFLOADS = ("cpu",)
# What the keys of all ranks and their gradients may take before "auto" takes the ring: bytes, and
# on a GPU a part of its memory. A ring's steps wait for the host, and shards must have ten thousand
# rows to hide that (docs/scaling.md).
GATHERED = 256 * 2**20
GATHERED_PART = 8


class Alone:
    """No other process takes part."""

    alone = True

    def columns(self, name: str, items: Tensor, times: int = 1) -> Columns:
        """The columns that the items of argument ``name`` make, each of them ``times``."""
        return OwnColumns(times * items.shape[0])

    def replicated(self, name: str, value: Number) -> Number:
        """The argument ``name``, a number that all processes have, or one a row."""
        return value

    def total(self, values: Tensor) -> Tensor:
        """The sum over processes."""
        return values

    def loss(self, total: Tensor, count: int | Tensor | None) -> Tensor:
        """The totals of all processes over their counts, which are their sum without any."""
        if count is None:
            return total
        return total / (count.clamp(min=1) if isinstance(count, Tensor) else max(count, 1))

    def check(self, caller: str, fault: str | None) -> None:
        """Raise what only the values of one process show, on all of them.

        Raises:
            InputError: the fault.
        """
        if fault is not None:
            raise InputError(f"{caller}: {fault}")


ALONE = Alone()


class Offloaded(Alone):
    """No other process takes part, and embeddings stay in the host's memory."""

    alone = False

    def __init__(self, caller: str) -> None:
        self._caller = caller

    def columns(self, name: str, items: Tensor, times: int = 1) -> Columns:
        """Those of this process, whose keys are computed with on a GPU if there is one."""
        if items.device.type != "cpu":
            raise InputError(
                f"{self._caller}: offload='cpu' keeps embeddings on the CPU, so {name} must be "
                f"there, got {items.device}; pass {name}.cpu(), or leave offload out"
            )
        where = torch.device("cuda" if torch.cuda.is_available() else "cpu")
        share = Share((times * items.shape[0],), 0)
        return PassingColumns(self._caller, HostSource(share, where))


class Processes:
    """All ranks of a group, in one call of a loss.

    They agree on what they were given before the first exchange, which is when the loss first asks
    for columns: all that a rank can find wrong by itself is found by then.
    """

    alone = False

    def __init__(self, caller: str, group: object, given: Mapping[str, Any]) -> None:
        self._caller = caller
        self._collectives = Collectives(process_group(caller, group))
        self._given = given
        self._asked = False
        self._sizes: dict[str, tuple[int, ...]] = {}
        self._room = 0

    def columns(self, name: str, items: Tensor, times: int = 1) -> Columns:
        """Those of all ranks."""
        if not self._asked:
            self._asked = True
            self._sizes, self._room = self._agreed(_room(items.device))
        share = Share(self._sizes[name], self._collectives.rank).times(times)
        exchange = self._given.get("exchange", "auto")
        ring = exchange == "ring" or (exchange == "auto" and _bytes(share, items) > self._room)
        return PassingColumns(self._caller, PeerSource(self._collectives, share, ring))

    def replicated(self, name: str, value: Number) -> Number:
        """Where nobody reduces gradients after the backward pass, they are summed in it."""
        if self._convention != "none" or not isinstance(value, Tensor):
            return value

        def shared() -> bool:
            return all(size == 1 for size in self._sizes.get(name, ()))

        return Replicated.apply(self._caller, self._collectives, shared, value)

    def total(self, values: Tensor) -> Tensor:
        """The sum over ranks."""
        found: Tensor = Total.apply(self._caller, self._collectives, values)
        return found

    def loss(self, total: Tensor, count: int | Tensor | None) -> Tensor:
        """The same number on all ranks, its gradient as ``grad_scale`` says."""
        world = self._collectives.size
        factor = float(world) if self._convention == "ddp" else 1.0
        shares = 1 / world if count is None else count
        found: Tensor = Quotient.apply(self._caller, self._collectives, factor, total, shares)
        return found

    def check(self, caller: str, fault: str | None) -> None:
        """Raise on all ranks."""
        check_everywhere(caller, self._collectives, fault)

    def __enter__(self) -> Processes:
        return self

    def __exit__(self, kind: object, error: BaseException | None, trace: object) -> None:
        """Let the others know of an error, if they still wait for this rank to agree."""
        if isinstance(error, Exception) and not self._asked:
            tell_failure(self._collectives, error)

    @property
    def _convention(self) -> str:
        return str(self._given.get("grad_scale", "ddp"))

    def _agreed(self, room: int) -> tuple[dict[str, tuple[int, ...]], int]:
        """How many rows each rank has of each argument; and the least room of any."""
        facts = {"loss": self._caller}
        facts |= {name: _fact(value) for name, value in sorted(self._given.items())}
        facts["gradients"] = "wanted" if torch.is_grad_enabled() else "off"
        counts = {
            name: value.shape[0]
            for name, value in sorted(self._given.items())
            if isinstance(value, Tensor) and value.dim()
        }
        table = agree(self._caller, self._collectives, facts, [*counts.values(), room])
        *sizes, rooms = zip(*table, strict=True)
        return dict(zip(counts, sizes, strict=True)), min(rooms)


Peers: TypeAlias = Alone | Offloaded | Processes


def together(
    caller: str, group: object, given: Mapping[str, Any], call: Callable[[Processes], T]
) -> T:
    """``call`` among the ranks of ``group``; what one of them finds wrong, all of them hear.

    A trace is left for it: it waits for other processes.
    """
    if torch.compiler.is_dynamo_compiling():
        return torch.compiler.disable(_together)(caller, group, given, call)
    return _together(caller, group, given, call)


def _together(
    caller: str, group: object, given: Mapping[str, Any], call: Callable[[Processes], T]
) -> T:
    if is_traced():
        raise InputError(
            f"{caller}: with a group a loss exchanges numbers, and a trace has none; leave it out "
            "of what is traced (torch.compile does so by itself)"
        )
    with Processes(caller, group, given) as peers:
        return call(peers)


def process_group(caller: str, group: object) -> dist.ProcessGroup:
    """The group that a loss was given: a ProcessGroup, or a DeviceMesh of one dimension.

    Raises:
        InputError: none of these, or one that this process is not a member of.
    """
    get_group = getattr(group, "get_group", None)
    if get_group is not None:
        dimensions = getattr(group, "ndim", 1)
        if dimensions != 1:
            raise InputError(
                f"{caller}: group must be one dimension of a DeviceMesh, got one of {dimensions}; "
                'pass mesh["name"]'
            )
        group = get_group()
    if group is dist.GroupMember.NON_GROUP_MEMBER:
        raise InputError(f"{caller}: this process is no member of group; leave the call out here")
    if not isinstance(group, dist.ProcessGroup):
        raise InputError(
            f"{caller}: group must be a process group or a DeviceMesh, got {group!r}; "
            "torch.distributed.group.WORLD is that of all processes"
        )
    return group


def _room(device: torch.device) -> int:
    """Bytes that gathered keys and their gradients may take."""
    if device.type != "cuda":
        return GATHERED
    memory = torch.cuda.get_device_properties(device).total_memory
    return max(GATHERED, memory // GATHERED_PART)


def _bytes(share: Share, items: Tensor) -> int:
    wide = max(4, items.element_size())
    return share.total * math.prod(items.shape[1:]) * (items.element_size() + wide)


def _fact(value: object) -> str:
    """What all ranks must have in common of an argument; of tensors in a sequence, their rows too.

    Equal numbers are equal whatever their types: 0, 0.0 and numpy's.
    """
    if value is None or isinstance(value, (str, bool)):
        return repr(value)
    if isinstance(value, Integral):
        return repr(int(value))
    if isinstance(value, Real):
        number = float(value)
        return repr(int(number) if number.is_integer() else number)
    if isinstance(value, Sequence):
        return ", ".join(_fact(part) + _rows(part) for part in value)
    if not isinstance(value, Tensor):
        return "a group"
    shape = ", ".join(["rows", *map(str, value.shape[1:])] if value.dim() else [])
    grad = " with gradient" if value.requires_grad else ""
    return f"{str(value.dtype).removeprefix('torch.')} [{shape}] on {value.device.type}{grad}"


def _rows(part: object) -> str:
    return f" of {len(part)} rows" if isinstance(part, Tensor) and part.dim() else ""
