"""The static report: kernels compiled in a process of their own, for a GPU that is not there."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections import Counter
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import cuda_build
import pytest
import torch
from contrastile.benches.kernels.static_model import GPUS, RATES, pipe_cycles, predict

MODULE = "contrastile.benches.kernels.static_report"
NOTE = "PREDICTIONS OF A STATIC MODEL, NOT MEASUREMENTS"


def report(*arguments: str, **environment: str) -> subprocess.CompletedProcess[str]:
    # Triton decides when its kernels are imported whether they are interpreted.
    inherited = {k: v for k, v in os.environ.items() if k != "TRITON_INTERPRET"}
    return subprocess.run(
        [sys.executable, "-m", MODULE, *arguments],
        env={**inherited, "OMP_NUM_THREADS": "1", **environment},
        capture_output=True,
        text=True,
        check=False,
    )


@pytest.mark.gates
@pytest.mark.skipif(find_spec("triton") is None, reason="needs triton")
def test_report(tmp_path: Path) -> None:
    """Every table says what its figures are; the figures of the file are those of the model."""
    out = tmp_path / "report.json"
    own = ("--loss", "clip_loss", "--no-cuda")
    done = report("--arch", "sm_90", "--dtype", "bf16", *own, "--out", str(out))
    assert done.returncode == 0, done.stderr
    for table in ("kernels as compiled", "cycles of a tile", "H100 SXM bf16", "H200 bf16"):
        assert table in done.stdout
    assert done.stdout.count(NOTE) == 4
    assert "CUDA" not in done.stdout

    record = json.loads(out.read_text())
    assert record["note"] == NOTE
    kernels = {row["purpose"]: row for row in record["kernels"]}
    assert {"reduce", "weigh"} <= kernels.keys()
    for row in kernels.values():
        assert row["MUFU"] > 0 and row["MMA"] > 0 and row["regs"] <= 255
    for row in record["tiles"]:
        assert row["tile"] >= max(row["main"], row["epilogue"]) > 0
        assert row["product"] <= row["main"]
    assert {(row["of"], row["N"]) for row in record["losses"]} >= {
        ("H200", 32768),
        ("H100 SXM", 4096),
    }
    aimed = [row for row in record["losses"] if row["target ms"] is not None]
    assert len(aimed) == 8
    for row in aimed:
        assert row["of target"] == pytest.approx(row["total ms"] / row["target ms"])
        parts = row["reduce ms"] + row["weights ms"] + row["GEMMs ms"]
        assert row["total ms"] == pytest.approx(parts + 0.06)


@pytest.mark.skipif(find_spec("triton") is None, reason="needs triton")
@pytest.mark.filterwarnings("ignore:.*encountered:RuntimeWarning")
def test_purposes_are_those_that_the_backend_launches_for(monkeypatch: pytest.MonkeyPatch) -> None:
    """All there are, each seen in what its kernel is given."""
    from contrastile.backends.gpu import forms
    from contrastile.backends.triton.launch import Launch, Purpose, forget
    from contrastile.backends.triton.program import Program, Tiles
    from contrastile.backends.triton.start import Start
    from contrastile.benches.kernels.static_report import purpose_of
    from contrastile.benches.problems import steps

    launched: list[Purpose] = []
    purposes: dict[Start, Purpose] = {}
    launch, over_tiles = Program.launch, Program.over_tiles

    def note(self: Program, purpose: Purpose) -> Launch:
        launched.append(purpose)
        return launch(self, purpose)

    def found(self: Program, *rest: Any, **constants: Any) -> Tiles:
        tiles = over_tiles(self, *rest, **constants)
        purposes[tiles.start] = launched[-1]
        return tiles

    def compare(self: Start, programs: int, *arguments: Any) -> None:
        given = {**self.constants, **dict(zip(self.kernel.arg_names, arguments, strict=False))}
        assert purpose_of(self.kernel.fn.__name__, given) is purposes.get(self)

    # No launch was found before.
    forget()
    monkeypatch.setattr(Program, "launch", note)
    monkeypatch.setattr(Program, "over_tiles", found)
    monkeypatch.setattr(Start, "__call__", compare)
    for small in (0, 2**22):
        monkeypatch.setattr(forms, "SMALL", small)
        for name, step in steps(torch.bfloat16, rows=24, size=16).items():
            # Those have a size of their own, 2,000 rows.
            if not name.endswith("small"):
                step()
    # Selections weigh nothing: kernels/selection_gates.py has theirs.
    assert set(launched) == set(Purpose) - {Purpose.TOP_K, Purpose.GROUP_MAX}


@pytest.mark.gates
@pytest.mark.skipif(find_spec("triton") is None, reason="needs triton")
@pytest.mark.parametrize("arch", ["sm_100", "sm_120"])
def test_pair_sums_are_found_as_they_are_launched(arch: str, tmp_path: Path) -> None:
    """There the weights of pair sums have a launch of their own."""
    out = tmp_path / "report.json"
    own = ("--loss", "siglip_loss", "siglip_loss of rows")
    done = report("--arch", arch, "--dtype", "bf16", *own, "--out", str(out))
    assert done.returncode == 0, done.stderr
    purposes = {row["purpose"] for row in json.loads(out.read_text())["kernels"]}
    assert purposes == {"reduce pair sums", "weigh pair sums", "weigh and sum"}


@pytest.mark.gates
@pytest.mark.skipif(find_spec("triton") is None, reason="needs triton")
def test_kept_dot_products_and_the_losses_that_are_predicted(tmp_path: Path) -> None:
    out = tmp_path / "report.json"
    losses = ("clip_loss, kept", "siglip_loss", "info_nce")
    own = ("--loss", *losses, "--no-cuda")
    done = report("--arch", "sm_90", "--dtype", "bf16", *own, "--out", str(out))
    assert done.returncode == 0, done.stderr
    record = json.loads(out.read_text())
    kept = [row for row in record["kernels"] if row["loss"] == "clip_loss, kept"]
    assert {row["purpose"] for row in kept} == {
        "reduce, keep dot products",
        "reduce, general form",
        "weigh kept dot products",
    }
    for row in record["tiles"]:
        assert (row["product"] == 0) == (row["purpose"] == "weigh kept dot products")
    assert {row["loss"] for row in record["losses"]} == {"siglip_loss", "info_nce"}
    (aimed,) = [row for row in record["losses"] if row["target ms"] is not None]
    assert [aimed[k] for k in ("of", "loss", "N", "D")] == ["H200", "siglip_loss", 65536, 768]
    # One look at the scores and two products, of 2 N^2 D flop each.
    flop = 3 * 2 * 65536**2 * 768
    assert aimed["total TFLOP/s"] == pytest.approx(flop / aimed["total ms"] / 1e9)


@pytest.mark.skipif(find_spec("triton") is None, reason="needs triton")
def test_interpreted_kernels_are_refused() -> None:
    done = report(TRITON_INTERPRET="1")
    assert done.returncode == 2 and "TRITON_INTERPRET" in done.stderr


def line(address: int, name: str, rest: str = "", predicate: str = "") -> str:
    return f"        /*{address:04x}*/    {predicate} {name} {rest} ;    /* 0x0 */"


# After the products a branch chooses between a long and a short copy of the code with two powers;
# the short one stands last. Then the tile ends, with a shuffle or without.
SASS = "\n".join(
    (
        "code for sm_90a",
        "Function : one",
        line(0x00, "HGMMA.64x128x16.F32.BF16", "R24"),
        line(0x10, "BRA", "0x80", "@!P0"),
        line(0x20, "MUFU.EX2", "R1"),
        line(0x30, "LOP3.LUT", "R1"),
        line(0x40, "LOP3.LUT", "R1"),
        line(0x50, "MUFU.EX2", "R1"),
        line(0x60, "LOP3.LUT", "R1"),
        line(0x70, "BRA", "0xa0"),
        line(0x80, "MUFU.EX2", "R1"),
        line(0x90, "MUFU.EX2", "R1"),
        line(0xA0, "BRA", "0xc0", "@P1"),
        line(0xB0, "SHFL.BFLY", "R1"),
        line(0xC0, "BRA.U", "!UP0, 0x00"),
        line(0xD0, "EXIT", predicate="@P0"),
        line(0xE0, "EXIT"),
        "code for sm_80",
        "Function : one",
        line(0x00, "HMMA", "R24"),
    )
)


@pytest.mark.skipif(find_spec("triton") is None, reason="needs triton")
def test_the_cheapest_way_through_the_code() -> None:
    from contrastile.benches.kernels.static_cuda import cheapest_way, functions, pieces

    code = functions(SASS)["one"]
    assert [item.target for item in code if item.target is not None] == [0x80, 0xA0, 0xC0, 0x00]
    found = pieces(code)
    assert list(found) == [0x00, 0x20, 0x80, 0xA0, 0xB0, 0xC0, 0xD0, 0xE0]
    assert found[0x00].after == [0x80, 0x20] and found[0x20].after == [0xA0]
    assert found[0xD0].after == [0xE0] and found[0xE0].last and not found[0xD0].last
    way = cheapest_way(found, {"MUFU.EX2": 2})
    assert way == {"MUFU.EX2": 2, "BRA": 1, "BRA.U": 1}
    assert cheapest_way(found, {"MUFU.EX2": 2, "SHFL.BFLY": 1}) == way + Counter({"SHFL.BFLY": 1})
    assert cheapest_way(found, {"MUFU.EX2": 2, "LOP3.LUT": 1})["LOP3.LUT"] == 3
    with pytest.raises(ValueError, match="no way"):
        cheapest_way(found, {"MUFU.EX2": 3})


@pytest.mark.skipif(find_spec("triton") is None, reason="needs triton")
def test_cuda_tiles_of_both_shapes() -> None:
    """Up to 576 features only keys are loaded, of which another block brings half; the longer of
    products, loads and sums counts.
    """
    from contrastile.benches.kernels.static_cuda import (
        Found,
        Pass,
        holds_queries,
        loss_rows,
        shape_of,
    )

    assert [d for d in (256, 512, 576, 577, 768) if holds_queries(d)] == [256, 512, 576]
    slow, fast = Counter({"MUFU.EX2": 200}), Counter({"MUFU.EX2": 8})
    own = Pass({True: slow, False: fast})
    narrow, wide = (own.tile(d, "bf16", 7.0) for d in (256, 768))
    assert narrow.product == 2 * 128 * 128 * 256 / 4096
    assert narrow.loads == pytest.approx(64 * 256 * 2 / 30.2167, rel=1e-5)
    assert narrow.cycles == pipe_cycles(slow, 8, RATES["sm_90"])["mufu"] == 3200
    assert wide.product == 2 * 128 * 256 * 768 / 4096
    assert wide.cycles == wide.loads == pytest.approx((128 + 128) * 768 * 2 / 30.2167, rel=1e-5)

    found = Found((), {"reduce": own, "weigh": own})
    rows = loss_rows(found, "bf16", GPUS[1], 7.0, {(4096, 256): 9.0})
    row = next(row for row in rows if row[:2] == [4096, 256])
    side = narrow, shape_of(True)
    total = predict(side, side, 4096, 256, "bf16", GPUS[1]).total_ms
    assert row[7] == total and row[-2:] == [9.0, 9.0 / total]
    assert [row[-1] for row in rows].count(None) == len(rows) - 1


@pytest.mark.skipif(find_spec("triton") is None, reason="needs triton")
def test_cuda_kernels_in_the_report(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """Beside Triton's of the same GPU, or the reason why there are none."""
    from contrastile.benches.kernels import static_cuda
    from contrastile.benches.kernels.cuda_gates import Kernel
    from contrastile.benches.kernels.static_report import report_cuda

    counts = Counter({"MUFU.EX2": 64, "MUFU": 64, "SHFL": 7, "FFMA": 8})
    kernel = Kernel("sm_90a", "sm90", "weigh", "bf16", "fixed", (True,), 168, 0, counts)
    own = static_cuda.Pass({True: counts, False: counts})
    found = static_cuda.Found((kernel,), {"reduce": own, "weigh": own})
    record: dict[str, Any] = {f"cuda {n}": [] for n in ("kernels", "tiles", "losses", "left out")}
    triton = {"of": "H200", "dtype": "bf16", "loss": "clip_loss", "N": 4096, "D": 256}
    record |= {"unverified": "", "losses": [{**triton, "total ms": 5.0}]}
    report_cuda(found, "bf16", 7.0, record)
    # Long titles are wrapped.
    assert " ".join(capsys.readouterr().out.split()).count(NOTE) == 4
    (row,) = record["cuda kernels"]
    assert [row[k] for k in ("regs", "MUFU", "SHFL", "all")] == [168, 64, 7, 79]
    beside = [row for row in record["cuda losses"] if row["Triton ms"] is not None]
    assert [(row["of"], row["N"], row["D"]) for row in beside] == [("H200", 4096, 256)]

    monkeypatch.setattr(static_cuda.native, "load", lambda: None)
    monkeypatch.setattr(static_cuda, "NVCC", tmp_path / "nvcc")
    reason = static_cuda.look("bf16")
    assert isinstance(reason, str) and "nvcc" in reason and "was not built" in reason
    report_cuda(reason, "bf16", 7.0, record)
    assert record["cuda left out"] == [{"dtype": "bf16", "reason": reason}]
    assert reason in capsys.readouterr().out


@pytest.mark.gates
@pytest.mark.skipif(find_spec("triton") is None, reason="needs triton")
def test_the_kernels_as_compiled() -> None:
    """Of an extension that has them: a tile's own work is a part of the code, and no product."""
    from contrastile.benches.kernels import static_cuda

    found = static_cuda.look("bf16", cuda_build.extension())
    assert not isinstance(found, str), found
    for kind, own in found.passes.items():
        for stationary, scores in ((True, 64), (False, 128)):
            counts = own.executed[stationary]
            assert counts["MUFU.EX2"] >= scores and "HGMMA" not in map(static_cuda.family, counts)
            everything = max(
                sum(n for name, n in kernel.counts.items() if "." not in name)
                for kernel in found.kernels
                if (kernel.kind, kernel.form, kernel.flags[0]) == (kind, "fixed", stationary)
            )
            assert 5 * scores < sum(counts.values()) < everything / 2
