"""What the tests of the integrations share: libraries that may be absent."""

from __future__ import annotations

from functools import cache
from importlib.util import find_spec
from pathlib import Path

import pytest
import torch

# Modules that import the library that they are named after.
INTEGRATIONS = ("integrations.open_clip", "integrations.sentence_transformers")


@cache
def describe_torchvision() -> torch.library.Library | None:
    """Let torchvision be imported where its binary does not fit torch.

    The wheel on PyPI is for torch with CUDA. Beside a CPU build its binary does not load, and its
    import then stops at two operators that it wants to describe. Nothing here calls them. They are
    there as long as what is returned.
    """
    found = find_spec("torchvision")
    (folder,) = found.submodule_search_locations if found else ()
    try:
        torch.ops.load_library(next(Path(folder).glob("_C*.so")))
        return None
    except OSError:
        library = torch.library.Library("torchvision", "DEF")
        for name in ("nms", "qnms"):
            library.define(f"{name}(Tensor dets, Tensor scores, float iou_threshold) -> Tensor")
        return library


def needs(*packages: str) -> pytest.MarkDecorator:
    """The extra "clients" is not part of "test": its wheels take as long to install as all else."""
    missing = [name for name in packages if find_spec(name) is None]
    reason = f"{', '.join(missing)} not installed; pip install -c constraints.txt '.[clients]'"
    return pytest.mark.skipif(bool(missing), reason=reason)
