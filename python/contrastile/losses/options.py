"""The options every loss shares: stated once, checked once."""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass, fields
from functools import wraps
from inspect import Parameter, signature
from numbers import Integral
from typing import Any, ParamSpec, TypeAlias, TypedDict

import torch
from torch import Tensor

from ..backends import NAMES as BACKENDS
from ..ops.unit_length import unit_length
from ..parallel import (
    ALONE,
    EXCHANGES,
    GRAD_SCALES,
    OFFLOADS,
    Alone,
    Offloaded,
    Peers,
    Processes,
    process_group,
    together,
)
from ..problem import values
from ..problem.checks import (
    InputError,
    check_choice,
    check_number,
    check_switch,
    check_vector,
    is_number,
    shape,
)
from ..problem.plain import known_number
from ..problem.problem import check_workspace
from ..problem.row_loss import REDUCTIONS, RowLoss
from ..problem.scores import LARGEST_SCALE, check_scale
from ..problem.storage import NO_TENSORS, check_storage
from .advice import advise_on

P = ParamSpec("P")

# Options that some losses have besides the shared ones, with what they may be.
OWN_NUMBERS = {
    "margin": (-1e6, 1e6),
    "label_smoothing": (0.0, 1.0),
    "sigma": (1e-12, 1e12),
    "beta": (0.0, 100.0),
    "tau_plus": (0.0, 0.999),
}
OWN_CHOICES = {
    "variant": ("out", "in"),
    "direction": ("both", "rows", "columns"),
    "margin_mode": ("absolute", "relative"),
}
OWN_SWITCHES = ("contrast_anchors", "contrast_positives", "query_query", "document_document")
# What empty= may be.
EMPTY = ("zero", "skip", "error")

# A Tensor, or (Tensor, Stats) with return_stats=True: a union would make every typed caller
# narrow it before .backward().
LossOutput: TypeAlias = Any


class LossOptions(TypedDict, total=False):
    """Keyword options of every loss; :class:`Options` holds their defaults and meaning."""

    temperature: float | Tensor | None
    logit_scale: float | Tensor | None
    logit_bias: float | Tensor | None
    weights: Tensor | None
    normalize: bool
    reduction: str
    empty: str
    ignore_label: int | None
    group: object
    grad_scale: str
    exchange: str
    offload: str | None
    backend: str
    workspace: int | None
    return_stats: bool


@dataclass(eq=False)
class Options:
    """The shared options of a loss call.

    Args:
        temperature: divides the dot products: a positive float, a 0-d tensor or one value a row.
            A tensor that is not positive is an error on the CPU; on a GPU, which the host does not
            wait for, the loss is NaN, and ``contrastile.testing.checked_values`` says why.
        logit_scale: multiplies them instead (already exponentiated). Exactly one of the two. 0 is
            allowed (all scores are equal), a negative one warns: it trains the opposite.
        logit_bias: added to every score: a float or a 0-d tensor.
        weights: one weight a row; the mean still divides by the number of rows.
        normalize: divide each embedding by its length, in fp32 (fp64); zero rows stay zero.
        reduction: "mean", "sum" or "none".
        empty: rows without a positive or without a negative: "zero" counts them as 0, "skip"
            leaves them out of the mean, "error" raises.
        ignore_label: the id (label) of items that belong to no class: such an item has no positive
            by id and is a negative of all others. -1, as in ``positives=``, where it means "none";
            with None every integer is a class.
        group: a process group, or one dimension of a DeviceMesh, whose ranks give their own rows:
            the loss is then that of all rows, the same on all ranks ("none": of this rank's rows),
            and stats are of this rank's rows among the columns of all. Shards may differ in size,
            and be empty. See docs/distributed.md.
        grad_scale: with a group, what becomes of gradients after the backward pass: "ddp" they are
            averaged over ranks (DDP, FSDP2), "sum" they are added, "none" nothing, so that a
            scale or a bias has the whole gradient on each rank. In all three the result is the
            gradient of one process that has all rows.
        exchange: with a group, how keys travel: "gather" (all at once), "ring" (shard by shard
            while others are computed with; a rank holds two beside its own), "auto" by bytes.
        offload: "cpu" keeps embeddings that are on the CPU there, and their gradients: a GPU gets a
            strip of rows and a shard of keys at a time, so that batches larger than its memory
            fit. All arguments are then on the CPU; pinned memory is copied while the GPU
            computes, a mapped file gets its gradient in one.
        backend: "auto" takes the first that can, of "cpu" (CPU, fused), "triton" (GPU, fused),
            "cuda" (GPU, kernels in CUDA C++, only by name) and "reference" (anywhere, stores all
            scores, only by name). Of one that cannot the error says why.
        workspace: bytes that the scores may take at any time; default 256 MiB,
            on a GPU a 64th of its memory if that is more.
        return_stats: return ``(loss, Stats)``.
    """

    caller: str
    temperature: float | Tensor | None = None
    logit_scale: float | Tensor | None = None
    logit_bias: float | Tensor | None = None
    weights: Tensor | None = None
    normalize: bool = False
    reduction: str = "mean"
    empty: str = "zero"
    ignore_label: int | None = -1
    group: object = None
    grad_scale: str = "ddp"
    exchange: str = "auto"
    offload: str | None = None
    backend: str = "auto"
    workspace: int | None = None
    return_stats: bool = False

    def __post_init__(self) -> None:
        caller = self.caller
        check_choice(caller, "reduction", self.reduction, REDUCTIONS)
        check_choice(caller, "empty", self.empty, EMPTY)
        check_choice(caller, "backend", self.backend, BACKENDS)
        check_workspace(caller, self.workspace)
        check_switch(caller, "normalize", self.normalize)
        check_switch(caller, "return_stats", self.return_stats)
        _check_ignore_label(caller, self.ignore_label)
        check_choice(caller, "grad_scale", self.grad_scale, GRAD_SCALES)
        check_choice(caller, "exchange", self.exchange, EXCHANGES)
        if self.offload is not None:
            check_choice(caller, "offload", self.offload, OFFLOADS)
        if self.group is not None:
            self._check_group(self.group)
        self._check_numbers()

    def _check_group(self, group: object) -> None:
        if not isinstance(group, (Alone, Processes)):
            process_group(self.caller, group)
        if self.offload is not None:
            raise InputError(
                f"{self.caller}: offload and group do not go together yet; each rank's rows must "
                "fit its device, exchange='ring' needs room for two shards beside its own"
            )

    def _check_numbers(self) -> None:
        """What can be said of scale and bias without the embeddings."""
        caller, temperature, scale = self.caller, self.temperature, self.logit_scale
        if temperature is not None and scale is not None:
            raise self._not_one_scale("both")
        if temperature is not None and not isinstance(temperature, Tensor):
            if is_number(temperature) and not temperature > 0:
                raise InputError(f"{caller}: temperature must be positive, got {temperature}")
            check_scale(caller, "temperature", temperature, 0)
            check_number(caller, "temperature", temperature, 1.0 / LARGEST_SCALE, LARGEST_SCALE)
        if scale is not None and not isinstance(scale, Tensor):
            check_scale(caller, "logit_scale", scale, 0)
        if self.logit_bias is not None and not isinstance(self.logit_bias, Tensor):
            check_number(caller, "logit_bias", self.logit_bias, -LARGEST_SCALE, LARGEST_SCALE)

    def _not_one_scale(self, got: str) -> InputError:
        return InputError(
            f"{self.caller}: give exactly one of temperature and logit_scale, got {got}; "
            "temperature=0.07 is the usual start"
        )

    @property
    def peers(self) -> Peers:
        """Who takes part in the call."""
        if isinstance(self.group, (Alone, Processes)):
            return self.group
        return ALONE if self.offload is None else Offloaded(self.caller)

    def scale(self, n: int) -> float | Tensor:
        """What multiplies the dot products of ``n`` rows."""
        name = "temperature" if self.logit_scale is None else "logit_scale"
        return self.peers.replicated(name, self._scale(n))

    def _scale(self, n: int) -> float | Tensor:
        if self.logit_scale is not None:
            check_scale(self.caller, "logit_scale", self.logit_scale, n)
            return self.logit_scale
        temperature = self.temperature
        if temperature is None:
            raise self._not_one_scale("neither")
        check_scale(self.caller, "temperature", temperature, n)
        if isinstance(temperature, Tensor):
            return self._reciprocal(widen(temperature))
        return 1.0 / float(temperature)

    def _reciprocal(self, temperature: Tensor) -> Tensor:
        """1 / temperature; one that is not positive is an error, or NaN where only a GPU knows."""
        positive = temperature > 0
        if not values.readable(temperature):
            return torch.where(positive, temperature.reciprocal(), torch.nan)
        if not bool(positive.all()):
            wrong = float(temperature.detach()[~positive].min())
            raise InputError(
                f"{self.caller}: temperature must be positive, got {wrong:g}; learn its logarithm "
                "and pass log_temperature.exp()"
            )
        return temperature.reciprocal()

    def scalar_scale(self, n: int) -> float | Tensor:
        """The scale of a loss in which one row's scale would have to be another's too."""
        scale = self.scale(n)
        if isinstance(scale, Tensor) and scale.dim() == 1 and scale.numel() != 1:
            raise InputError(
                f"{self.caller}: each item is a row and a column, so the scale must be one number, "
                f"got {shape(scale)}"
            )
        return scale

    def bias(self, key: Tensor, per_key: bool = False) -> Tensor | None:
        """The bias of the columns that ``key`` makes, or None."""
        bias = self.logit_bias
        if bias is None:
            return None
        m = key.shape[0]
        if not isinstance(bias, Tensor):
            if bias == 0.0:
                return None
            dtype, number = wide_dtype(key), known_number(bias, key.device)
            if isinstance(number, Tensor):
                return number.to(dtype).expand(m)
            return torch.full((m,), number, dtype=dtype, device=key.device)
        if bias.dim() == 0 or bias.shape == (1,):
            check_scale(self.caller, "logit_bias", bias, m)
            # Its gradient is summed over rows: in fp64, to be rounded once.
            whole = self.peers.replicated("logit_bias", bias)
            return whole.reshape(()).double().expand(m)
        if not per_key:
            raise InputError(
                f"{self.caller}: logit_bias must be a float or a 0-d tensor, got {shape(bias)}"
            )
        return check_vector(self.caller, "logit_bias", bias, m)

    def row_weights(self, n: int) -> Tensor | None:
        """The weights of ``n`` rows, or None."""
        if self.weights is None:
            return None
        return check_vector(self.caller, "weights", self.weights, n)

    def embeddings(self, x: Tensor) -> Tensor:
        """``x``, of unit length if asked for."""
        return unit_length(x, self.caller) if self.normalize else x

    def row_loss(self, rule: str, weights: Tensor | None, **more: Any) -> RowLoss | None:
        """The loss of a row, summed over rows as these options say.

        None where weights are learned: the pass over the scores has no gradient for them; and with
        peers, as no rank sees all of the sums.
        """
        if not self.peers.alone:
            return None
        if weights is not None and weights.requires_grad and torch.is_grad_enabled():
            return None
        return RowLoss(
            rule,
            reduction=self.reduction,
            weights=None if weights is None else weights.detach(),
            skip=self.empty == "skip",
            shows=self.return_stats or self.empty == "error",
            **more,
        )

    @property
    def engine(self) -> dict[str, Any]:
        """What the primitives take of these options."""
        return {"backend": self.backend, "workspace": self.workspace, "caller": self.caller}


def wide_dtype(x: Tensor) -> torch.dtype:
    """What is computed in for ``x``: fp32, or fp64 if it is."""
    return torch.float64 if x.dtype == torch.float64 else torch.float32


def widen(x: Tensor) -> Tensor:
    """``x`` in fp32, or fp64 if it is."""
    return x.to(wide_dtype(x))


def check_own_options(caller: str, options: Mapping[str, Any]) -> None:
    """Options that only some losses have: what can be said without the embeddings."""
    for name, (low, high) in OWN_NUMBERS.items():
        if name in options:
            check_number(caller, name, options[name], low, high)
    for name, choices in OWN_CHOICES.items():
        if name in options:
            check_choice(caller, name, options[name], choices)
    for name in OWN_SWITCHES:
        if name in options:
            check_switch(caller, name, options[name])


def check_names(caller: str, given: Iterable[str], names: Collection[str]) -> None:
    """Every option is one that there is."""
    for name in given:
        if name not in names:
            raise TypeError(
                f"{caller}: no option {name!r}; its options are {', '.join(sorted(names))}"
            )


def loss_function(function: Callable[P, LossOutput]) -> Callable[P, LossOutput]:
    """What every loss does around its formula.

    It shows the shared options in its signature (``help``, editors), names what was misnamed,
    checks its own options and gives advice on a call that worked.
    """
    caller, own = function.__name__, signature(function)
    shared = [
        Parameter(f.name, Parameter.KEYWORD_ONLY, default=f.default, annotation=f.type)
        for f in fields(Options)
        if f.name != "caller"
    ]
    explicit = [p for p in own.parameters.values() if p.kind is not Parameter.VAR_KEYWORD]
    # A loss of any number of sets has them in one parameter.
    several = [p.name for p in explicit if p.kind is Parameter.VAR_POSITIONAL]
    names = {p.name for p in (*explicit, *shared)} - {*several}
    defaults = {p.name: p.default for p in (*explicit, *shared)}
    tensors = [p.name for p in explicit if p.kind is Parameter.POSITIONAL_OR_KEYWORD]
    query, key = tensors[0], tensors[min(1, len(tensors) - 1)]
    keywords = [p.name for p in explicit if p.name not in (*tensors, *several)]

    def by_name(args: Sequence[Any]) -> dict[str, Any]:
        further = {f"{n}[{i}]": x for n in several for i, x in enumerate(args[len(tensors) :])}
        return dict(zip(tensors, args, strict=False)) | further

    def chosen(kwargs: Mapping[str, Any]) -> dict[str, Any]:
        """Those that are no defaults, which one rank may leave out and another not."""
        return {
            n: x for n, x in kwargs.items() if type(x) not in NO_TENSORS or x != defaults.get(n)
        }

    def run(*args: Any, **kwargs: Any) -> LossOutput:
        if len(args) > len(tensors) and not several:
            raise TypeError(
                f"{caller}: {', '.join(tensors)} are its positional arguments, got {len(args)}; "
                f"give the others by name: {'=, '.join(('logit_scale', 'temperature', *keywords))}="
            )
        given = by_name(args) | kwargs
        check_storage(caller, given)
        check_names(caller, kwargs, names)
        check_own_options(caller, kwargs)
        loss = function(*args, **kwargs)
        advise_on(caller, given[query], args[1] if several else given[key], kwargs)
        return loss

    @wraps(function)
    def checked(*args: P.args, **kwargs: P.kwargs) -> LossOutput:
        group = kwargs.get("group")
        if group is None or isinstance(group, Alone):
            return run(*args, **kwargs)
        given = by_name(args) | chosen(kwargs) | {"group": "a group"}
        return together(
            caller, group, given, lambda peers: run(*args, **{**kwargs, "group": peers})
        )

    # What matryoshka() takes.
    checked.is_contrastile_loss = True  # type: ignore[attr-defined]
    checked.__signature__ = own.replace(parameters=[*explicit, *shared])  # type: ignore[attr-defined]
    return checked


def _check_ignore_label(caller: str, value: object) -> None:
    if value is None:
        return
    if type(value) is not int and (isinstance(value, bool) or not isinstance(value, Integral)):
        raise TypeError(f"{caller}: ignore_label must be an integer or None, got {value!r}")
    if not -(2**63) <= int(value) < 2**63:
        raise InputError(f"{caller}: ignore_label must be an int64, got {value}")
