"""The static model of a tile's cycles, against values computed by hand."""

from __future__ import annotations

from collections import Counter
from dataclasses import replace

import pytest
from contrastile.benches.gpu.targets import MILLISECONDS
from contrastile.benches.kernels.static_model import (
    GPUS,
    LAUNCHES_MS,
    RATES,
    Prediction,
    Shape,
    Tile,
    epilogue_counts,
    family,
    l2_bytes,
    pass_ms,
    pipe_cycles,
    predict,
    products_ms,
    strip_rows,
    strips,
    tflops,
    tile_of,
    vector_width,
)

WIDE = Shape(128, 256, 64, 8, 1, specialize=False)
EXACT = Shape(64, 64, 32, 4, 2, specialize=False)
H100, H200 = GPUS
# 1755 cycles: a microsecond of either GPU.
MICROSECOND = Tile(1000.0, 900.0, {"issue": 755.0, "mufu": 10.0}, specialize=False)


def test_main_loop_of_a_wide_tile() -> None:
    """2 128 256 256 / 4096 flop a clock; 384 rows of 256 bf16 at 30.217 bytes a clock."""
    tile = tile_of(Counter(), WIDE, 256, "bf16", RATES["sm_90"])
    assert tile.product == 4096
    assert tile.loads == pytest.approx(384 * 256 * 2 / 30.2167, rel=1e-5)
    assert tile.main == tile.loads == tile.cycles


@pytest.mark.parametrize(
    ("arch", "dtype", "cycles"),
    [("sm_80", "bf16", 8192), ("sm_100", "fp16", 2048), ("sm_90", "fp32", 65536)],
)
def test_product_by_architecture(arch: str, dtype: str, cycles: int) -> None:
    assert tile_of(Counter(), WIDE, 256, dtype, RATES[arch]).product == cycles


def test_a_part_of_a_step_costs_a_whole_one() -> None:
    """D = 65 is computed as 128 but loaded as 65."""
    part, whole = (tile_of(Counter(), WIDE, d, "bf16", RATES["sm_90"]) for d in (65, 128))
    assert part.product == whole.product == 2048
    assert part.loads == pytest.approx(whole.loads * 65 / 128)


def test_faster_l2_makes_the_loads_shorter() -> None:
    slow, fast = (tile_of(Counter(), WIDE, 256, "bf16", RATES["sm_90"], r) for r in (7.0, 14.0))
    assert fast.loads == pytest.approx(slow.loads / 2)
    assert l2_bytes(0.23166) == pytest.approx(1.0)


def test_pipes_of_eight_warps() -> None:
    """Two warps to a quarter: MUFU 8 cycles each, SHFL 4, FFMA 1, FSEL 2, issue 1 for all."""
    counts = Counter({"MUFU.EX2": 128, "SHFL.BFLY": 220, "FFMA": 256, "FSEL": 256, "BRA": 40})
    assert pipe_cycles(counts, 8, RATES["sm_90"]) == {
        "mufu": 2048,
        "exchange": 1760,
        "fp32": 512,
        "alu": 1024,
        "fp64": 0,
        "issue": 1800,
    }
    assert pipe_cycles(counts, 4, RATES["sm_80"])["fp32"] == 512


def test_wide_accesses_to_shared_memory_take_more_passes() -> None:
    counts = Counter({"LDS.128": 1, "STS.64": 1, "LDS": 1, "STSM.16.M88.4": 1})
    assert pipe_cycles(counts, 4, RATES["sm_90"])["exchange"] == 4 * (4 + 2 + 1 + 4)
    assert (family("LDS.128"), vector_width("LDS.U.128")) == ("LDS", 4)


def test_epilogue_leaves_the_loop_out() -> None:
    counts = Counter({"HGMMA.64": 4, "UTMALDG.2D": 6, "SYNCS.ARRIVE": 2, "WARPGROUP.DEPBAR": 1})
    own = Counter({"MUFU.EX2": 128, "FFMA": 256, "LDS": 74})
    padding = Counter({".": 7779, "NOP": 13})
    assert epilogue_counts(counts + own + padding, WIDE, "bf16") == own


def test_epilogue_of_products_outside_the_tensor_cores() -> None:
    """A step is 64 64 32 / 128 = 1024 FFMA; 64 are the epilogue's."""
    counts = Counter({"FFMA": 1088, "LDS.128": 96, "STS": 8, "MUFU.EX2": 32})
    left = epilogue_counts(counts, EXACT, "fp32")
    assert left == {"FFMA": 64, "STS": 8, "MUFU.EX2": 32}
    assert epilogue_counts(Counter({"FFMA": 2100}), EXACT, "fp32")["FFMA"] == 52


def test_main_loop_and_epilogue_add_unless_specialised() -> None:
    assert (MICROSECOND.main, MICROSECOND.epilogue, MICROSECOND.busiest) == (1000, 755, "issue")
    assert MICROSECOND.cycles == 1755
    assert replace(MICROSECOND, specialize=True).cycles == 1000


def test_passes_take_whole_rounds() -> None:
    """132 x 1 tiles are one round, one more row begins another; with two a processor, of two."""
    rows = 132 * 128
    assert pass_ms(MICROSECOND, WIDE, rows, 256, H100, 0) == pytest.approx(1e-3)
    assert pass_ms(MICROSECOND, WIDE, rows + 1, 256, H100, 0) == pytest.approx(2e-3)
    double = replace(WIDE, per_processor=2)
    assert pass_ms(MICROSECOND, double, 128, 256, H100, 0) == pytest.approx(2e-3)


def test_passes_take_what_their_stores_take() -> None:
    """2^24 pairs of 2 bytes at 3.35 TB/s, against 4 rounds of a microsecond."""
    assert pass_ms(MICROSECOND, WIDE, 4096, 4096, H100, 2) == pytest.approx(0.0100162, rel=1e-4)
    assert pass_ms(MICROSECOND, WIDE, 4096, 4096, H100, 0) == pytest.approx(0.004)


def test_strips_as_the_backend_plans_them() -> None:
    """256 MiB / (2.0625 bytes 65536): 1985 rows, whole tiles of 128 of them."""
    small = replace(H100, capacity=2**30)
    assert strip_rows(65536, 256, "bf16", small) == 1920
    assert list(strips(4000, 65536, 256, "bf16", small)) == [1920, 1920, 160]
    # A wave of 132 32768 / 1024 = 4224 rows fits at 16384 columns.
    assert strip_rows(16384, 1024, "bf16", small) == 4224
    assert strip_rows(2**26, 256, "bf16", small) == 1
    # A 64th of 139 GiB takes a wave of 132 32768 / 256 rows at 65536 columns.
    assert strip_rows(65536, 256, "bf16", H200) == 16896


def test_gemms_by_arithmetic_or_by_memory() -> None:
    """D = 1024: 2 x 2 4096^2 1024 flop at 720 TFLOP/s; D = 16: the bytes, at 4.3 TB/s."""
    compute = 2 * 2 * 4096**2 * 1024 / 720e12
    assert products_ms(4096, 4096, 1024, "bf16", H200) == pytest.approx(1e3 * compute)
    square, thin = 4096 * 4096 * 2, 4096 * 16
    moved = 2 * square + (2 + 4) * thin + (2 + 8) * thin
    assert products_ms(4096, 4096, 16, "bf16", H200) == pytest.approx(1e3 * moved / 4.3e12)


def test_the_whole_is_the_sum_of_its_parts() -> None:
    assert Prediction(1.0, 2.0, 3.0).total_ms == pytest.approx(6.0 + LAUNCHES_MS)
    side = MICROSECOND, WIDE
    whole = predict(side, side, 4096, 1024, "bf16", H200)
    assert whole.reduce_ms == pytest.approx(4e-3)
    assert whole.weights_ms == pytest.approx(2 * 4096**2 / 4.3e12 * 1e3)
    assert whole.products_ms == products_ms(4096, 4096, 1024, "bf16", H200)
    one_pass = predict(None, side, 4096, 1024, "bf16", H200)
    assert one_pass.reduce_ms == 0.0 and one_pass.weights_ms == whole.weights_ms


def test_tflops() -> None:
    """8 N^2 D flop of 32768 rows at D = 256 in 3.4 ms."""
    assert tflops(4, 32768, 256, MILLISECONDS["clip_loss", 32768, 256]) == pytest.approx(
        646.77, rel=1e-4
    )
