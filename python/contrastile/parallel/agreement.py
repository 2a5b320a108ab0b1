"""What all ranks must have in common, compared before anything is exchanged.

A collective that ranks enter with different shapes hangs or returns memory that nobody wrote. So
the first exchange of a call is a short row of numbers, of a length that nothing changes: whether a
rank failed, a fingerprint of all that must be equal, and how many rows it has of each argument.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from hashlib import blake2b

import torch

from ..problem.checks import InputError
from .collectives import Collectives

# Arguments whose rows may be counted; the losses have at most nine tensors.
COUNTS = 12


def agree(
    caller: str, collectives: Collectives, facts: Mapping[str, str], counts: Sequence[int]
) -> list[list[int]]:
    """The counts of every rank.

    Raises:
        InputError: facts differ, or a rank failed before; the same on all ranks.
    """
    text = json.dumps(dict(facts))
    print_ = int.from_bytes(blake2b(text.encode(), digest_size=7).digest(), "big")
    padded = [*counts, *([0] * (COUNTS - len(counts)))]
    table = _table(collectives, [0, print_, *padded])
    if any(row[0] for row in table):
        raise _failed(caller, collectives, "")
    if any(row[1] != print_ for row in table):
        raise _different(caller, [json.loads(own) for own in collectives.texts(text)])
    return [row[2 : 2 + len(counts)] for row in table]


def tell_failure(collectives: Collectives, error: Exception) -> None:
    """Take part in the agreement that all other ranks are in, as one that failed."""
    _table(collectives, [1, 0, *([0] * COUNTS)])
    collectives.texts(str(error) or type(error).__name__)


def check_everywhere(caller: str, collectives: Collectives, fault: str | None) -> None:
    """Raise on all ranks if one has a fault that only its values show.

    Raises:
        InputError: naming the ranks and their faults.
    """
    faults = _table(collectives, [int(fault is not None)])
    if any(row[0] for row in faults):
        raise _failed(caller, collectives, fault or "")


def _table(collectives: Collectives, own: list[int]) -> list[list[int]]:
    numbers = torch.tensor([own], dtype=torch.int64, device=collectives.host_device)
    table: list[list[int]] = collectives.gather(numbers, [1] * collectives.size).tolist()
    return table


def _failed(caller: str, collectives: Collectives, own: str) -> InputError:
    texts = collectives.texts(own)
    told = "; ".join(f"rank {rank}: {text}" for rank, text in enumerate(texts) if text)
    return InputError(f"{caller}: not all ranks of the group can go on; {told}")


def _different(caller: str, facts: Sequence[Mapping[str, str]]) -> InputError:
    names = list(dict.fromkeys(name for own in facts for name in own))
    told = []
    for name in names:
        values = [own.get(name, "nothing") for own in facts]
        if len(set(values)) > 1:
            given = ", ".join(f"rank {rank} {value}" for rank, value in enumerate(values))
            told.append(f"{name} ({given})")
    return InputError(
        f"{caller}: all ranks of the group must agree on everything but the number of rows; "
        f"they differ in {'; '.join(told)}"
    )
