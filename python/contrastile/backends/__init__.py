"""Ways to compute blocks of the scores, best first, and the choice between them."""

from __future__ import annotations

from collections.abc import Callable, Sequence

from ..engine.job import Backend
from ..problem import InputError
from ..problem.spec import Sizes, Spec
from ..problem.sweep_spec import SweepSpec
from .cpu import CpuBackend
from .cuda import CudaBackend
from .reference import ReferenceBackend
from .triton import TritonBackend

# Nobody has measured CUDA's kernels beside Triton's yet: they come after them.
BACKENDS: tuple[Backend, ...] = (CpuBackend(), TritonBackend(), CudaBackend(), ReferenceBackend())

# The reference materialises S: "auto" never takes it, whoever wants it names it.
AUTO: tuple[Backend, ...] = BACKENDS[:-1]

# What ``backend=`` may be.
NAMES = ("auto", *(backend.name for backend in BACKENDS))


def choose(spec: Spec, sizes: Sizes) -> Backend:
    """The backend that is named, or for "auto" the best that supports the problem.

    Raises:
        InputError: an unknown name, a named backend that cannot, or none that can; with reasons.
    """
    return _chosen(spec, lambda backend: why_not(backend, spec, sizes))


def choose_for_sweep(spec: SweepSpec, sizes: Sequence[Sizes]) -> Backend:
    """Likewise for a sweep; ``sizes``: of each reduction."""

    def reason(backend: Backend) -> str | None:
        found = backend.available() or backend.supports_planes()
        for reduction, own in zip(spec.reductions, sizes, strict=True):
            found = found or backend.supports(reduction.spec, own)
        return found

    return _chosen(spec.reductions[0].spec, reason)


def choose_for_selection(spec: Spec, sizes: Sizes) -> Backend:
    """Likewise for columns that are picked of each row."""

    def reason(backend: Backend) -> str | None:
        return backend.available() or backend.supports_selections() or backend.supports(spec, sizes)

    return _chosen(spec, reason)


def _chosen(spec: Spec, why: Callable[[Backend], str | None]) -> Backend:
    caller, name = spec.caller, spec.backend
    if name == "auto":
        reasons = []
        for backend in AUTO:
            reason = why(backend)
            if reason is None:
                return backend
            reasons.append(f"{backend.name}: {reason}")
        raise InputError(f"{caller}: no backend can compute this; {'; '.join(reasons)}")
    backend = named(caller, name)
    reason = why(backend)
    if reason is not None:
        raise InputError(f"{caller}: backend {name!r} cannot compute this: {reason}")
    return backend


def named(caller: str, name: str) -> Backend:
    """The backend of a name."""
    for backend in BACKENDS:
        if backend.name == name:
            return backend
    raise InputError(f"{caller}: backend must be one of {', '.join(NAMES)}, got {name!r}")


def why_not(backend: Backend, spec: Spec, sizes: Sizes) -> str | None:
    """None, or the reason why ``backend`` cannot compute this."""
    return backend.available() or backend.supports(spec, sizes)


__all__ = [
    "AUTO",
    "BACKENDS",
    "NAMES",
    "Backend",
    "choose",
    "choose_for_selection",
    "choose_for_sweep",
    "named",
    "why_not",
]
