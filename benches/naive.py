"""The formula of each loss with the whole score matrix in memory: the package's references.

In the dtype of a case it is the provider ``naive``; in fp64 it is what all providers must equal.
"""

from __future__ import annotations

from collections.abc import Callable

from contrastile.losses.inputs import Inputs
from contrastile.losses.registry import LOSSES
from torch import Tensor

LossFunction = Callable[[Inputs], Tensor]
NAIVE: dict[str, LossFunction] = {name: entry.formula for name, entry in LOSSES.items()}
