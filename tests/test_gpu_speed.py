"""What the GPU check times, and how it is judged, on tiny CPU runs."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch
from contrastile.backends.triton import backend as triton_backend
from contrastile.backends.triton.device import Device
from contrastile.backends.triton.launch import Purpose, pick
from contrastile.benches.gpu import aims, gemm, host, specialised, speed, targets
from contrastile.benches.gpu.cells import Cells
from contrastile.benches.gpu.errors import Rule, Shape
from contrastile.benches.gpu.record import FAIL, PASS, Row
from contrastile.benches.gpu.settings import Settings
from contrastile.benches.naive import NAIVE

CPU = torch.device("cpu")


@pytest.fixture
def rows() -> list[Row]:
    return []


@pytest.fixture
def settings(rows: list[Row]) -> Settings:
    return Settings(CPU, "cpu", row=rows.append)


@pytest.fixture
def uncompiled(monkeypatch: pytest.MonkeyPatch) -> None:
    """What torch.compile makes of the formula takes seconds, and so do many repeats."""
    monkeypatch.setattr(speed, "SECONDS", 0.0)
    monkeypatch.setattr(speed.Compiled, "build", lambda self, case: NAIVE[case.loss])


@pytest.mark.usefixtures("uncompiled")
def test_timings(settings: Settings, rows: list[Row]) -> None:
    quick = replace(settings, quick=True)
    headline = [("clip_loss", 128, 16), ("siglip_loss", 64, 16)]
    assert speed.speed_section(quick, (128, 64), (16,), headline, dtype="fp32").verdict == PASS
    clip, siglip = "clip_loss 128 x 16 fp32", "siglip_loss 64 x 16 fp32"
    first = [f"{clip}, {name}" for name in ("contrastile", "naive", "naive-compiled")]
    first += [f"{siglip}, {name}" for name in ("contrastile", "naive")]
    assert [row["cell"] for row in rows if "cell" in row] == first
    assert all(row["ms"] > 0 for row in rows if "cell" in row)
    assert settings.cells.later > 0
    assert gemm.gemm_section(settings, (32,), (64,), (8,), 2**10).verdict == PASS
    assert host.host_section(settings, 16, 8, 1).numbers["clip_loss contrastile us"] > 0


@pytest.mark.usefixtures("uncompiled")
def test_a_case_that_fails_is_told_and_the_next_is_timed(rows: list[Row]) -> None:
    settings = Settings(CPU, "no such backend", row=rows.append)
    outcome = speed.speed_section(settings, (16,), (4,), [("clip_loss", 16, 4)], dtype="fp32")
    assert outcome.verdict == FAIL and "no such backend" in str(outcome.reason)
    assert [("ms" in row, row["cell"].split(", ")[1]) for row in rows[:3]] == [
        (False, "contrastile"),
        (True, "naive"),
        (True, "naive-compiled"),
    ]


def test_every_target_is_timed_and_first() -> None:
    cells = list(speed.plan(speed.SIZES, speed.WIDTHS))
    assert len(set(cells)) == len(cells)
    first = cells[: len(targets.MILLISECONDS)]
    assert {(c.loss, c.n, c.d) for c in first} == set(targets.MILLISECONDS)
    # All of them can be judged from what is timed.
    every = speed.aims(dict.fromkeys(cells, 1.0))
    assert all(aim.measured is not None for aim in every)


def test_targets_are_met_or_missed() -> None:
    def time(provider: str, n: int, d: int, loss: str = "clip_loss") -> speed.Timed:
        return speed.Timed(loss, provider, n, d)

    times = {
        time(speed.OURS, 32768, 256): 3.5,
        time(speed.PLAIN, 32768, 256): 28.1,
        time(speed.OURS, 1024, 512): 0.7,
        time(speed.PLAIN, 1024, 512): 0.6,
        time(speed.OURS, 65536, 768, "siglip_loss"): 40.0,
        # Not what is chosen by default, so no target's.
        replace(time(speed.OURS, 65536, 256), dots=speed.KEPT): 1.0,
    }
    verdicts = {aim.what: aim.verdict for aim in speed.aims(times)}
    found = {what: verdict for what, verdict in verdicts.items() if verdict != aims.UNKNOWN}
    assert found == {
        "clip_loss 32768 x 256": aims.MISSED,
        "clip_loss 32768 x 256 over eager": aims.MET,
        "clip_loss 1024 x 512 over eager": aims.MISSED,
        "siglip_loss 65536 x 768": aims.MET,
    }


def test_a_missed_target_is_shown_and_fails_nothing(settings: Settings, rows: list[Row]) -> None:
    missed = aims.Aim("a step", "us", 300.0, 250.0)
    numbers = aims.judged([missed, replace(missed, measured=None)], settings)
    assert numbers == {
        "targets met": "0 of 2",
        "MISSED": "a step 300 us (<= 250)",
        "not measured": "a step us (<= 250)",
    }
    assert [row["verdict"] for row in rows] == [aims.MISSED, aims.UNKNOWN]
    assert replace(missed, measured=float("nan"), at_least=True).verdict == aims.MISSED


def test_the_host_is_judged(settings: Settings, monkeypatch: pytest.MonkeyPatch) -> None:
    for took, told in ((200.0, "2 of 2"), (400.0, "0 of 2")):
        monkeypatch.setattr(host, "call_us", lambda *_, took=took: took)
        outcome = host.host_section(replace(settings, cells=Cells()), 16, 8, 1)
        assert outcome.verdict == PASS and outcome.numbers["targets met"] == told


@pytest.mark.usefixtures("uncompiled")
def test_kept_dot_products_are_timed_beside_recomputed_ones(
    settings: Settings, rows: list[Row]
) -> None:
    outcome = speed.speed_section(settings, (64, 32, 16), (8, 12), [], dtype="fp32")
    dots = [row["cell"] for row in rows if "dots" in row.get("cell", "")]
    assert [name.rsplit(" ")[-1] for name in dots] == [speed.KEPT, speed.RECOMPUTED]
    assert outcome.numbers["clip_loss 16 x 12: ms recomputed / kept"] > 0

    shipped = triton_backend.KEEP_FROM
    seen = [speed.keeping_from(size, lambda: triton_backend.KEEP_FROM) for size in (0, 9)]
    assert seen == [0, 9] and shipped == triton_backend.KEEP_FROM


@pytest.mark.parametrize(
    ("arch", "triton", "told"),
    [
        ("sm_90", "3.7.1", None),
        ("sm_90", "3.10.0", None),
        ("sm_90", "3.6.0", "cannot compile"),
        ("sm_90", None, "cannot compile"),
        ("sm_80", "3.7.1", "no launches of sm_80"),
    ],
)
def test_where_specialised_launches_can_be_tried(
    arch: str, triton: str | None, told: str | None
) -> None:
    reason = specialised.unable(arch, triton)
    assert reason is None if told is None else told in str(reason)


def test_specialised_launches_are_judged_and_timed(
    settings: Settings, rows: list[Row], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Those on trial are picked while the rule is judged and the second of two times is taken."""
    device = Device("sm_90", 132)
    seen: list[bool] = []

    def look(*_: object) -> list[Row]:
        seen.append(pick(device, torch.bfloat16, Purpose.WEIGH).specialize)
        return [{"what": "loss", "share": 0.5, "shape": [8, 8], "scale": 1.0}]

    def median_ms(*_: object, **__: object) -> float:
        look()
        return 2.0

    monkeypatch.setattr(Device, "of", staticmethod(lambda _: device))
    monkeypatch.setattr(specialised, "judge", look)
    monkeypatch.setattr(specialised, "median_ms", median_ms)
    monkeypatch.setattr(
        specialised, "kernel_shares", lambda *_: {"weigh share": 0.25, "device ms": 4.0}
    )
    assert specialised.judge_specialised(Rule("clip_loss", "bf16", Shape(8, 8)))[0]["share"] == 0.5
    cell = speed.Timed("clip_loss", speed.OURS, 16, 8, "fp32")
    for table in ({}, specialised.specialised("sm_90")):
        row = specialised.time_weights(cell, table, settings)
        assert row == {"step ms": 2.0, "weights ms": 1.0}
    assert seen == [True, False, True]
    assert not pick(device, torch.bfloat16, Purpose.WEIGH).specialize
