"""Other libraries' contrastive losses over ranks, in each of their ways to gather."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import partial
from importlib import import_module
from importlib.util import find_spec

from torch import Tensor

from .losses.inputs import Inputs


@dataclass(frozen=True)
class Mode:
    """A library's loss as one of its options makes it.

    Attributes:
        library: its name and the loss.
        name: the options.
        loss: the name of the loss of ours that it stands for.
        compute: the loss of a rank's own rows.
    """

    library: str
    name: str
    loss: str
    compute: Callable[[Inputs], Tensor]


def modes(rank: int, world: int) -> tuple[list[Mode], list[str]]:
    """Those of the libraries that are installed; and why one that is cannot be imported."""
    found: list[Mode] = []
    reasons = []
    for package, of_library in LIBRARIES.items():
        if find_spec(package) is None:
            continue
        try:
            found += of_library(rank, world)
        except (ImportError, RuntimeError) as error:
            # Extensions that were built for another torch raise the second.
            reasons.append(f"{package} cannot be imported: {error}")
    return found, reasons


def _open_clip(rank: int, world: int) -> Iterator[Mode]:
    losses = import_module("open_clip.loss")

    def clip(inputs: Inputs, local: bool, grad: bool) -> Tensor:
        loss = losses.ClipLoss(local_loss=local, gather_with_grad=grad, rank=rank, world_size=world)
        value: Tensor = loss(*inputs.embeddings, inputs.scale)
        return value

    def siglip(inputs: Inputs, exchange: str) -> Tensor:
        loss = losses.SigLipLoss(rank=rank, world_size=world, dist_impl=exchange)
        value: Tensor = loss(*inputs.embeddings, inputs.scale, inputs.bias)
        return value

    for local in (False, True):
        for grad in (False, True):
            name = f"{'local_loss ' if local else ''}{'gather_with_grad' if grad else ''}"
            compute = partial(clip, local=local, grad=grad)
            yield Mode("open_clip ClipLoss", name.strip() or "(default)", "clip_loss", compute)
    for exchange in ("bidir", "shift", "reduce", "gather"):
        compute = partial(siglip, exchange=exchange)
        yield Mode("open_clip SigLipLoss", exchange, "siglip_loss", compute)


def _lightly(rank: int, world: int) -> Iterator[Mode]:
    losses = import_module("lightly.loss")

    def of(kind: type, inputs: Inputs, gather: bool) -> Tensor:
        loss = kind(temperature=1 / float(inputs.scale), gather_distributed=gather)
        value: Tensor = loss(*inputs.embeddings)
        # It takes a number; ours is learned here, and has a gradient to be compared.
        return value + 0.0 * inputs.scale

    for kind, ours in ((losses.NTXentLoss, "nt_xent"), (losses.DCLLoss, "dcl_loss")):
        for gather in (False, True):
            compute = partial(of, kind, gather=gather)
            yield Mode(f"lightly {kind.__name__}", f"gather_distributed={gather}", ours, compute)


def _sentence_transformers(rank: int, world: int) -> Iterator[Mode]:
    losses = import_module("sentence_transformers.losses")

    def of(inputs: Inputs, gather: bool) -> Tensor:
        loss = losses.MultipleNegativesRankingLoss(
            None, scale=float(inputs.scale), gather_across_devices=gather
        )
        value: Tensor = loss.compute_loss_from_embeddings(list(inputs.embeddings), None)
        return value + 0.0 * inputs.scale

    for gather in (False, True):
        yield Mode(
            "sentence-transformers MNRL",
            f"gather_across_devices={gather}",
            "info_nce",
            partial(of, gather=gather),
        )


LIBRARIES: dict[str, Callable[[int, int], Iterator[Mode]]] = {
    "open_clip": _open_clip,
    "lightly": _lightly,
    "sentence_transformers": _sentence_transformers,
}
