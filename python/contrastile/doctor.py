"""What this installation can use, what will run here, and why not the rest."""

from __future__ import annotations

import json
import os
import platform
from collections.abc import Iterator
from importlib.metadata import PackageNotFoundError, version

import torch

from . import __version__, native
from .backends import BACKENDS, choose, why_not
from .backends.triton.backend import installed_triton, why_unavailable
from .problem import Channel, InputError, Problem, Scores
from .problem.spec import Sizes, Spec

EXTRAS = ("matplotlib", "pillow", "rich")
MISSING = "not installed"
# What is asked about: half precision and fp32 have kernels of their own on a GPU.
DTYPES = {"fp32": torch.float32, "bf16": torch.bfloat16}
TITLES = {
    "environment": "Environment",
    "extension": "Compiled extension",
    "runs": "What runs here",
    "backends": "Backends, best first",
    "packages": "Optional packages",
}
Facts = dict[str, str]
Lines = Iterator[tuple[str, str]]
Lowered = tuple[Spec, Sizes]


def facts() -> dict[str, Facts]:
    """Everything that is reported, by section and name."""
    problems = {device: _problems(device) for device in devices()}
    return {
        "environment": dict(environment()),
        "extension": dict(extension()),
        "runs": dict(runs(problems)),
        "backends": dict(backends(problems)),
        "packages": {name: installed(name) for name in EXTRAS},
    }


def report() -> str:
    """The whole report as text."""
    found = facts()
    blocks = [_section(title, found[key]) for key, title in TITLES.items()]
    return "\n\n".join([f"Contrastile {__version__}", *blocks])


def report_json() -> str:
    """The same facts for a program."""
    return json.dumps({"contrastile": __version__, **facts()}, indent=2)


def devices() -> list[torch.device]:
    """Where tensors can be, on this machine, that a loss is asked for."""
    count = torch.cuda.device_count() if torch.cuda.is_available() else 0
    return [torch.device("cpu"), *(torch.device("cuda", i) for i in range(count))]


def environment() -> Lines:
    """Python, torch, Triton, threads and accelerators."""
    yield "Python", f"{platform.python_version()} on {platform.system()} {platform.machine()}"
    yield "torch", torch.__version__
    yield "triton", installed_triton() or MISSING
    yield "threads", f"{torch.get_num_threads()} (torch) of {os.cpu_count()} processors"
    yield "GPU", gpus()
    yield "fp32 products", f"precision {torch.get_float32_matmul_precision()!r} (torch's switch)"


def gpus() -> str:
    """The names of the GPUs, or why there is none."""
    if torch.version.cuda is None and torch.version.hip is None:
        return "none: this torch is built for the CPU"
    if not torch.cuda.is_available():
        return "none: torch finds no usable device or driver"
    return ", ".join(torch.cuda.get_device_name(i) for i in range(torch.cuda.device_count()))


def extension() -> Lines:
    """The compiled passes over the scores, and the SIMD levels this processor can run."""
    module = native.load()
    if module is None:
        yield "contrastile._C", "not built: losses on the CPU work, but slower"
        yield "remedy", "install contrastile with a C++ compiler on the PATH"
    else:
        yield "contrastile._C", "loaded"
        best, *others = module.levels()
        yield "SIMD", f"{best} in use" + (f" (also {', '.join(others)})" if others else "")
        archs = native.cuda_archs()
        yield "CUDA kernels", f"for {archs}" if archs else f"not built: {native.why_no_cuda()}"


def runs(problems: dict[torch.device, dict[str, Lowered] | str]) -> Lines:
    """For each device what backend="auto" takes, and why; what a GPU would run if there is none."""
    for device, asked in problems.items():
        if isinstance(asked, str):
            yield f"{device} tensors", f"nothing: {asked}"
            continue
        chosen = {name: _chosen(*lowered) for name, lowered in asked.items()}
        if len(set(chosen.values())) == 1:
            yield f"{device} tensors", next(iter(chosen.values()))
        else:
            yield from ((f"{device}, {name}", text) for name, text in chosen.items())
    if len(problems) == 1:
        yield "GPU tensors", f"{gpus()}; {_on_a_gpu()}"


def backends(problems: dict[torch.device, dict[str, Lowered] | str]) -> Lines:
    """Where each backend can compute, or why nowhere."""
    known = {device: asked for device, asked in problems.items() if not isinstance(asked, str)}
    for backend in BACKENDS:
        reasons = {
            str(device): {why_not(backend, spec, sizes) for spec, sizes in asked.values()}
            for device, asked in known.items()
        }
        able = [device for device, found in reasons.items() if None in found]
        if able:
            yield backend.name, f"ready for tensors on {', '.join(able)}"
        elif len(problems) == 1:
            yield backend.name, backend.available() or "installed, but there is no GPU here"
        else:
            last = sorted(filter(None, reasons[str(list(known)[-1])]))
            yield backend.name, "; ".join(last)


def installed(distribution: str) -> str:
    """The version of a distribution."""
    try:
        return version(distribution)
    except PackageNotFoundError:
        return MISSING


def _problems(device: torch.device) -> dict[str, Lowered] | str:
    """A small log-sum-exp on a device, by dtype; or why the device cannot be used."""
    made = {}
    for name, dtype in DTYPES.items():
        try:
            embeddings = torch.zeros(2, 16, dtype=dtype, device=device)
        except RuntimeError as error:
            return str(error).partition("\n")[0]
        scores = Scores.of("doctor", embeddings, torch.zeros_like(embeddings))
        spec, tensors = Problem.of("doctor", scores, [Channel()], Channel).lower()
        made[name] = spec, Sizes.of(spec, tensors)
    return made


def _chosen(spec: Spec, sizes: Sizes) -> str:
    """The backend that is taken, and what it computes with."""
    try:
        backend = choose(spec, sizes)
    except InputError as error:
        return str(error).partition(": ")[2]
    if backend.name == "cpu":
        return f"backend cpu, {_pass_on_the_cpu()}"
    return f"backend {backend.name}" + (f" {installed_triton()}" * (backend.name == "triton"))


def _pass_on_the_cpu() -> str:
    threads = torch.get_num_threads()
    if native.load() is None:
        return f"plain torch on {threads} threads, slower: the extension was not built"
    return f"compiled pass, {native.level()}, on {threads} threads"


def _on_a_gpu() -> str:
    """What would compute there."""
    reason = why_unavailable()
    if reason is None:
        return f"Triton {installed_triton()} is installed and would be used on one"
    return f"for one, {reason}"


def _section(title: str, lines: Facts) -> str:
    width = max(15, *map(len, lines))
    return "\n".join([title, *(f"  {name:<{width}} {text}" for name, text in lines.items())])
