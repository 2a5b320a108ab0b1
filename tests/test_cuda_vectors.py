"""The CUDA kernels on vectors of rows and columns, on the emulation."""

from __future__ import annotations

from types import ModuleType

import emulated
import pytest
import vector_problems


@pytest.fixture(scope="module")
def module() -> ModuleType:
    return emulated.load()


@pytest.mark.parametrize("seed", range(3))
@pytest.mark.parametrize("name", vector_problems.CHECKS)
def test_vectors(module: ModuleType, name: str, seed: int) -> None:
    vector_problems.CHECKS[name](module, seed)


def test_bad_lists_are_refused(module: ModuleType) -> None:
    target = vector_problems.target(module)
    with pytest.raises(ValueError, match="upstream: too few or too many"):
        module.form(target, [], False, 0, 8, 0)
    with pytest.raises(ValueError, match="parts_each: expected whole thread blocks"):
        module.form(target, [(0, 1, 1.0, 0, 0, 0)], False, 0, 12, 0)
    with pytest.raises(ValueError, match="may_be_empty: expected one of each reduction"):
        module.certify(target, [0], 1, 0.0, 0.0, 0, [], 0)
    with pytest.raises(ValueError, match="expected 5 addresses, one of each reduction"):
        module.merge(target, module.Form.fixed, 0, 0, 1, 1, 0, 0, [0] * 5, [])
