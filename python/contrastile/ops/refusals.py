"""What the registered ops do not do, in words of their own."""

from __future__ import annotations

from typing import Any

from ..problem.spec import parse


def no_second_derivative(ctx: Any, *upstream: Any) -> Any:
    """The backward pass of a backward pass."""
    raise RuntimeError(
        "contrastile: double backward is not supported, a loss can be differentiated once; use "
        "the dense reference formula of the loss for second derivatives"
    )


def no_batch(info: Any, in_dims: Any, *args: Any) -> Any:
    """A batch of calls, of vmap."""
    specs = [text for text in args if isinstance(text, str) and text.startswith("(")]
    caller = parse(specs[0]).caller if specs else "gather_dot"
    raise RuntimeError(
        f"{caller}: vmap does not reach into its compiled code; take a loop over the batch"
    )
