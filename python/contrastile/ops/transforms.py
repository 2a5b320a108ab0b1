"""torch.func.grad and vjp: what they want in the place of a registered op."""

from __future__ import annotations

import torch


def is_differentiating() -> bool:
    """Whether torch.func.grad or vjp is what comes next of the transforms of this thread.

    A registered op brings them a Function of the older form, which they refuse.
    """
    if torch.compiler.is_dynamo_compiling() or not torch._C._are_functorch_transforms_active():
        return False
    innermost = torch._C._functorch.peek_interpreter_stack()
    return innermost is not None and innermost.key().name == "Grad"
