"""What machine code CUDA kernels have: `python -m contrastile.benches.kernels.cuda_gates`.

It is read out of the built extension, or of files compiled for another architecture; no GPU needed.
The disassembler is the one that comes with Triton.
"""

from __future__ import annotations

import argparse
import re
import subprocess
import sys
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path

from contrastile import native

THREADS = {"sm80": 256, "sm90": 384}
REGISTERS = 65536
# What a block's registers are divided from by setmaxnreg: 384 times this is 128 times 24 + 2 * 240.
# With fewer the claim would wait for ever.
SM90_REGISTERS = 168
CHUNK = 32  # scores of a lane in a chunk of 64 columns
NAME = re.compile(r"cuda4(sm80|sm90)(6reduce|5weigh)I(.*)E+v")
FORMS = ("fixed", "general", "term")
# Mangled template arguments: the element, then booleans and the form.
ELEMENTS = {"4Bf16": "bf16", "4Fp16": "fp16", "4Tf32": "tf32"}


@dataclass(frozen=True)
class Kernel:
    """One kernel's resources and how often each instruction stands in its code."""

    arch: str
    family: str
    kind: str
    element: str
    form: str
    flags: tuple[bool, ...]
    registers: int
    stack: int
    counts: Counter[str]

    @property
    def name(self) -> str:
        """As a reader would say it."""
        parts = [self.arch, self.family, self.kind, self.element, self.form]
        return " ".join([*parts, *(str(int(flag)) for flag in self.flags)])

    @property
    def chunks(self) -> int:
        """Of 64 columns in a tile: without stationary queries there are twice as many."""
        return 4 if self.family == "sm90" and not self.flags[0] else 2

    @property
    def sums_columns(self) -> bool:
        """Whether columns are summed: the last argument of `reduce`."""
        return self.kind == "reduce" and self.flags[-1]


def rules(kernel: Kernel) -> Iterator[str]:
    """What is wrong with a kernel."""
    if kernel.counts["CGAERRBAR"] > 1:
        yield f"{kernel.counts['CGAERRBAR']} fences for the whole GPU, expected one at the start"
    if kernel.stack:
        yield f"{kernel.stack} bytes of stack"
    if kernel.family == "sm90" and kernel.registers != SM90_REGISTERS:
        yield f"{kernel.registers} registers, setmaxnreg counts on {SM90_REGISTERS}"
    elif kernel.registers * THREADS[kernel.family] > REGISTERS:
        yield f"{kernel.registers} registers for {THREADS[kernel.family]} threads"
    product = "HGMMA" if kernel.family == "sm90" else "HMMA"
    if not kernel.counts[product]:
        yield f"no {product}"
    if kernel.family == "sm90" and kernel.counts["HMMA"]:
        yield "HMMA beside HGMMA"
    if kernel.element != "tf32" and kernel.counts["FFMA"] and kernel.counts[product] < 4:
        yield "products outside the tensor cores"
    for instruction, expected in expectations(kernel).items():
        found = kernel.counts[instruction]
        # ptxas makes a second copy of code for tiles whose columns are not summed.
        if not expected <= found <= expected * (1 + kernel.sums_columns):
            yield f"{found} {instruction}, expected {expected}"


# Powers and shuffles of a chunk's code as designed. In the fixed form it stands three times: for
# chunks of which every pair counts, for others, and for those where some pairs have a weight of
# their own; `reduce` in the general form has no code for plain ones; pair sums have no weights, but
# four functions.
OF_CHUNK = {
    ("reduce", "fixed"): (3 * CHUNK, 2 * 16),
    # Rows: powers and two for the sums so far; columns' offsets, two maxima of four lanes.
    ("reduce", "general"): (CHUNK + 2, 2 * 16 + 4),
    ("reduce", "term"): (0, 4 * 16),
    # Columns' coefficients in all, their offsets in those that are not plain.
    ("weigh", "fixed"): (3 * CHUNK, 3 * 16 + 2 * 16),
    # One power for the row and one for the column; columns' shifts as well.
    ("weigh", "general"): (3 * 2 * CHUNK, 3 * 2 * 16 + 2 * 16),
    ("weigh", "term"): (0, 4 * (2 * 16 + 16)),
}
# What sums of columns add, of eight lanes each; in the general form their maxima too, and four
# warps' sums to one shift.
OF_COLUMNS = {"fixed": (0, 14), "general": (CHUNK + 4, 3 * 16 + 14), "term": (0, 4 * 14)}


def expectations(kernel: Kernel) -> dict[str, int]:
    """Powers and shuffles as designed, of the whole code."""
    powers, shuffles = OF_CHUNK[kernel.kind, kernel.form]
    if kernel.sums_columns:
        more = OF_COLUMNS[kernel.form]
        powers, shuffles = powers + more[0], shuffles + more[1]
    # At last the sums of two rows over four lanes.
    rows = 4 * (4 if (kernel.kind, kernel.form) == ("reduce", "term") else 1)
    return {"MUFU.EX2": powers * kernel.chunks, "SHFL": shuffles * kernel.chunks + rows}


def disassembler() -> Path:
    """Triton's cuobjdump."""
    import triton

    return Path(triton.__file__).parent / "backends/nvidia/bin/cuobjdump"


@lru_cache(maxsize=2)
def dump(path: Path, *options: str) -> str:
    """What cuobjdump says about a file; it takes half a minute of all kernels."""
    command = [str(disassembler()), *options, str(path)]
    return subprocess.run(command, capture_output=True, text=True, check=True).stdout


def instructions(path: Path, *options: str) -> dict[tuple[str, str], Counter[str]]:
    """How often each instruction stands in each (architecture, function)."""
    found: dict[tuple[str, str], Counter[str]] = {}
    arch, own = "", Counter[str]()
    for line in dump(path, "-sass", *options).splitlines():
        if match := re.match(r"\s*code for (sm_\w+)", line):
            arch = match[1]
        elif match := re.match(r"\s*Function : (\S+)", line):
            own = found.setdefault((arch, match[1]), Counter())
        elif match := re.match(
            r"\s*/\*[0-9a-f]{4,}\*/\s+(?:@!?U?P\w+ )?([A-Z]\w*(?:\.\w+)*)", line
        ):
            parts = match[1].split(".")
            own[parts[0]] += 1
            own[".".join(parts[:2])] += len(parts) > 1
    return found


def resources(path: Path) -> dict[tuple[str, str], tuple[int, int]]:
    """Registers and stack of each (architecture, function)."""
    found, arch, name = {}, "", ""
    for line in dump(path, "-res-usage").splitlines():
        if match := re.match(r"\s*arch = (sm_\w+)", line):
            arch = match[1]
        elif match := re.match(r"\s*Function (\S+):", line):
            name = match[1]
        elif match := re.search(r"REG:(\d+) STACK:(\d+)", line):
            found[arch, name] = int(match[1]), int(match[2])
    return found


def kernels(path: Path, *options: str) -> list[Kernel]:
    """All kernels in an extension or an object file, or what the disassembler's options leave."""
    found, used = [], resources(path)
    for (arch, name), counts in instructions(path, *options).items():
        match = NAME.search(name)
        if match is None:
            continue
        arguments = match[3]
        element = next(label for mangled, label in ELEMENTS.items() if mangled in arguments)
        form = re.search(r"FormE(\d)", arguments)
        assert form is not None, name
        flags = tuple(flag == "1" for flag in re.findall(r"Lb([01])E", arguments))
        registers, stack = used[arch, name]
        kind = match[2][1:]
        form_name = FORMS[int(form[1])]
        found.append(
            Kernel(arch, match[1], kind, element, form_name, flags, registers, stack, counts)
        )
    return found


def check(path: Path) -> tuple[list[Kernel], list[str]]:
    """The tile kernels of a file, and every rule that one of all its kernels breaks."""
    own = kernels(path)
    broken = [f"{kernel.name}: {rule}" for kernel in own for rule in rules(kernel)]
    for (arch, name), (_, stack) in resources(path).items():
        if stack and not NAME.search(name):
            broken.append(f"{arch} {name}: {stack} bytes of stack")
    return own, broken


def main(argv: Sequence[str] | None = None) -> int:
    """Print a line for each kernel and what is wrong; status 1 if anything is."""
    parser = argparse.ArgumentParser(prog="python -m contrastile.benches.kernels.cuda_gates")
    parser.add_argument("files", nargs="*", type=Path, help="instead of the built extension")
    files = parser.parse_args(argv).files
    if not files:
        module = native.load()
        if module is None or not native.cuda_archs():
            print(f"no CUDA kernels to look at: {native.why_no_cuda()}")
            return 1
        files = [Path(str(module.__file__))]
    count = 0
    for path in files:
        own, broken = check(path)
        count += len(broken)
        for kernel in own:
            powers, shuffles = kernel.counts["MUFU.EX2"], kernel.counts["SHFL"]
            print(
                f"{kernel.name:40} {kernel.registers:4} registers {powers:5} ex2 {shuffles:4} shfl"
            )
        print(*broken, sep="\n")
    print(f"{count} rules broken")
    return int(count > 0)


if __name__ == "__main__":
    sys.exit(main())
