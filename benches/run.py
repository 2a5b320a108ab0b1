"""The command line of the benchmarks: ``python -m contrastile.benches``."""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from pathlib import Path

import torch

from .cases import CHOSEN, SUITES, Case
from .crossover import crossovers
from .plot import plot
from .providers import DEFAULT, PROVIDERS
from .runner import run_suite
from .table import show, show_results
from .targets import target_table


def parser() -> argparse.ArgumentParser:
    """The command line."""
    new = argparse.ArgumentParser(
        prog="contrastile bench",
        description="Times contrastive losses, after checking that they are right.",
    )
    new.add_argument("--suite", choices=SUITES, default="default", help="a list of cases")
    new.add_argument(
        "--case",
        type=_case,
        action="append",
        help="instead of a suite, e.g. clip_loss:n=4096,d=256,dtype=bf16,mode=fwd; repeatable",
    )
    new.add_argument("--providers", nargs="+", choices=PROVIDERS, metavar="NAME")
    new.add_argument("--repeats", type=int, default=7, help="rounds of samples")
    new.add_argument(
        "--budget", type=float, default=60, help="seconds of rounds per group of cases"
    )
    new.add_argument("--threads", type=int, help="threads of torch")
    new.add_argument("--out", type=Path, help="folder for results.json and results.csv")
    new.add_argument("--plot", action="store_true", help="also draw PNG files into --out")
    new.add_argument("--list", action="store_true", help="show suites and providers, run nothing")
    return new


def main(argv: Sequence[str] | None = None) -> int:
    """Runs the command line; 1 if a provider computed something else than the loss."""
    command = parser()
    options = command.parse_args(argv)
    if options.list:
        show_choices()
        return 0
    if options.plot and options.out is None:
        command.error("--plot needs --out FOLDER")
    if options.threads is not None:
        torch.set_num_threads(options.threads)
    suite: str = "" if options.case else options.suite
    names = options.providers or CHOSEN.get(suite, DEFAULT)
    results = run_suite(
        options.case or SUITES[options.suite],
        [PROVIDERS[name] for name in names],
        repeats=options.repeats,
        budget=options.budget,
        out=options.out,
    )
    show_results(results)
    if suite == "targets":
        show("targets", ("target", "measured"), target_table(results))
    for line in crossovers(results):
        print(line)
    if options.plot:
        plot(results, options.out)
    return 1 if any(results.wrong) else 0


def show_choices() -> None:
    """Prints the suites, and the providers with the reason why one is unavailable."""
    for name, cases in SUITES.items():
        show(f"suite {name}", ("case",), [(str(case),) for case in cases])
    providers = [(name, provider.unavailable() or "") for name, provider in PROVIDERS.items()]
    show("providers", ("provider", "reason"), providers)


def _case(text: str) -> Case:
    try:
        return Case.parse(text)
    except ValueError as error:
        raise argparse.ArgumentTypeError(str(error)) from error
