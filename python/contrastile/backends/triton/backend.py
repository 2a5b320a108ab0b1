"""What the Triton backend can compute, and the strips it does so in."""

from __future__ import annotations

import importlib.util
from functools import cache

import torch

from ...engine.job import Job
from ...engine.picked import Selector
from ...engine.plan import Keeping, Tile
from ...engine.sweep.block_math import BlockMath
from ...problem.spec import Sizes, Spec
from ..gpu.backend import GpuBackend
from ..gpu.kernels import SummingKernels
from ..gpu.passes import GpuReducingWeigher
from ..gpu.scene import Scene
from ..gpu.strips import strip_tile
from .device import Device
from .precision import uses_tensor_cores

# Predicted for an H200: 10 bytes a score to write, read and weigh kept dot products take 2.5 ps of
# its memory; to compute them again takes 2 D flop, at 600 TFLOP/s 2.6 ps.
KEEP_FROM = 768
# The first that compiles device functions which call themselves, as those of predicates do.
OLDEST_TRITON = (3, 5)


def interpreting() -> bool:
    """Whether Triton was told to run kernels in its interpreter, on the CPU."""
    from triton import knobs

    return bool(knobs.runtime.interpret)


def interprets_bf16() -> bool:
    """Whether the interpreter multiplies bf16: Triton's own multiplies their bits, as integers."""
    from triton.runtime.interpreter import InterpreterBuilder

    return not InterpreterBuilder.create_dot.__module__.startswith("triton.")


@cache
def installed_triton() -> str | None:
    """Its version, whatever the name of the package that it came in; None if there is none."""
    if importlib.util.find_spec("triton") is None:
        return None
    import triton

    return str(triton.__version__)


def why_unavailable() -> str | None:
    """None, or what is wrong with the Triton that is installed, and how to get another."""
    found, oldest = installed_triton(), ".".join(map(str, OLDEST_TRITON))
    if found is None:
        return (
            "the package triton is not installed: a GPU build of torch brings its own, beside "
            "another build `pip install 'contrastile[triton]'` installs it"
        )
    if tuple(int(part) for part in found.split(".")[:2]) < OLDEST_TRITON:
        return (
            f"triton {found} is too old, its kernels need {oldest} or newer: every GPU build of "
            "torch 2.9 or newer brings one that is"
        )
    return None


class TritonBackend(GpuBackend):
    """One source for NVIDIA and AMD GPUs; on the CPU by Triton's interpreter, for tests."""

    name = "triton"
    weighs_at_once = True
    scales_upstream = True

    def available(self) -> str | None:
        """None, or how to get a Triton."""
        return why_unavailable()

    def supports(self, spec: Spec, sizes: Sizes) -> str | None:
        """None, or why it cannot compute this problem."""
        device = sizes.device
        if device.type == "cuda":
            return None
        if device.type != "cpu" or not interpreting():
            return f"the embeddings are on {device}, not on a GPU"
        if self.operand_dtype(spec, sizes) == torch.bfloat16 and not interprets_bf16():
            return "Triton's interpreter multiplies bf16 wrongly; take float32 or float16 there"
        return None

    def keeping(self, spec: Spec, sizes: Sizes) -> Keeping:
        """Of fp32 always: 12 bytes a score, against products outside the tensor cores."""
        dtype, arch = self.operand_dtype(spec, sizes), Device.of(sizes.device).arch
        return Keeping(KEEP_FROM if uses_tensor_cores(dtype, arch, spec.tf32) else 0)

    def tile(self, spec: Spec, sizes: Sizes) -> Tile:
        """All columns, and as many rows as the workspace has room for."""
        processors = Device.of(sizes.device).processors
        return strip_tile(spec, sizes, self.operand_dtype(spec, sizes), processors)

    def reducing_weigher(self, job: Job, products: bool) -> GpuReducingWeigher:
        """Sums of a function and their weights from one look at the scores."""
        scene = Scene.of(job)
        return GpuReducingWeigher(scene, self.kernels(scene), products)

    def block_math(self, sizes: Sizes) -> BlockMath:
        """Elementwise kernels."""
        from .block_math import TritonBlockMath

        return TritonBlockMath(sizes)

    def supports_selections(self) -> str | None:
        """None: it picks columns."""
        return None

    def selector(self, job: Job) -> Selector:
        """What picks columns of the job's rows."""
        from .select import TritonSelector

        return TritonSelector(job)

    def kernels(self, scene: Scene) -> SummingKernels:
        """Bound to a job."""
        from .kernels import TritonKernels

        return TritonKernels(scene)
