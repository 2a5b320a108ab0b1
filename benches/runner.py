"""From cases and providers to rows: refuse, check, measure."""

from __future__ import annotations

import sys
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path

from contrastile.losses.inputs import Inputs
from contrastile.verify import evaluate

from .cases import Case, groups
from .check import Verdict, check, not_finite
from .environment import environment
from .inputs import make_inputs
from .measure import ROOF_FLOP, Run, interleave, memory, quantiles, roof
from .providers import Provider
from .results import Results, Row, Skip

ROOF = "roof"


@dataclass(frozen=True)
class Entry:
    """A provider that computes a case correctly, ready to run."""

    case: Case
    provider: Provider
    verdict: Verdict
    run: Run

    @property
    def key(self) -> str:
        return f"{self.case} {self.provider.name}"


def run_suite(
    cases: Sequence[Case],
    providers: Sequence[Provider],
    *,
    repeats: int = 7,
    budget: float = 60.0,
    out: Path | None = None,
) -> Results:
    """Measures every provider on every case it computes correctly.

    Args:
        cases: what to compute.
        providers: who computes it.
        repeats: rounds of samples.
        budget: seconds after which a group of cases starts no further round.
        out: a folder for the files, written anew after every group so that none is lost.
    """
    results = Results(environment())
    for group in groups(cases):
        print("; ".join(map(str, group)), file=sys.stderr)
        skipped, entries = prepare(group, providers)
        results.skipped += skipped
        results.rows += measure(entries, repeats, budget)
        if out is not None:
            results.save(out)
    return results


def prepare(cases: Sequence[Case], providers: Sequence[Provider]) -> tuple[list[Skip], list[Entry]]:
    """Who is not timed, and who is: available, able, right, and finite at full size."""
    skipped, entries = [], []
    for case in cases:
        inputs = make_inputs(case)
        for provider in providers:
            if case.loss not in provider.losses:
                continue
            reason = provider.unavailable() or provider.supports(case)
            if reason is not None:
                skipped.append(Skip(str(case), provider.name, reason, wrong=False))
                continue
            verdict, run = checked(case, provider, inputs)
            if verdict.refused is None:
                entries.append(Entry(case, provider, verdict, run))
            else:
                skipped.append(Skip(str(case), provider.name, verdict.refused, wrong=True))
    return skipped, entries


def checked(case: Case, provider: Provider, inputs: Inputs) -> tuple[Verdict, Run]:
    """The verdict on a provider, and its run at full size."""
    verdict = check(provider, case)
    loss = provider.build(case)
    if verdict.refused is None:
        verdict = replace(verdict, refused=not_finite(loss, inputs))
    return verdict, partial(evaluate, loss, inputs)


def measure(entries: Sequence[Entry], repeats: int, budget: float) -> Iterator[Row]:
    """One row for each entry, timed turn by turn with each other and the roof."""
    if not entries:
        return
    used = {entry.key: memory(entry.run, entry.provider.eager) for entry in entries}
    runs = {entry.key: entry.run for entry in entries}
    samples = interleave({ROOF: roof(), **runs}, repeats, budget)
    for entry in entries:
        case, own = entry.case, samples[entry.key]
        naive = samples.get(f"{case} naive")
        low, middle, high = (1e3 * seconds for seconds in quantiles(own))
        yield Row(
            loss=case.loss,
            provider=entry.provider.name,
            n=case.n,
            m=case.m,
            d=case.d,
            dtype=case.dtype,
            mode=case.mode,
            workspace=case.workspace,
            ms=middle,
            ms_p20=low,
            ms_p80=high,
            rounds=len(own),
            peak_bytes=used[entry.key].peak,
            largest_bytes=used[entry.key].largest,
            resident_bytes=used[entry.key].resident,
            flop=case.flop,
            roof_share=case.flop / ROOF_FLOP * median_ratio(samples[ROOF], own),
            times_naive=None if naive is None else median_ratio(naive, own),
            loss_error=entry.verdict.loss_error,
            gradient_error=entry.verdict.gradient_error,
        )


def median_ratio(others: Sequence[float], own: Sequence[float]) -> float:
    """Median over the rounds of other / own: what disturbs one round disturbs both of its terms."""
    return quantiles([other / mine for other, mine in zip(others, own, strict=True)])[1]
