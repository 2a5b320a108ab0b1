"""The examples of README and docs run and say what is so."""

from __future__ import annotations

import re
import warnings
from pathlib import Path
from typing import Any

import contrastile
import pytest
import torch
import torch.distributed as dist
import torch.multiprocessing
from contrastile.losses.advice import CALLS
from contrastile.problem.advice import GIVEN
from processes import Processes
from torch import Tensor
from torch.nn.functional import normalize

ROOT = Path(__file__).parents[1]
PAGES = (
    "README.md",
    "docs/faq.md",
    "docs/distributed.md",
    "docs/training.md",
    "docs/integrations.md",
    "docs/sweeps.md",
    "docs/sweeps.md",
)


def examples(page: str) -> list[tuple[int, str]]:
    """The Python blocks of a page, each with the line it starts at."""
    text = (ROOT / page).read_text(encoding="utf-8")
    blocks = re.finditer(r"^```python\n(.*?)^```$", text, re.MULTILINE | re.DOTALL)
    return [(text.count("\n", 0, block.start(1)), block[1]) for block in blocks]


def run(page: str) -> dict[str, Any]:
    """A page's examples, one after the other in one namespace; tracebacks name the page's line."""
    names: dict[str, Any] = {"__name__": page}
    for line, code in examples(page):
        exec(compile("\n" * line + code, str(ROOT / page), "exec"), names)
    return names


@pytest.mark.parametrize("page", PAGES)
def test_examples_run_without_a_warning(page: str) -> None:
    assert examples(page)
    """The FAQ, which shows wrong uses too, shows before how to silence them."""
    GIVEN.clear()
    CALLS.clear()
    with warnings.catch_warnings():
        warnings.simplefilter("error", contrastile.ContrastileWarning)
        run(page)


ALL_PAGES = sorted(
    str(page.relative_to(ROOT)) for page in (*ROOT.glob("*.md"), *(ROOT / "docs").rglob("*.md"))
)


@pytest.mark.parametrize("page", ALL_PAGES)
def test_links_lead_somewhere(page: str) -> None:
    text = (ROOT / page).read_text(encoding="utf-8")
    named = re.findall(r"\b(docs/[\w/]+\.\w+)", text)
    linked = [(ROOT / page).parent / t for t in re.findall(r"\]\(([^)#:]+)\)", text)]
    assert not [p for p in (*linked, *(ROOT / name for name in named)) if not p.exists()]


# A log of measurements may name what is gone; a walk through the code may not.
WALKS = ["CONTRIBUTING.md", *(p for p in ALL_PAGES if "docs/" in p and "performance" not in p)]
FOLDERS = ("python", "csrc", "triton_kernels", "benches", "examples", "tests", "docs", ".ci")
FILES = [str(path) for folder in FOLDERS for path in (ROOT / folder).rglob("*.*")]


@pytest.mark.parametrize("page", WALKS)
def test_files_that_a_page_names_exist(page: str) -> None:
    """By their path, or the end of it where a page has said which folder it walks through."""
    text = (ROOT / page).read_text(encoding="utf-8")
    named = set(re.findall(r"`([\w./]+\.(?:py|h|cpp|cu|md))`", text))
    assert not [name for name in named if not any(f.endswith(f"/{name}") for f in FILES)]


def test_the_walk_is_one_page() -> None:
    """About two screens: what does not fit belongs to a page of its own."""
    assert len((ROOT / "docs/design.md").read_text(encoding="utf-8").splitlines()) <= 130


# What the page says of several processes.

PAIRS, SIZE, TEMPERATURE = 64, 16, 0.1


def encoded(rows: Tensor, weight: Tensor) -> Tensor:
    return normalize(rows @ weight, dim=1)


def averaged(loss: Tensor, weight: Tensor) -> Tensor:
    """The gradient as data-parallel training has it."""
    (grad,) = torch.autograd.grad(loss, weight, retain_graph=True)
    dist.all_reduce(grad)
    return grad / dist.get_world_size()


def without_gradient(own: Tensor, put_back: bool = True) -> Tensor:
    parts = [torch.empty_like(own) for _ in range(dist.get_world_size())]
    dist.all_gather(parts, own.detach())
    if put_back:
        parts[dist.get_rank()] = own
    return torch.cat(parts)


def compare() -> None:
    """One rank: what each line of the page's table trains, against the gradient of one process."""
    rank, world = dist.get_rank(), dist.get_world_size()
    torch.manual_seed(0)
    page = run("docs/faq.md")
    torch.manual_seed(0)
    weight = torch.randn(SIZE, 8, requires_grad=True)
    every_x = torch.randn(PAIRS, SIZE)
    every_y = every_x + 0.5 * torch.randn(PAIRS, SIZE)
    loss, positives = contrastile.clip_loss, torch.arange(PAIRS).chunk(world)[rank]
    everything = loss(*(encoded(e, weight) for e in (every_x, every_y)), temperature=TEMPERATURE)
    (truth,) = torch.autograd.grad(everything, weight)
    x, y = (encoded(e.chunk(world)[rank], weight) for e in (every_x, every_y))

    def off(own: Tensor, factor: float = 1.0) -> float:
        return float((averaged(own, weight) - factor * truth).norm() / truth.norm())

    assert off(page["loss_of_all"](x, y, TEMPERATURE)) < 1e-5
    assert off(page["own_rows_of_it"](x, y, TEMPERATURE)) < 1e-5
    shared = loss(*(without_gradient(e) for e in (x, y)), temperature=TEMPERATURE)
    assert off(shared, factor=1 / world) < 1e-5
    nothing = loss(*(without_gradient(e, put_back=False) for e in (x, y)), temperature=TEMPERATURE)
    assert not nothing.requires_grad
    sides = ((x, without_gradient(y)), (y, without_gradient(x)))
    rows = [
        contrastile.info_nce(*side, positives=positives, temperature=TEMPERATURE) for side in sides
    ]
    assert 0.2 < off((rows[0] + rows[1]) / 2) < 0.26
    assert off(loss(x, y, temperature=TEMPERATURE)) > 0.3


def test_several_processes_train_what_the_page_says() -> None:
    processes = Processes(2)
    try:
        processes.run(compare)
    finally:
        processes.stop()
