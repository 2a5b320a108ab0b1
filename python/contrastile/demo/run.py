"""The demo from start to end."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from functools import partial

import torch
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn
from torch import Tensor

from .data import Glyphs, load_glyphs
from .figure import draw
from .interrupt import Interrupt
from .memory import batch_sizes, peak_bytes
from .model import ImageTextModel
from .objectives import OBJECTIVES, LossFunction
from .options import DemoOptions
from .ranks import Rank, first_rank
from .report import show
from .results import Results, Sample, Side
from .train import Trainer, recall

INTERRUPTED = 130
RECALLS = (1, 10)
SHOWN = "&Ж∞Ωß♞۩☂ѬƵ≠♫Ǽ☯ΞЊ"
SAMPLES = 8

Peaks = dict[str, dict[int, int]]


def run(options: DemoOptions) -> int:
    """Trains, prints a table, and writes ``demo.png`` and ``results.json``; 130 after Ctrl-C."""
    console = Console()
    options.out.mkdir(parents=True, exist_ok=True)
    with Interrupt() as interrupt:
        with console.status("Drawing glyphs"):
            glyphs = load_glyphs().to(options.device)
        console.print(_introduction(options, glyphs))
        with _progress(console) as progress:
            peaks = _measure_memory(options, interrupt, progress)
            with first_rank(options.ranks, partial(follow, options)) as rank:
                trainers = _train(options, rank, glyphs, interrupt, progress)
        results = _results(options, glyphs, trainers, peaks, interrupt.requested)
        results.write(options.out / "results.json")
        draw(results, glyphs, options.out / "demo.png")
    show(results, console)
    return INTERRUPTED if results.interrupted else 0


def follow(options: DemoOptions, rank: Rank) -> None:
    """What every rank does but the first: Contrastile's side, as long as the first goes on."""
    glyphs = load_glyphs()
    (trainer,) = _trainers(replace(options, dense=False), rank, glyphs).values()
    batches = glyphs.batches(options.compared, options.seed)
    for _ in range(options.steps):
        if not rank.goes_on():
            break
        trainer.step(*rank.part(*next(batches)))


def _losses(options: DemoOptions, group: object = None) -> dict[str, LossFunction]:
    objective = OBJECTIVES[options.loss]
    dense = {"dense": objective.dense} if options.dense else {}
    return {**dense, "contrastile": objective.contrastile(options.backend, group)}


def _introduction(options: DemoOptions, glyphs: Glyphs) -> str:
    return (
        f"Learning the names of {len(glyphs.characters):,} glyphs with {options.loss}, "
        f"{options.batches}{', with two losses from one seed' if options.dense else ''}. "
        "Ctrl-C ends it early."
    )


def _progress(console: Console) -> Progress:
    return Progress(
        TextColumn("{task.description:<9}"),
        BarColumn(),
        MofNCompleteColumn(),
        TimeRemainingColumn(),
        TextColumn("{task.fields[news]}"),
        console=console,
    )


def _measure_memory(options: DemoOptions, interrupt: Interrupt, progress: Progress) -> Peaks:
    losses, sizes = _losses(options), batch_sizes(options.compared)
    peaks: Peaks = {name: {} for name in losses}
    task = progress.add_task("Memory", total=len(sizes), news="")
    for size in sizes:
        if interrupt.requested:
            break
        for name, loss in losses.items():
            peaks[name][size] = peak_bytes(loss, size, options.device)
        progress.update(task, advance=1, news=f"batch {size}")
    return peaks


def _train(
    options: DemoOptions, rank: Rank, glyphs: Glyphs, interrupt: Interrupt, progress: Progress
) -> dict[str, Trainer]:
    """Trains step by step in turn: the curves are as long as each other whenever it ends."""
    trainers = _trainers(options, rank, glyphs)
    batches = glyphs.batches(options.compared, options.seed)
    task = progress.add_task("Training", total=options.steps, news="")
    for _ in range(options.steps):
        if not rank.goes_on(not interrupt.requested):
            break
        batch = next(batches)
        for name, trainer in trainers.items():
            trainer.step(*(rank.part(*batch) if name == "contrastile" else batch))
        progress.update(task, advance=1, news=_news(list(trainers.values())))
    return trainers


def _trainers(options: DemoOptions, rank: Rank, glyphs: Glyphs) -> dict[str, Trainer]:
    """One of each side, with the same model; the dense one is the first rank's alone."""
    model, rate = _model(options, glyphs), OBJECTIVES[options.loss].learning_rate
    groups = {"dense": None, "contrastile": rank.group}
    return {
        name: Trainer(model, loss, rate, options.steps, options.sub_batch, groups[name])
        for name, loss in _losses(options, rank.group).items()
    }


def _model(options: DemoOptions, glyphs: Glyphs) -> ImageTextModel:
    objective = OBJECTIVES[options.loss]
    with torch.random.fork_rng():
        torch.manual_seed(options.seed)
        model = ImageTextModel(glyphs.vocabulary, objective.scale, objective.bias)
    return model.to(glyphs.words.device)


def _news(trainers: Sequence[Trainer]) -> str:
    last = [trainer.losses[-1] for trainer in trainers]
    return f"loss {last[-1]:.3f}" + (f", apart {abs(last[0] - last[-1]):.0e}" if last[1:] else "")


def _results(
    options: DemoOptions,
    glyphs: Glyphs,
    trainers: dict[str, Trainer],
    peaks: Peaks,
    interrupted: bool,
) -> Results:
    trained = {
        name: trainer.retrieve(glyphs) for name, trainer in trainers.items() if trainer.losses
    }
    sides = {
        name: Side(
            losses=trainer.losses,
            loss_seconds=trainer.loss_seconds,
            seconds=trainer.seconds,
            recall={k: recall(trained[name], k) for k in RECALLS if name in trained},
            peak_bytes=peaks[name],
        )
        for name, trainer in trainers.items()
    }
    samples = _samples(glyphs, trained["contrastile"]) if trained else []
    return Results(options, len(glyphs.characters), interrupted, sides, samples)


def _samples(glyphs: Glyphs, nearest: Tensor) -> list[Sample]:
    names = glyphs.names
    shown = [glyphs.characters.index(c) for c in SHOWN if c in glyphs.characters][:SAMPLES]
    return [Sample(glyphs.characters[i], names[i], names[int(nearest[i, 0])]) for i in shown]
