"""The GPU check without a GPU: its logic on tiny CPU runs, and how it survives what it finds."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import sysconfig
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import contrastile
import pytest
import torch
from contrastile.benches.gpu import (
    cli,
    errors,
    exact,
    huge,
    large,
    memory,
    supervise,
)
from contrastile.benches.gpu.cells import Cells
from contrastile.benches.gpu.record import (
    FAIL,
    PASS,
    SKIPPED,
    UNFINISHED,
    Outcome,
    Part,
    Row,
    load_parts,
    rows_file,
)
from contrastile.benches.gpu.sections import QUICK, SECTIONS, Section, usual
from contrastile.benches.gpu.settings import Settings, difference
from contrastile.benches.gpu.supervise import supervise as run_supervised
from contrastile.benches.gpu.work import run_section
from torch import Tensor

ROOT = Path(__file__).parents[1]
SCRIPT = ROOT / "benches" / "gpu_check.py"
CPU = torch.device("cpu")
ON_CPU = ["--device", "cpu", "--backend", "cpu"]
INTERPRETED = """
import sys, tempfile
from pathlib import Path
sys.path.insert(0, "benches")
import gpu_check
with tempfile.TemporaryDirectory() as folder:
    gpu_check.make_importable(Path(folder))
    import torch
    from contrastile.benches.gpu import errors, exact
    from contrastile.benches.gpu.settings import Settings
    cpu = torch.device("cpu")
    settings = Settings(cpu, row=print)
    shapes = (errors.Shape(19, 8), errors.Shape(19, 7, 2**9, "unaligned"))
    # Ours are far smaller than those of fp16: two draws tell that.
    rules = [
        errors.Rule("clip_loss", "fp16", shape, (14.3,), draws=2, device=cpu) for shape in shapes
    ]
    assert errors.errors_section(settings, rules).verdict == "pass"
    case = exact.Repeat(exact.clip_loss, 19, 8, torch.float32)
    assert exact.repeats_section(settings, [case], repeats=2).verdict == "pass"
"""


@pytest.fixture
def rows() -> list[Row]:
    return []


@pytest.fixture
def settings(rows: list[Row]) -> Settings:
    return Settings(CPU, "cpu", row=rows.append)


STRIDED = errors.Shape(37, 24, None, "strided")
UNALIGNED = errors.Shape(45, 8, 2**12, "unaligned")


def tiny_rule(loss: str, dtype: str, shape: errors.Shape = STRIDED) -> errors.Rule:
    return errors.Rule(loss, dtype, shape, (14.3,), draws=2, device=CPU, backend="cpu")


def test_errors_of_every_loss(settings: Settings, rows: list[Row]) -> None:
    shapes = (STRIDED, UNALIGNED)
    rules = [tiny_rule(loss, "bf16", shape) for loss in errors.LOSSES for shape in shapes]
    rules.append(tiny_rule("clip_loss", "fp16"))
    outcome = errors.errors_section(settings, rules)
    assert outcome.verdict == PASS, outcome.reason
    assert 0 < outcome.numbers["worst share bf16"] <= 1
    assert [row["cell"] for row in rows] == list(map(str, rules))
    # Loss, gradients of two sides and of the scale; of what has several entries also the largest.
    assert next(row for row in rows if row["loss"] == "clip_loss")["compared"] == 6


def test_an_error_beyond_the_rule_fails(
    settings: Settings, rows: list[Row], monkeypatch: pytest.MonkeyPatch
) -> None:
    right = contrastile.functional.clip_loss
    monkeypatch.setattr("contrastile.functional.clip_loss", lambda *a, **k: 1.01 * right(*a, **k))
    outcome = errors.errors_section(settings, [tiny_rule("clip_loss", "fp32")])
    assert outcome.verdict == FAIL and "clip_loss fp32" in str(outcome.reason)
    assert len(rows[0]["beyond"]) > 1


@pytest.mark.parametrize("bad", [torch.nan, torch.inf])
def test_what_is_not_finite_takes_all_of_the_budget(bad: float) -> None:
    exact64, right = [torch.ones(3, dtype=torch.float64)], [torch.ones(3)]
    wrong = [torch.tensor([1.0, bad, 1.0])]
    assert all(row["share"] == torch.inf for row in errors.judged("x", [wrong, right, exact64], 1))
    assert all(row["share"] == 0 for row in errors.judged("x", [right, wrong, exact64], 1))


def test_an_error_has_the_share_that_it_takes_of_what_is_allowed() -> None:
    """Of errors that are all alike nothing is luck; of as large ones half of what twice may be."""
    exact64 = [torch.zeros(2, dtype=torch.float64)] * 4
    off = [torch.full((2,), 1e-3)] * 4
    for allowed, share in ((1.0, 1.0), (2.0, 0.5)):
        rows = errors.judged("x", [off, off, exact64], allowed)
        assert [row["share"] for row in rows] == pytest.approx([share, share], rel=1e-3)


def test_repeats(settings: Settings, rows: list[Row], monkeypatch: pytest.MonkeyPatch) -> None:
    cases = [exact.Repeat(contrastile.nt_xent, 33, 8, torch.float32, 2**10)]
    assert exact.repeats_section(settings, cases, 3).verdict == PASS
    assert rows == [{"cell": "nt_xent 33 x 8 float32", "repeats": 3, "differing": 0}]

    step = exact.step

    def unsteady(*arguments: object, **options: object) -> tuple[Tensor, ...]:
        return tuple(t + 1e-3 * torch.rand(()) for t in step(*arguments, **options))

    monkeypatch.setattr(exact, "step", unsteady)
    outcome = exact.repeats_section(replace(settings, cells=Cells()), cases, 3)
    assert outcome.verdict == FAIL and "3 of 3 repeats differ" in str(outcome.reason)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_large(settings: Settings, dtype: torch.dtype, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(large, "CHUNK_PAIRS", 301 * 40)
    outcome = large.large_section(settings, [large.Large(301, 16, dtype)], sample=16)
    assert outcome.verdict == PASS, outcome.reason

    right = large.step

    def off(*arguments: Any, **options: Any) -> tuple[Tensor, ...]:
        loss, x, y, scale = right(*arguments, **options)
        y[-1] = torch.nan
        return loss, x, y, scale

    monkeypatch.setattr(large, "step", off)
    again = replace(settings, cells=Cells())
    outcome = large.large_section(again, [large.Large(301, 16, dtype)])
    assert outcome.verdict == FAIL and "y is off by nan" in str(outcome.reason)


def test_large_truth_is_autograds() -> None:
    inputs = large.pair(50, 8, torch.float64, CPU)
    loss, x, y, scale = large.step(contrastile.clip_loss, inputs, backend="reference")
    every = torch.arange(50)
    found = large.truth(inputs, every)
    assert difference((found.loss, found.x, found.y), (loss, x, y)) < 1e-12
    # The scale is fp32, and so is its gradient.
    assert difference((found.scale,), (scale,)) < 1e-7


def test_memory(settings: Settings, rows: list[Row]) -> None:
    sizes = (256, 384, 512, 768)
    outcome = memory.memory_section(settings, sizes, d=128, workspace=2**16, huge=None)
    assert [row["cell"] for row in rows] == [f"{n} x 128" for n in sizes]
    assert outcome.numbers["largest share of workspace + 8 (N + M) D"] <= 1
    assert outcome.numbers["bytes a pair"] < 0.1


def test_a_dense_loss_would_show_in_the_fit() -> None:
    sizes = (1000, 2000, 4000, 8000)
    square, linear, fixed = memory.fit(sizes, [2 * n * n + 700 * n + 10**6 for n in sizes])
    assert (square, linear, fixed) == pytest.approx((2, 700, 1e6))


def test_a_huge_step(settings: Settings, rows: list[Row], monkeypatch: pytest.MonkeyPatch) -> None:
    """It agrees with fp64 on the CPU too, and each thing that is wrong shows by its name."""
    monkeypatch.setattr(huge, "PIECE", 100)
    row = huge.huge_step(settings, 301, 16)
    assert row["seconds"] > 0 and row["bytes"] > 2 * 301 * 16 * 4
    assert set(row["errors"]) == {"rows", "columns", "loss", "scale", "x", "y"}
    assert large.too_far(row["errors"], torch.float32) == []

    right = huge.step
    for place, name in enumerate(("loss", "x", "y", "scale")):

        def off(*arguments: Any, place: int = place) -> tuple[Tensor, ...]:
            results = list(right(*arguments))
            results[place] = results[place] * 1.01
            return tuple(results)

        monkeypatch.setattr(huge, "step", off)
        outcome = memory.of_huge_step(replace(settings, cells=Cells()), (301, 16))
        assert outcome.verdict == FAIL and f"301 x 16: {name} is off" in str(outcome.reason)
    assert large.too_far({"y": float("nan")}, torch.bfloat16) == ["y is off by nan, allowed 0.016"]


def test_a_huge_step_is_left_out_with_a_reason(
    settings: Settings, rows: list[Row], monkeypatch: pytest.MonkeyPatch
) -> None:
    outcome = memory.of_huge_step(replace(settings, seconds=1.0), (301, 16))
    assert outcome.verdict == SKIPPED and "s left" in str(outcome.numbers)
    assert settings.cells.left == 1 and not rows

    device = torch.device("cuda", 0)
    for free, told in ((2**34, None), (2**33, "needs 16.0 GiB, 8.0 are free")):
        monkeypatch.setattr(torch.cuda, "mem_get_info", lambda _, free=free: (free, 2**37))
        reason = huge.too_small(2**20, 512, device)
        assert reason is None if told is None else told in str(reason)
    monkeypatch.setattr(memory, "too_small", lambda *_: "needs 16.0 GiB, 8.0 are free")
    outcome = memory.of_huge_step(settings, (301, 16))
    assert outcome.verdict == SKIPPED and "8.0 are free" in str(outcome.numbers)
    assert "left out" in rows[0]


def test_a_graph_is_compared_with_the_same_step_without_one(settings: Settings) -> None:
    case = exact.Repeat(contrastile.clip_loss, 33, 8, torch.float32, 2**10)

    def at_once(loss: exact.Loss, inputs: exact.Pair) -> exact.Replay:
        return lambda: exact.step(loss, inputs)

    def stale(loss: exact.Loss, inputs: exact.Pair) -> exact.Replay:
        first = exact.step(loss, inputs)
        return lambda: first

    good = list(exact.replays(case, settings, at_once))
    assert len(good) == len(exact.REPLAYED) and all(row["bits equal"] for row in good)
    assert all(row["error"] > 1e-3 for row in exact.replays(case, settings, stale))


@pytest.mark.parametrize("loss", [contrastile.clip_loss, contrastile.nt_xent])
def test_graphs_of_one_form_and_of_both_are_captured(loss: exact.Loss) -> None:
    pytest.importorskip("triton")
    from contrastile.backends.gpu.forms import SMALL

    views = 2 if loss is contrastile.nt_xent else 1
    cases = [case for case in exact.CAPTURED if case.loss is loss]
    small = [(views * case.n) ** 2 <= SMALL and case.workspace is None for case in cases]
    assert {True, False} == set(small)
    assert contrastile.siglip_loss in {case.loss for case in exact.CAPTURED}


NEEDING = ("graph", "streams", "devices", "oom", "sanitizer", "specialised", "build")


@pytest.mark.parametrize("name", [*NEEDING, *(n for n, own in SECTIONS.items() if own.built)])
def test_what_needs_a_gpu_says_so(name: str, settings: Settings) -> None:
    outcome = SECTIONS[name].run(settings)
    assert outcome.verdict == SKIPPED and outcome.reason


def test_all_sections_have_time_in_one_call() -> None:
    """Also where each takes all of its own, and the last is not cut."""
    limit = cli.parser().parse_args([]).limit
    sections = [SECTIONS[name] for name in usual()]
    assert sum(own.quick + own.whole for own in sections) + supervise.GRACE <= limit < 600
    assert sum(own.quick for own in sections) + supervise.GRACE <= cli.QUICK_LIMIT
    assert {own.name for own in sections if own.quick} == set(QUICK)
    # None is so short that it is never begun.
    each = {seconds for own in sections for seconds in (own.quick, own.whole)} - {0}
    assert min(each) >= supervise.LEAST


def failing(settings: Settings) -> Outcome:
    settings.row({"before": 1})
    raise ZeroDivisionError("on purpose")


def test_a_section_that_raises_is_recorded(tmp_path: Path, settings: Settings) -> None:
    part = run_section(Section("bad", 0, 1, failing, ""), tmp_path, settings)
    rows_file(tmp_path, "bad").unlink()
    part.save(tmp_path)
    (loaded,) = load_parts(tmp_path, ["bad", "absent"])
    assert loaded == part and part.verdict == FAIL and part.healthy
    assert part.reason == "ZeroDivisionError: on purpose"
    assert "in failing" in str(part.traceback) and part.rows == [{"before": 1}]


def test_sections_one_call_resume_and_table(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    wanted = [*ON_CPU, "--out", str(tmp_path), "--sections"]
    assert cli.main([*wanted, "environment,graph"]) == 0
    table = capsys.readouterr().out
    assert "environment  pass" in table and "CUDA graphs need a GPU" in table
    merged = json.loads((tmp_path / "gpu_check.json").read_text())
    assert merged["verdict"] == PASS and list(merged["sections"]) == ["environment", "graph"]
    assert merged["sections"]["environment"]["rows"][0]["torch"] == torch.__version__

    # Nothing is left to run, so no process is started.
    file = tmp_path / "parts" / "graph.json"
    before = file.stat().st_mtime_ns
    assert cli.main([*wanted, "environment,graph"]) == 0
    assert file.stat().st_mtime_ns == before

    # From the merged file alone, in another folder; what has no time left is told.
    other = ["--out", str(tmp_path / "b"), "--resume", str(tmp_path / "gpu_check.json")]
    assert cli.main([*ON_CPU, *other, "--sections", "graph,host", "--limit", "0"]) == 1
    merged = json.loads((tmp_path / "b" / "gpu_check.json").read_text())
    assert merged["missing"] == ["host"] and merged["verdict"] == UNFINISHED
    assert "host         not run" in capsys.readouterr().out


WORKERS: dict[str, tuple[str, Callable[[Part], bool]]] = {
    "crashes": ("sys.stdin.readline(); sys.exit(9)", lambda p: "status 9" in str(p.reason)),
    "hangs": (
        "open(sys.argv[1] + '/host.rows', 'w').write('{\"n\": 1}\\n{\"n\":'); time.sleep(60)",
        lambda p: "stopped after" in str(p.reason) and p.rows == [{"n": 1}],
    ),
}


@pytest.mark.parametrize("how", WORKERS)
def test_a_process_that_dies_or_hangs_is_replaced(
    how: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    code, told = WORKERS[how]
    script = tmp_path / "worker.py"
    script.write_text(f"import sys, time\nsys.argv[1] = sys.argv[3]\n{code}\n")
    monkeypatch.setattr(supervise, "SCRIPT", script)
    for name in ("GRACE", "START", "LEAST"):
        monkeypatch.setattr(supervise, name, 0.0)
    parts: list[Part] = []
    steps = [supervise.Step(name, 0.5, 60.0) for name in ("host", "gemm")]
    run_supervised(steps, tmp_path, [], parts.append, lambda: None)
    assert [part.section for part in parts] == ["host", "gemm"]
    assert all(part.verdict == FAIL and not part.healthy for part in parts)
    assert told(parts[0])


@pytest.fixture
def bare(tmp_path: Path) -> dict[str, str]:
    """The environment of a machine with the packages of this one, but for contrastile."""
    site = tmp_path / "site"
    site.mkdir()
    for entry in Path(sysconfig.get_path("purelib")).iterdir():
        if "contrastile" not in entry.name:
            (site / entry.name).symlink_to(entry)
    kept = {name: os.environ[name] for name in ("PATH", "HOME") if name in os.environ}
    return {**kept, "PYTHONPATH": str(site), "OMP_NUM_THREADS": "1", "TRITON_INTERPRET": "1"}


def python(env: dict[str, str], *arguments: str, given: str = "") -> tuple[int, str]:
    # Without -S the site module would find an installed contrastile.
    done = subprocess.run(
        [sys.executable, "-S", *arguments],
        cwd=ROOT,
        env=env,
        input=given,
        capture_output=True,
        text=True,
        check=False,
    )
    return done.returncode, done.stdout + done.stderr


def test_a_bare_machine(bare: dict[str, str], tmp_path: Path) -> None:
    status, text = python(bare, "-c", "import contrastile")
    assert status and "No module named 'contrastile'" in text
    arguments = ("--worker", "--parts", str(tmp_path), *ON_CPU)
    status, text = python(
        bare, str(SCRIPT), *arguments, given="environment 20 quick\ngraph 20 whole\n"
    )
    assert status == 0, text
    assert {part.verdict for part in load_parts(tmp_path, SECTIONS)} == {PASS, SKIPPED}


def test_kernels_in_the_interpreter(bare: dict[str, str]) -> None:
    pytest.importorskip("triton")
    status, text = python(bare, "-c", INTERPRETED)
    assert status == 0, text
