"""The emulation notices mistakes: kernels with one line spoilt must not pass."""

from __future__ import annotations

import shutil
from dataclasses import dataclass
from pathlib import Path

import emulated
import pytest
from kernel_problems import Case, Problem
from test_cuda_kernels import close, total

# One kind of element on one family: all that a spoilt kernel is tried with.
SOURCE = """
#include "device.h"
#include "launch_{family}.h"
#include "launch_vectors.h"
namespace contrastile::cuda {{
const Launcher& launcher(Element, Family) {{ return {family}::kLauncher<Bf16>; }}
extern const VectorLauncher vectors = kVectors;
}}
"""


@dataclass(frozen=True)
class Mutation:
    """In ``file`` every ``old`` becomes ``new``, and what ``also`` has first becomes its second."""

    family: str
    file: str
    old: str
    new: str
    weighs: bool = False
    also: tuple[str, str] | None = None

    def apply(self, kernels: Path) -> None:
        """Spoil a copy of the sources."""
        path = kernels / self.file
        text = path.read_text()
        for old, new in ((self.old, self.new), *([self.also] if self.also else [])):
            assert old in text, f"{self.file} has no {old!r}"
            text = text.replace(old, new)
        path.write_text(text)


MUTATIONS = {
    "none, sm80": Mutation("sm80", "sm80.h", "", ""),
    "none, sm90": Mutation("sm90", "sm90.h", "", ""),
    "ring filled before it is empty": Mutation(
        "sm90", "sm90.h", "hw::barrier_wait(&b.empty[turn.stage], turn.parity);", ""
    ),
    "ring read before it is full": Mutation(
        "sm90", "sm90.h", "hw::barrier_wait(&b.full[turn.stage], turn.parity);", ""
    ),
    "queries read before they are there": Mutation(
        "sm90", "sm90.h", "hw::barrier_wait(&b.queries, 0);", ";"
    ),
    "too few bytes awaited": Mutation(
        "sm90", "sm90.h", "(full, Shape::kStageBytes)", "(full, Shape::kStageBytes / 2)"
    ),
    "products not awaited": Mutation("sm90", "sm90.h", "hw::wgmma_wait<0>();", ""),
    "stage given back too early": Mutation(
        "sm90", "sm90.h", "hw::wgmma_wait<1>();", "hw::wgmma_wait<2>();"
    ),
    "descriptors advance too far": Mutation(
        "sm90", "sm90.h", "left + step * (kStepBytes / 16)", "left + step * (kStepBytes / 8)"
    ),
    "old products added to": Mutation("sm90", "sm90.h", "slab > 0 || step > 0", "true"),
    "warps do not meet": Mutation("sm90", "reduce_tile.h", "  group.meet();\n", ""),
    "meeting place not changed": Mutation("sm90", "sums.h", "turn_ ^= 1;", ""),
    "tail not masked": Mutation(
        "sm90",
        "chunk.h",
        "  Lanes out = kAllLanes;\n  if",
        "  return kAllLanes;\n  Lanes out;\n  if",
    ),
    "box filled while it is read": Mutation(
        "sm90",
        "sm90.h",
        "if (leads) hw::tile_store_wait_read<kStagedChunks - 1>();",
        "",
        weighs=True,
    ),
    "box sent while it is filled": Mutation(
        "sm90", "sm90.h", "hw::publish_to_copies();\n    hw::sync_warp();", "", weighs=True
    ),
    "memory gone before boxes were read": Mutation(
        "sm90", "sm90.h", "    outbox.close();\n", "", weighs=True
    ),
    "both blocks fetch the same keys": Mutation(
        "sm90", "sm90.h", "walk.col(tile) + rank * Shape::kShareCols", "walk.col(tile)"
    ),
    "stage filled before the other block has left it": Mutation(
        "sm90",
        "sm90.h",
        "barrier_arrive_at(empty, rank)",
        "barrier_arrive_at(empty, hw::cluster_rank())",
    ),
    "stage given back by one warp for all four": Mutation(
        "sm90",
        "sm90.h",
        "rank = hw::thread() % 32;",
        "rank = hw::thread() % kGroupThreads;",
        also=("kConsumers * kGroupWarps);", "kConsumers);"),
    ),
    "queries expected by no barrier": Mutation(
        "sm90", "sm90.h", "(full, Shape::kStageBytes)", "(full, Shape::kKeyBytes)"
    ),
    "blocks of a cluster walk over different tiles": Mutation(
        "sm90", "walk.h", "kTileRows * kCluster;", "kTileRows;"
    ),
    "barriers not published": Mutation("sm90", "sm90.h", "hw::barrier_init_done();", ""),
    "other block reached before it has barriers": Mutation(
        "sm90", "sm90.h", "hw::sync_cluster();", "hw::sync_block();"
    ),
    "other block reached after its end": Mutation(
        "sm90", "sm90.h", "stage < layout.stages; ++stage) {", "stage < 0; ++stage) {"
    ),
    "copies not awaited": Mutation(
        "sm80", "sm80.h", "copy_wait<kStages - 2>", "copy_wait<kStages - 1>"
    ),
    "stage overwritten while it is read": Mutation(
        "sm80", "sm80.h", "    hw::sync_block();\n    load(", "    load("
    ),
    "vectors swizzled on one side only": Mutation(
        "sm80",
        "sm80.h",
        "hw::copy_async(to + vector_at(own, vector)",
        "hw::copy_async(to + own * kRowBytes + vector * 16",
    ),
    "tail of features not zeroed": Mutation("sm80", "sm80.h", "(left < 16 ? left : 16)", "16"),
}

CASES = (
    Case("", "bf16", "fixed", 40, 400, 500),
    Case("", "bf16", "fixed", 100, 600, 200),
    Case("", "bf16", "fixed", 100, 300, 600),
    Case("", "bf16", "fixed", 300, 300, 70, diagonal=True),
)
SEEDS = 3


def passes(module: object, mutation: Mutation) -> bool:
    """Whether everything comes out right, with several seeds."""
    for case in CASES:
        for seed in range(SEEDS):
            problem = Problem(module, Case(**{**vars(case), "family": mutation.family}))
            module.seed(seed)  # type: ignore[attr-defined]
            try:
                check(problem, mutation)
            except (AssertionError, RuntimeError):
                return False
    return True


def check(problem: Problem, mutation: Mutation) -> None:
    """One problem's sums, or its weights."""
    if mutation.weighs:
        strip, _, truth = problem.weigh()
        close(strip, truth, truth.abs(), 2.0**-8 + problem.tolerance)
        return
    out, values = problem.reduce(), problem.values(0)
    shift = float(problem.data.shifts[0])
    rows, cols = (total(out[name][0], None, shift) for name in ("row_sums", "col_sums"))
    if problem.case.diagonal:
        rows = cols = rows + cols
    close(rows, values.sum(1), values.sum(1), problem.tolerance)
    close(cols, values.sum(0), values.sum(0), problem.tolerance)


@pytest.mark.gates
@pytest.mark.parametrize("name", MUTATIONS)
def test_mistakes_are_noticed(name: str, tmp_path: Path) -> None:
    mutation = MUTATIONS[name]
    csrc = tmp_path / "csrc"
    shutil.copytree(emulated.ROOT / "csrc", csrc)
    kernels = csrc / "cuda"
    if mutation.old:
        mutation.apply(kernels)
    source = tmp_path / f"spoilt_{mutation.family}.cpp"
    source.write_text(SOURCE.format(family=mutation.family))
    module = emulated.linked([*emulated.face(), emulated.compiled(source, kernels)])
    assert passes(module, mutation) == (not mutation.old)
