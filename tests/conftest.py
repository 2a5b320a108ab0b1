"""Fixtures shared by all tests."""

from __future__ import annotations

import os
import random
import sys
from collections.abc import Iterator

# Read when the first kernel is defined: the Triton backend runs on the CPU here.
os.environ["TRITON_INTERPRET"] = "1"

import contrastile.native
import pytest
import torch
from contrastile.engine.forward import plans_of
from engines import engine as engine
from engines import engine_of_planes as engine_of_planes
from hypothesis import settings
from interpreter import correct

correct()

BACKENDS = ("reference", "cpu")

settings.register_profile("ci", derandomize=True, max_examples=25, deadline=None)
settings.register_profile("nightly", max_examples=5000, deadline=None)
settings.load_profile(os.environ.get("HYPOTHESIS_PROFILE", "ci"))


def pytest_addoption(parser: pytest.Parser) -> None:
    """What another machine would have, for .ci/matrix."""
    group = parser.getgroup("contrastile")
    group.addoption("--threads", type=int, help="threads of torch, here and in other processes")
    group.addoption("--simd-level", help="avx512, avx2, baseline; none: as if nothing was compiled")
    group.addoption("--order", help="'reversed', or a seed that shuffles the tests")


def pytest_configure(config: pytest.Config) -> None:
    threads = config.getoption("threads")
    if threads is not None:
        os.environ["OMP_NUM_THREADS"] = str(threads)
    elif "PYTEST_XDIST_WORKER" in os.environ:
        # Workers side by side: threads of their own would only wait for each other's.
        threads = 1
    if threads is not None:
        torch.set_num_threads(threads)
    level = config.getoption("simd_level")
    if level is not None:
        force(level)


def force(level: str) -> None:
    """The compiled pass runs at this SIMD level, whatever the processor has."""
    if level == "none":
        # What import finds for a module that is known to be absent.
        sys.modules["contrastile._C"] = None  # type: ignore[assignment]
        return
    module = contrastile.native.load()
    if module is None or level not in module.levels():
        raise pytest.UsageError(f"--simd-level {level}: not built, or not on this processor")
    contrastile.native.level = lambda: level


@pytest.hookimpl(trylast=True)
def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    order = config.getoption("order")
    if order == "reversed":
        items.reverse()
    elif order is not None:
        random.Random(order).shuffle(items)


@pytest.fixture(params=BACKENDS, scope="session")
def backend(request: pytest.FixtureRequest) -> str:
    """Session-wide, so that hypothesis accepts it next to its own arguments."""
    return request.param


@pytest.fixture(autouse=True)
def own_plans() -> None:
    """Plans are kept for a process: those of other tests may have other tiles."""
    plans_of.cache_clear()


@pytest.fixture(autouse=True)
def seeded() -> None:
    torch.manual_seed(0)


@pytest.fixture
def poisoned_empty() -> Iterator[None]:
    """torch.empty and its kin come filled with NaN: an element never written shows up."""
    fill = torch.utils.deterministic.fill_uninitialized_memory
    enabled = torch.are_deterministic_algorithms_enabled()
    warn_only = torch.is_deterministic_algorithms_warn_only_enabled()
    torch.use_deterministic_algorithms(True)
    torch.utils.deterministic.fill_uninitialized_memory = True
    yield
    torch.utils.deterministic.fill_uninitialized_memory = fill
    torch.use_deterministic_algorithms(enabled, warn_only=warn_only)
