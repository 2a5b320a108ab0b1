"""Fixtures shared by all tests."""

from __future__ import annotations

import os
from collections.abc import Iterator

# Read when the first kernel is defined: the Triton backend runs on the CPU here.
os.environ["TRITON_INTERPRET"] = "1"

import pytest
import torch
from engines import engine as engine
from hypothesis import settings
from interpreter import correct

correct()

BACKENDS = ("reference", "cpu")

# Workers side by side: threads of their own would only wait for each other's.
if "PYTEST_XDIST_WORKER" in os.environ:
    torch.set_num_threads(1)

settings.register_profile("ci", derandomize=True, max_examples=25, deadline=None)
settings.register_profile("nightly", max_examples=5000, deadline=None)
settings.load_profile(os.environ.get("HYPOTHESIS_PROFILE", "ci"))


@pytest.fixture(params=BACKENDS, scope="session")
def backend(request: pytest.FixtureRequest) -> str:
    """Session-wide, so that hypothesis accepts it next to its own arguments."""
    return request.param


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
