"""The command line: ``contrastile demo | doctor | plan | verify | bench | tune``."""

from __future__ import annotations

import argparse
import gc
import sys
from collections.abc import Sequence

from . import __version__
from .demo.options import DemoOptions
from .planning import options as planning
from .problem import InputError

# What the optional commands import, by the name to install.
DEMO_PACKAGES = {"matplotlib": "matplotlib", "PIL": "pillow", "rich": "rich"}
# Commands that read their options themselves.
OWN_OPTIONS = ("bench", "tune")
USAGE_ERROR = 2
INTERRUPTED = 130


def main(argv: Sequence[str] | None = None) -> int:
    """Runs one command and returns its exit code; 2 for what the user can put right."""
    options, rest = _parser().parse_known_args(argv)
    if rest and options.command not in OWN_OPTIONS:
        options.parser.error(f"unrecognized arguments: {' '.join(rest)}")
    try:
        if options.command == "demo":
            return _demo(options)
        if options.command == "bench":
            return _bench(rest)
        if options.command == "tune":
            return _tune(rest)
        if options.command == "plan":
            return _plan(options)
        if options.command == "verify":
            return _verify(options)
        return _doctor(options)
    except ModuleNotFoundError as error:
        package = DEMO_PACKAGES.get((error.name or "").partition(".")[0])
        if package is None:
            raise
        return _fail(
            f"contrastile {options.command} needs {package}: pip install 'contrastile[demo]'"
        )
    except InputError as error:
        return _fail(str(error))
    except KeyboardInterrupt:
        print("interrupted", file=sys.stderr)
        return INTERRUPTED


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="contrastile",
        description="Contrastive losses for PyTorch that never store the score matrix.",
    )
    parser.add_argument("--version", action="version", version=f"contrastile {__version__}")
    commands = parser.add_subparsers(dest="command", required=True, metavar="COMMAND")
    demo = commands.add_parser(
        "demo",
        help="train a small image-text model with the dense loss and with Contrastile",
        description="Trains a model that matches glyphs with their Unicode names, once with the "
        "dense loss in plain torch and once with Contrastile, from one seed, and compares loss "
        "curves, retrieval, memory and time. Needs no download; about a minute on two cores.",
    )
    DemoOptions.add_arguments(demo)
    doctor = commands.add_parser(
        "doctor", help="show what this installation can use, what will run here, and why"
    )
    doctor.add_argument("--json", action="store_true", help="the same facts for a program")
    plan = commands.add_parser(
        "plan",
        help="predict which batch fits GPUs, and what a step of its loss takes",
        description="Says which batch fits the memory of GPUs, with which sub-batch, workspace and "
        "exchange, and predicts the time of a step of the loss. Needs no GPU; what is measured and "
        "what is a model's stands in docs/scaling.md. Exits with 1 if nothing fits.",
    )
    planning.add_arguments(plan)
    verify = commands.add_parser(
        "verify",
        help="compare every loss on this machine with its formula in fp64",
        description="Computes every loss and its gradients with each backend on each device of "
        "this machine and compares them with the dense formula in fp64; a few seconds on a CPU. "
        "Exits with 1 if one disagrees.",
    )
    verify.add_argument("--device", help="cpu, cuda or cuda:0; by default all there are")
    verify.add_argument("--backend", help="one backend; by default all that can compute")
    verify.add_argument(
        "--world",
        type=int,
        metavar="W",
        help="instead: every loss over W processes with some of the rows each, against one that "
        "has all; and what open_clip, lightly and sentence-transformers gather, if installed",
    )
    bench = commands.add_parser(
        "bench", help="measure speed and memory (options: contrastile bench --help)", add_help=False
    )
    tune = commands.add_parser(
        "tune", help="time launch configurations on this GPU, for later runs", add_help=False
    )
    for command in (demo, doctor, plan, verify, bench, tune):
        command.set_defaults(parser=command)
    return parser


def _demo(options: argparse.Namespace) -> int:
    from .demo.run import run

    code = run(DemoOptions.of(options))
    # Trainers held the group of its ranks; see parallel.collectives.before_a_group.
    gc.collect()
    return code


def _doctor(options: argparse.Namespace) -> int:
    from .doctor import report, report_json

    print(report_json() if options.json else report())
    return 0


def _plan(options: argparse.Namespace) -> int:
    return planning.run(options)


def _verify(options: argparse.Namespace) -> int:
    if options.world is not None:
        from .verify_ranks import run as run_ranks

        return run_ranks(options.world, options.device)
    from .verify import run

    return run(options.device, options.backend)


def _bench(argv: list[str]) -> int:
    from .benches.run import main as bench

    return bench(argv)


def _tune(argv: list[str]) -> int:
    from .benches.tune import main as tune

    return tune(argv)


def _fail(message: str) -> int:
    print(message, file=sys.stderr)
    return USAGE_ERROR
