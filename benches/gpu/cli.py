"""The command line of the GPU check."""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence
from pathlib import Path

import torch

from .extension import BUILD, FOLDER, use
from .host import probe
from .record import FAIL, MERGED, Part, load_parts, merge, part_file, sources, unpack
from .report import show_parts
from .sections import SECTIONS
from .settings import Settings
from .supervise import LIMIT, supervise
from .work import serve


def parser() -> argparse.ArgumentParser:
    """The command line."""
    new = argparse.ArgumentParser(prog="gpu_check.py", description="All that only a GPU can show.")
    new.add_argument("--out", type=Path, default=Path("gpu-out"), help="folder for " + MERGED)
    new.add_argument("--parts", type=Path, help="folder for one file a section; OUT/parts")
    new.add_argument("--resume", type=Path, help=f"a {MERGED} whose sections count as done")
    new.add_argument("--sections", type=_names, default=list(SECTIONS), help="a,b,c; all of them")
    new.add_argument("--again", action="store_true", help="also the sections that are done")
    new.add_argument("--quick", action="store_true", help="fewer and smaller cases")
    new.add_argument("--device", type=torch.device, default=torch.device("cuda", 0))
    new.add_argument("--backend", default="triton", help="of contrastile")
    new.add_argument("--wheels", type=_folder, help="folder of wheels: peers, pybind11")
    new.add_argument("--limit", type=float, default=LIMIT, help="seconds for everything")
    new.add_argument("--list", action="store_true", help="show the sections, run nothing")
    new.add_argument("--worker", action="store_true", help=argparse.SUPPRESS)
    new.add_argument("--probe", action="store_true", help=argparse.SUPPRESS)
    return new


def main(argv: Sequence[str] | None = None) -> int:
    """Runs the command line; 1 if a section failed or could not be begun."""
    options = parser().parse_args(argv)
    if options.list:
        for section in SECTIONS.values():
            print(f"{section.name:12} {section.seconds:4.0f} s  {section.what}")
        return 0
    if options.probe:
        probe(options.device, options.backend)
        return 0
    folder: Path = options.parts or options.out / "parts"
    folder.mkdir(parents=True, exist_ok=True)
    if options.worker:
        place = folder.resolve() / FOLDER
        use(place)
        given = options.device, options.backend, options.quick, options.wheels, place
        return serve(folder, Settings(*given))
    options.out.mkdir(parents=True, exist_ok=True)
    return check(options, folder)


def check(options: argparse.Namespace, folder: Path) -> int:
    """Runs what is not done, and shows all that is."""
    if options.resume is not None:
        unpack(options.resume, folder)
    todo = to_do(options.sections, options.again, folder)

    def gather() -> tuple[list[Part], list[str]]:
        parts = load_parts(folder, SECTIONS)
        missing = [n for n in options.sections if n not in {p.section for p in parts}]
        merge(parts, missing, options.out / MERGED)
        return parts, missing

    def told(part: Part) -> None:
        print(f"{part.section}: {part.verdict}, {part.seconds} s", file=sys.stderr, flush=True)
        # After every section: what a limit from outside cuts off is not lost.
        gather()

    given = ["--device", str(options.device), "--backend", options.backend]
    given += ["--quick"] if options.quick else []
    given += [] if options.wheels is None else ["--wheels", str(options.wheels)]
    if todo:
        supervise(
            todo,
            lambda name: SECTIONS[name].seconds,
            folder,
            given,
            options.limit,
            told,
            [section.name for section in SECTIONS.values() if section.renews],
        )
    parts, missing = gather()
    show_parts(parts, missing, sources())
    return 1 if missing or any(part.verdict == FAIL for part in parts) else 0


def to_do(names: Sequence[str], again: bool, folder: Path) -> list[str]:
    """What is not done; first of all the build that a section needs and this folder lacks."""
    todo = [name for name in names if again or not part_file(folder, name).exists()]
    if any(SECTIONS[name].built for name in todo) and not (folder / FOLDER).exists():
        todo = [BUILD, *(name for name in todo if name != BUILD)]
    return todo


def _folder(text: str) -> Path:
    folder = Path(text)
    if not folder.is_dir():
        raise argparse.ArgumentTypeError(f"there is no folder {text}")
    return folder.resolve()


def _names(text: str) -> list[str]:
    names = text.split(",")
    unknown = [name for name in names if name not in SECTIONS]
    if unknown:
        raise argparse.ArgumentTypeError(
            f"no section {', '.join(unknown)}; there are {', '.join(SECTIONS)}"
        )
    return names
