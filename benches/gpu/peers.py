"""The section ``peers``: other libraries on our tasks, installed or carried along as wheels."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import replace
from functools import partial
from importlib.util import find_spec

import torch
from contrastile.losses.inputs import Inputs
from contrastile.verify import errors_of, evaluate

from ..check import TOLERANCE
from ..naive import NAIVE, LossFunction
from ..timing import median_ms
from .peer_calls import PEERS, Peer
from .record import PASS, Outcome, Row
from .settings import SCALE, Settings
from .speed import OURS, Timed, inputs_of, loss_of
from .wheels import unpacked

CASES = (
    ("clip_loss", 32768, 512),
    ("siglip_loss", 32768, 512),
    ("clip_loss", 8192, 512),
    ("clip_loss", 32768, 1024),
)
# Rows of a check: few enough for fp64, and a multiple of the tiles that all of them have.
CHECKED = 1024
SECONDS = 0.2


def peers_section(
    settings: Settings, cases: Sequence[tuple[str, int, int]] = CASES, peers: Sequence[Peer] = PEERS
) -> Outcome:
    """Milliseconds of a training step beside ours, of those whose results are right."""
    with unpacked(settings.wheels):
        here = [peer for peer in peers if find_spec(peer.module)]
        absent = [peer.name for peer in peers if peer not in here]
        numbers: Row = {"not here": ", ".join(absent)} if absent else {}
        if not here:
            return Outcome.skip(f"none is installed or among the wheels: {numbers['not here']}")
        for case in cases:
            numbers |= dict(compare(case, here, settings))
    return Outcome(PASS, numbers)


def compare(
    case: tuple[str, int, int], peers: Sequence[Peer], settings: Settings
) -> Iterator[tuple[str, float | str]]:
    """Each peer with its time over ours, or with why it was not timed."""
    cell = Timed(case[0], OURS, *case[1:], dtype="bf16" if settings.on_gpu else "fp32")
    own = settings.cell(cell.name, partial(timed, loss_of(cell, settings.backend), cell, settings))
    for peer in peers:
        if cell.loss not in peer.losses or cell.n > peer.most:
            continue
        task = partial(examine, peer, cell, settings)
        row = settings.cell(replace(cell, provider=peer.name).name, task)
        if row is None:
            continue
        if "error" in row or own is None or "error" in own:
            yield f"{peer.name}, {cell}", row.get("error", "ours was not timed")
        else:
            yield f"{peer.name}, {cell}, x ours", row["ms"] / own["ms"]


def examine(peer: Peer, cell: Timed, settings: Settings) -> Row:
    """Checked at the size of a check, then timed at its own.

    Raises:
        ArithmeticError: it is not right; that is no fault of ours, and no time of its.
    """
    loss = peer.losses[cell.loss]()
    errors = check(loss, peer, replace(cell, n=min(cell.n, CHECKED)), settings.device)
    limit = TOLERANCE[cell.dtype]
    # Written so that a NaN is wrong.
    wrong = [
        f"{what} is off by {error:.2g}" for what, error in errors.items() if not error <= limit
    ]
    if wrong:
        raise ArithmeticError(f"{'; '.join(wrong)} (limit {limit:g}): not timed")
    return {"errors": errors, **timed(loss, cell, settings, peer)}


def timed(loss: LossFunction, cell: Timed, settings: Settings, peer: Peer | None = None) -> Row:
    inputs = given(cell, settings.device, peer)
    value, _ = evaluate(loss, inputs)
    ms = median_ms(lambda: evaluate(loss, inputs), settings.device, SECONDS)
    return {"loss": float(value), "ms": ms}


def check(loss: LossFunction, peer: Peer, cell: Timed, device: torch.device) -> dict[str, float]:
    """Relative errors of the loss and of each gradient against the formula in fp64."""
    inputs = given(cell, device, peer)
    return errors_of(evaluate(loss, inputs), evaluate(NAIVE[cell.loss], inputs.double()))


def given(cell: Timed, device: torch.device, peer: Peer | None) -> Inputs:
    """What ours gets; of a peer that cannot learn it the scale is a number."""
    inputs = inputs_of(cell, device)
    if peer is None or peer.learns_scale:
        return inputs
    return replace(inputs, scale=SCALE)
