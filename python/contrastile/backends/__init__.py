"""Ways to compute blocks of the scores, best first, and the choice between them."""

from __future__ import annotations

from ..engine.run import Backend
from ..problem import InputError, Problem
from .cpu import CpuBackend
from .cuda import CudaBackend
from .reference import ReferenceBackend
from .triton import TritonBackend

# Nobody has measured CUDA's kernels beside Triton's yet: they come after them.
BACKENDS: tuple[Backend, ...] = (CpuBackend(), TritonBackend(), CudaBackend(), ReferenceBackend())

# The reference materialises S: "auto" never takes it, whoever wants it names it.
AUTO: tuple[Backend, ...] = BACKENDS[:-1]


def choose(problem: Problem) -> Backend:
    """The backend the problem names, or for "auto" the best that supports it.

    Raises:
        InputError: an unknown name, a named backend that cannot, or none that can; with reasons.
    """
    caller, name = problem.caller, problem.backend
    if name == "auto":
        reasons = []
        for backend in AUTO:
            reason = why_not(backend, problem)
            if reason is None:
                return backend
            reasons.append(f"{backend.name}: {reason}")
        raise InputError(f"{caller}: no backend can compute this; {'; '.join(reasons)}")
    for backend in BACKENDS:
        if backend.name == name:
            reason = why_not(backend, problem)
            if reason is not None:
                raise InputError(f"{caller}: backend {name!r} cannot compute this: {reason}")
            return backend
    names = ", ".join(backend_names())
    raise InputError(f"{caller}: backend must be one of {names}, got {name!r}")


def backend_names() -> tuple[str, ...]:
    """What ``backend=`` may be."""
    return ("auto", *(backend.name for backend in BACKENDS))


def why_not(backend: Backend, problem: Problem) -> str | None:
    """None, or the reason why ``backend`` cannot compute ``problem``."""
    return backend.available() or backend.supports(problem)


__all__ = ["AUTO", "BACKENDS", "Backend", "backend_names", "choose", "why_not"]
