"""The command line of the GPU check."""

from __future__ import annotations

import argparse
import os
import sys
from collections.abc import Iterator, Sequence
from pathlib import Path

import torch

from .answers import answers
from .extension import BUILD, FOLDER, misfit, use
from .host import probe
from .leash import end_with
from .record import (
    FAIL,
    MERGED,
    Part,
    forget,
    load_part,
    load_parts,
    merge,
    read_merged,
    sources,
    unpack,
)
from .report import show
from .sections import QUICK, SECTIONS, usual
from .settings import Settings
from .supervise import LIMIT, Step, supervise
from .work import serve

# Seconds that the quick pass may take of a call that goes on with all the rest.
QUICK_LIMIT = 200.0


def parser() -> argparse.ArgumentParser:
    """The command line."""
    new = argparse.ArgumentParser(prog="gpu_check.py", description="All that only a GPU can show.")
    new.add_argument("--out", type=Path, default=Path("gpu-out"), help="folder for " + MERGED)
    new.add_argument("--parts", type=Path, help="folder for one file a section; OUT/parts")
    new.add_argument("--resume", type=Path, help=f"a {MERGED} whose cells count as done")
    new.add_argument("--sections", type=_names, help="a,b,c; all of them")
    new.add_argument("--again", action="store_true", help="also what is done")
    new.add_argument("--quick", action="store_true", help="the first pass alone: right, how fast")
    new.add_argument("--device", type=torch.device, default=torch.device("cuda", 0))
    new.add_argument("--backend", default="triton", help="of contrastile")
    new.add_argument("--wheels", type=_folder, help="folder of wheels: peers, pybind11")
    new.add_argument("--extension", type=_extension, help="contrastile's _C, built elsewhere")
    new.add_argument("--limit", type=float, default=LIMIT, help="seconds for everything")
    new.add_argument("--list", action="store_true", help="show the sections, run nothing")
    new.add_argument("--report", type=Path, help=f"show what a {MERGED} says, run nothing")
    new.add_argument("--worker", action="store_true", help=argparse.SUPPRESS)
    new.add_argument("--probe", action="store_true", help=argparse.SUPPRESS)
    return new


def main(argv: Sequence[str] | None = None) -> int:
    """Runs the command line; 1 if a section failed or did not end."""
    options = parser().parse_args(argv)
    if options.list:
        for section in SECTIONS.values():
            quick = f"{section.quick:.0f} + " if section.quick else ""
            print(f"{section.name:12} {quick + format(section.whole, '.0f'):>7} s  {section.what}")
        return 0
    if options.report is not None:
        show(read_merged(options.report), [], sources())
        return 0
    if options.probe:
        probe(options.device, options.backend)
        return 0
    folder: Path = options.parts or options.out / "parts"
    folder.mkdir(parents=True, exist_ok=True)
    if options.worker:
        end_with(os.getppid())
        return work(options, folder)
    options.out.mkdir(parents=True, exist_ok=True)
    return check(options, folder)


def work(options: argparse.Namespace, folder: Path) -> int:
    """The process that computes."""
    place = folder.resolve() / FOLDER
    use(place)
    settings = Settings(
        options.device,
        options.backend,
        wheels=options.wheels,
        extension=place,
        carried=options.extension,
    )
    return serve(folder, settings)


def check(options: argparse.Namespace, folder: Path) -> int:
    """Runs what is not done, and shows all that is."""
    names = options.sections or usual()
    if options.again:
        for name in names:
            forget(folder, name)
    if options.resume is not None:
        unpack(options.resume, folder)

    def gather() -> tuple[list[Part], list[str]]:
        parts = load_parts(folder, SECTIONS)
        settled = {part.section for part in parts if part.settled(options.quick)}
        wanted = [name for name in names if not options.quick or name in QUICK]
        missing = [name for name in wanted if name not in settled]
        merge(parts, missing, answers(parts), options.out / MERGED)
        return parts, missing

    def told(part: Part) -> None:
        print(f"{part.section}: {part.verdict}, {part.seconds} s", file=sys.stderr, flush=True)
        gather()

    # After every cell: what a limit from outside cuts off is not lost.
    supervise(
        steps(names, options.quick, options.limit, folder),
        folder,
        worker_options(options),
        told,
        progress=gather,
    )
    parts, missing = gather()
    show(parts, missing, sources())
    return 1 if missing or any(part.verdict == FAIL for part in parts) else 0


def worker_options(options: argparse.Namespace) -> list[str]:
    """What the process that computes has to know."""
    given = ["--device", str(options.device), "--backend", options.backend]
    for name in ("wheels", "extension"):
        value = getattr(options, name)
        given += [] if value is None else [f"--{name}", str(value)]
    return given


def steps(names: Sequence[str], quick: bool, limit: float, folder: Path) -> Iterator[Step]:
    """What is not done, when it is its turn: the quick pass, then the whole one; and the build
    where a section needs it and this folder lacks it.
    """
    passes = [(True, QUICK, min(limit, QUICK_LIMIT) if not quick else limit)]
    passes += [] if quick else [(False, tuple(SECTIONS), limit)]
    for is_quick, order, until in passes:
        for section in (SECTIONS[name] for name in order):
            done = is_done(section.name, is_quick, folder)
            if section.name == BUILD:
                needed = [n for n in order if n in names and SECTIONS[n].built]
                missing = any(not is_done(n, is_quick, folder) for n in needed)
                done = done and not (missing and not (folder / FOLDER).exists())
                wanted = section.name in names or missing
            else:
                wanted = section.name in names
            if wanted and not done:
                yield section.step(is_quick, until)


def is_done(name: str, quick: bool, folder: Path) -> bool:
    """Whether a pass has nothing more to do for a section."""
    part = load_part(folder, name)
    return part is not None and part.settled(quick)


def _folder(text: str) -> Path:
    folder = Path(text)
    if not folder.is_dir():
        raise argparse.ArgumentTypeError(f"there is no folder {text}")
    return folder.resolve()


def _extension(text: str) -> Path:
    path = Path(text)
    reason = misfit(path)
    if reason is not None:
        raise argparse.ArgumentTypeError(reason)
    return path.resolve()


def _names(text: str) -> list[str]:
    names = text.split(",")
    unknown = [name for name in names if name not in SECTIONS]
    if unknown:
        raise argparse.ArgumentTypeError(
            f"no section {', '.join(unknown)}; there are {', '.join(SECTIONS)}"
        )
    return names
