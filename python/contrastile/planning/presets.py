"""GPUs and links by name: their makers' figures, and what of them is taken to be reached.

None was measured here. ``contrastile plan`` takes other numbers by its options.
"""

from __future__ import annotations

from typing import NamedTuple

GIB = 2**30


class Pass(NamedTuple):
    """One look at all scores: seconds a pair beside its product, and flop a second in it."""

    pair: float
    rate: float

    def seconds(self, pairs: int, size: int) -> float:
        """For so many pairs of embeddings."""
        return pairs * (self.pair + 2 * size / self.rate)


class Kernels(NamedTuple):
    """The passes of a loss; ``at_once``: both from one look, where no other rank takes part."""

    reduce: Pass
    weigh: Pass
    at_once: Pass | None = None

    def at_rate(self, rate: float) -> Kernels:
        """With another rate of all products."""
        once = self.at_once and self.at_once._replace(rate=rate)
        return Kernels(self.reduce._replace(rate=rate), self.weigh._replace(rate=rate), once)


class Gpu(NamedTuple):
    """Bytes of memory, bytes a second to it, flop a second of GEMMs, and passes by loss.

    ``host``: seconds that a host takes to start the work of one shard and direction.
    """

    memory: int
    bandwidth: float
    products: float
    kernels: dict[str, Kernels]
    host: float


# A straight line through what the static model says of Triton's kernels as shipped, bf16, sm_90
# (python -m contrastile.benches.kernels.static_report); tests/test_plan.py holds it against the
# tables of docs/performance.md.
SM_90 = {
    "clip_loss": Kernels(Pass(0.51e-12, 597e12), Pass(0.59e-12, 597e12)),
    "info_nce": Kernels(Pass(0.34e-12, 597e12), Pass(0.50e-12, 597e12)),
    "siglip_loss": Kernels(Pass(1.96e-12, 449e12), Pass(0.87e-12, 597e12), Pass(1.47e-12, 597e12)),
}
# Half of what a step of clip_loss at 8 rows takes of the host (benches/kernels/host_time.py, on a
# shared machine without a GPU; docs/performance.md: 0.67 ms).
HOST = 0.35e-3
# cuBLAS, bf16, as in the static model.
GEMM = 720e12

# Memory and its bandwidth: NVIDIA's data sheets of H100 SXM5, H200 SXM, GH200 (HBM3); as much of
# the memory is counted as a program sees.
GPUS = {
    "h100": Gpu(78 * GIB, 3.35e12, GEMM, SM_90, HOST),
    "h200": Gpu(139 * GIB, 4.3e12, GEMM, SM_90, HOST),
    "gh200": Gpu(94 * GIB, 4.0e12, GEMM, SM_90, HOST),
}


class Link(NamedTuple):
    """Bytes a second in one direction, and seconds until the first byte."""

    bandwidth: float
    latency: float


# Four fifths of the maker's figure for one direction; latencies are guesses of a message's whole
# way, launch included.
REACHED = 0.8
LINKS = {
    # 18 links of 25 GB/s through NVSwitch: H100 and H200 SXM.
    "nvlink": Link(REACHED * 450e9, 10e-6),
    # Four GH200 that are wired each to each, six of 18 links to a neighbour.
    "nvlink-quad": Link(REACHED * 150e9, 10e-6),
    "pcie5": Link(REACHED * 64e9, 15e-6),
    # One adapter a GPU.
    "infiniband-400g": Link(REACHED * 50e9, 15e-6),
    "infiniband-200g": Link(REACHED * 25e9, 15e-6),
    "slingshot-200g": Link(REACHED * 25e9, 20e-6),
    "ethernet-100g": Link(REACHED * 12.5e9, 50e-6),
    "ethernet-10g": Link(REACHED * 1.25e9, 50e-6),
}


class Cluster(NamedTuple):
    """``gpus`` in nodes of ``per_node``: the link inside a node, and of each GPU to others."""

    gpus: int
    per_node: int
    inside: Link
    between: Link

    @property
    def nodes(self) -> int:
        """Nodes, the last of them perhaps not full."""
        return -(-self.gpus // self.per_node)

    @property
    def slowest(self) -> Link:
        """The slowest of the links from a rank to the next."""
        return self.between if self.nodes > 1 else self.inside

    def hop(self, rank: int) -> Link:
        """The link from a rank to the next."""
        here, there = rank // self.per_node, (rank + 1) % self.gpus // self.per_node
        return self.inside if here == there else self.between

    def collected(self, nbytes: float) -> float:
        """Seconds until all ranks have ``nbytes`` that lay on them in equal parts, or the other
        way: gathered, or summed and scattered.

        Rank after rank inside a node; into it over the adapters of all its GPUs at once.
        """
        if self.gpus == 1:
            return 0.0
        inside = nbytes * (1 - 1 / self.gpus) / self.inside.bandwidth
        adapters = min(self.per_node, self.gpus) * self.between.bandwidth
        between = nbytes * (1 - 1 / self.nodes) / adapters
        return max(inside, between) + self._steps * self.slowest.latency

    def summed(self, nbytes: float) -> float:
        """Seconds until all ranks have the sum of ``nbytes`` of each."""
        return 2 * self.collected(nbytes)

    @property
    def _steps(self) -> int:
        """Messages one after the other: as a tree, which libraries take where latency counts."""
        return (self.gpus - 1).bit_length()
