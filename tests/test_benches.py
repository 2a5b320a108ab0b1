"""The benchmark runner: checks before it times, writes what it says, measures what it claims."""

from __future__ import annotations

import csv
import json
from collections.abc import Collection
from dataclasses import dataclass, fields, replace
from pathlib import Path

import pytest
import torch
from contrastile.benches.cases import SUITES, Case, groups
from contrastile.benches.check import check
from contrastile.benches.crossover import crossovers
from contrastile.benches.inputs import make_inputs
from contrastile.benches.measure import interleave, memory, quantiles
from contrastile.benches.naive import NAIVE, LossFunction
from contrastile.benches.plot import plot
from contrastile.benches.providers import PROVIDERS
from contrastile.benches.results import Results, Row
from contrastile.benches.run import main
from contrastile.benches.runner import run_suite
from contrastile.benches.targets import target_table
from contrastile.losses.registry import LOSSES
from contrastile.testing import AllocationSpy

TINY = Case("clip_loss", 24, 8)
QUEUE = Case("info_nce", 24, 8, negatives=40)


@dataclass(frozen=True)
class Wrong:
    """A loss whose value is right and whose gradient is 1 % too large."""

    name: str = "wrong"
    losses: Collection[str] = ("clip_loss",)
    eager: bool = True

    def unavailable(self) -> str | None:
        return None

    def supports(self, case: Case) -> str | None:
        return None

    def build(self, case: Case) -> LossFunction:
        def loss(inputs):
            value = NAIVE[case.loss](inputs)
            return value + 0.01 * (value - value.detach())

        return loss


def test_suite_end_to_end(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    cases = [TINY, replace(TINY, mode="fwd"), Case("nt_xent", 24, 8), QUEUE]
    arguments = [argument for case in cases for argument in ("--case", str(case))]
    providers = ["--providers", "contrastile", "naive"]
    assert main([*arguments, *providers, "--repeats", "1", "--out", str(tmp_path)]) == 0
    printed = capsys.readouterr().out
    assert "clip_loss:n=24,d=8" in printed and "N = 24" not in printed

    data = json.loads((tmp_path / "results.json").read_text())
    header = {"date", "cpu", "threads", "torch", "contrastile", "commit"}
    assert header <= data["environment"].keys()
    assert {(row["loss"], row["mode"], row["provider"]) for row in data["rows"]} == {
        (case.loss, case.mode, name) for case in cases for name in ("contrastile", "naive")
    }
    for row in data["rows"]:
        assert 0 < row["ms_p20"] <= row["ms"] <= row["ms_p80"]
        assert row["roof_share"] > 0 and row["times_naive"] > 0 and row["peak_bytes"] > 0
        assert (row["gradient_error"] is None) == (row["mode"] == "fwd")

    with (tmp_path / "results.csv").open() as file:
        table = list(csv.DictReader(file))
    assert list(table[0]) == [f.name for f in fields(Row)]
    assert [row["provider"] for row in table] == [row["provider"] for row in data["rows"]]
    assert Results.load(tmp_path / "results.json").rows[0].case == cases[0]


def test_a_wrong_provider_is_not_timed() -> None:
    results = run_suite([TINY], [PROVIDERS["naive"], Wrong()], repeats=1)
    assert [row.provider for row in results.rows] == ["naive"]
    (skip,) = results.wrong
    assert skip.provider == "wrong"
    assert "gradient of embedding 0 is off by 1.0e-02" in skip.reason


def test_what_cannot_run_says_why() -> None:
    huge = Case("clip_loss", 10**6, 8)
    results = run_suite([huge], [PROVIDERS["naive"]], repeats=1)
    (skip,) = results.skipped
    assert not skip.wrong and "GiB for N x M buffers" in skip.reason


@pytest.mark.parametrize("loss", LOSSES)
def test_contrastile_agrees_in_every_dtype(loss: str) -> None:
    for dtype in ("fp64", "fp32", "fp16", "bf16"):
        verdict = check(PROVIDERS["contrastile"], Case(loss, 64, 16, dtype=dtype))
        assert verdict.refused is None


@pytest.mark.parametrize("name", [name for name in PROVIDERS if PROVIDERS[name].eager])
def test_every_installed_provider_computes_the_loss(name: str) -> None:
    provider = PROVIDERS[name]
    reason = provider.unavailable()
    if reason is not None:
        pytest.skip(reason)
    for loss in provider.losses:
        assert check(provider, Case(loss, 40, 16)).refused is None


def test_cases_are_written_as_they_are_read() -> None:
    for suite in SUITES.values():
        assert [Case.parse(str(case)) for case in suite] == list(suite)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("no_loss:n=4,d=4", "'no_loss' is not one of"),
        ("clip_loss:n=4", "give d"),
        ("clip_loss:n=4,d=4,speed=9", "unknown option 'speed'"),
        ("clip_loss:n=4,d=4,negatives=8", "takes no negatives"),
        ("clip_loss:n=0,d=4", "positive sizes"),
        ("clip_loss:n=many,d=4", "invalid literal"),
        ("nt_xent:n=5,d=4", "n divisible by 2"),
        ("clip_loss:n=4,d=4,dtype=fp8", "'fp8' is not one of"),
    ],
)
def test_bad_cases_are_refused(text: str, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        Case.parse(text)


def test_flop_of_the_work_bounds() -> None:
    n, d = 64, 16
    assert Case("clip_loss", n, d).flop == 8 * n * n * d
    assert Case("info_nce", n, d, negatives=n).flop == 6 * n * (2 * n) * d
    assert Case("nt_xent", n, d).flop == 4 * n * n * d


def test_dtypes_of_a_case_take_turns() -> None:
    half = replace(TINY, dtype="bf16")
    other = Case("clip_loss", 48, 8)
    assert groups([TINY, other, half]) == [[TINY, half], [other]]


def test_interleaving_stops_at_the_budget() -> None:
    calls: list[str] = []
    samples = interleave({"a": lambda: calls.append("a"), "b": lambda: calls.append("b")}, 5, 0.0)
    assert {key: len(times) for key, times in samples.items()} == {"a": 1, "b": 1}
    assert quantiles([1.0, 2.0, 3.0]) == pytest.approx((1.4, 2.0, 2.6))


def test_targets_name_what_was_not_measured() -> None:
    table = target_table(Results({}))
    assert len(table) == 4 * 2 + 4 * 2 + 2 + 2 + 1
    assert {measured for _, measured in table} == {"not measured"}


def rows_of(case: Case, speeds: dict[int, float]) -> Results:
    """What a run with these times of plain torch over contrastile's would have measured."""
    (row,) = run_suite([case], [PROVIDERS["contrastile"]], repeats=1).rows
    return Results({}, [replace(row, n=n, m=n, times_naive=x) for n, x in speeds.items()])


@pytest.mark.parametrize(
    ("speeds", "words"),
    [
        ({1024: 2.0, 128: 0.5, 512: 2.0}, "from about N = 260 on (0.50 x at N = 128, 2.00 x"),
        ({64: 1.1, 128: 0.8, 512: 0.9, 1024: 1.6}, "from about N = 580 on"),
        ({128: 1.0, 512: 3.0}, "at every size measured, from N = 128 on"),
        ({128: 0.4, 512: 0.9}, "plain torch is faster up to N = 512"),
    ],
)
def test_where_the_crossover_is(speeds: dict[int, float], words: str) -> None:
    (line,) = crossovers(rows_of(TINY, speeds))
    assert line.startswith("clip_loss, D = 8, fp32, fwd+bwd: ")
    assert words in line


def test_no_crossover_is_read_from_a_single_size() -> None:
    assert list(crossovers(rows_of(TINY, {1024: 2.0}))) == []
    other = rows_of(TINY, {1024: 2.0, 128: 0.5})
    other.rows[1] = replace(other.rows[1], d=64)
    assert list(crossovers(other)) == []


def test_the_first_suite_shows_batches_that_people_train_with() -> None:
    quick = list(SUITES["quick"])
    trained = [case for case in quick if case.n >= 1024 and case.d >= 256]
    assert quick[: len(trained)] == trained
    assert {case.loss for case in trained} == set(LOSSES)
    assert min(case.n for case in quick) < 256, "small ones beside them"


def test_plot(tmp_path: Path) -> None:
    pytest.importorskip("matplotlib")
    cases = [TINY, replace(TINY, n=48)]
    results = run_suite(cases, [PROVIDERS["naive"]], repeats=1)
    (file,) = plot(results, tmp_path)
    assert file.read_bytes().startswith(b"\x89PNG")


def test_spy_measures_a_dense_loss_exactly() -> None:
    n, d = 256, 8
    inputs = make_inputs(Case("clip_loss", n, d))
    x, y = inputs.embeddings
    with AllocationSpy() as spy:
        scores = x @ y.T
    assert spy.largest_bytes == spy.peak_bytes == spy.live_bytes == 4 * n * n
    del scores
    assert spy.live_bytes == 0
    with AllocationSpy() as spy:
        torch.autograd.grad(NAIVE["clip_loss"](inputs), (x, y))
    assert spy.largest_bytes == 4 * n * n
    assert spy.peak_bytes >= 3 * 4 * n * n


def test_spy_counts_memory_and_not_tensors() -> None:
    given = torch.zeros(1000)
    with AllocationSpy() as spy:
        view = given[:500].view(5, 100)
        view += 1
        assert spy.peak_bytes == 0
        grown = torch.empty(0)
        torch.add(given, 1, out=grown)
        alias = grown[1:]
        del grown
        assert spy.live_bytes == 4000
        del alias
        assert (spy.live_bytes, spy.peak_bytes) == (0, 4000)


def test_physical_memory_is_seen() -> None:
    size = 2**26
    used = memory(lambda: torch.ones(size, dtype=torch.uint8), eager=True)
    assert used.peak == used.largest == size
    assert used.resident is None or used.resident == pytest.approx(size, rel=0.1)
