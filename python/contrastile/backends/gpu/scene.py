"""A job as the kernels of a GPU see it."""

from __future__ import annotations

import contextlib
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from ...engine.job import Job
from ...engine.operands import Operand
from ...engine.plan import Block
from ...problem.spec import NONE, Sizes, Spec
from .aligned import aligned_rows
from .forms import Form, forms_of

NOWHERE_ELSE = contextlib.nullcontext()


@dataclass(frozen=True, eq=False)
class Scene:
    """``query`` and ``key`` are in the operands' dtype, their rows contiguous and aligned."""

    job: Job
    forms: tuple[Form, ...]
    query: Tensor
    key: Tensor

    @staticmethod
    def of(job: Job) -> Scene:
        """Embeddings as they are, or padded copies of them: N D work, and no slow path. Where their
        dot products are given nobody reads them.
        """
        forms = forms_of(job.spec, job.sizes, job.plan, job.given)
        if job.given:
            return Scene(job, forms, job.query.tensor, job.key.tensor)
        query = aligned_rows(_whole(job.query))
        key = query if job.spec.key == NONE else aligned_rows(_whole(job.key))
        return Scene(job, forms, query, key)

    @property
    def spec(self) -> Spec:
        """What is computed."""
        return self.job.spec

    @property
    def sizes(self) -> Sizes:
        """How many rows, columns and features it has, and in which dtypes."""
        return self.job.sizes

    @property
    def general_block(self) -> bool:
        """Whether the general form of one block is all there is: nothing is merged with it."""
        return self.forms == (Form.GENERAL,) and self.job.plan.single

    def is_diagonal(self, block: Block) -> bool:
        """Whether only one triangle of the block is computed."""
        return self.job.spec.triangle and not block.mirrored

    def on_device(self) -> contextlib.AbstractContextManager[Any]:
        """Kernels are launched on the current device, whatever the tensors are on."""
        return current(self.job.sizes.device)


def current(device: torch.device) -> contextlib.AbstractContextManager[Any]:
    """Inside, it is the current one."""
    if device.type != "cuda" or device.index in (None, torch.cuda.current_device()):
        return NOWHERE_ELSE
    return torch.cuda.device(device)


def _whole(operand: Operand) -> Tensor:
    """All of it in the operands' dtype; where it is, without a step in between."""
    tensor = operand.tensor
    return tensor if tensor.dtype == operand.dtype else operand.whole()
