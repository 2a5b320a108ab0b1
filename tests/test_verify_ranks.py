"""``contrastile verify --world``: what it prints, and that it notices a loss that is wrong."""

from __future__ import annotations

import pytest
from contrastile import verify_libraries, verify_ranks
from contrastile.cli import main
from contrastile.losses.registry import LOSSES
from processes import Processes
from rank_cases import spoilt_check


def test_every_loss_is_right_over_two_ranks(capfd: pytest.CaptureFixture[str]) -> None:
    assert main(["verify", "--world", "2"]) == 0
    lines = capfd.readouterr().out.splitlines()
    ours = [line.split()[1] for line in lines if line.strip().startswith("contrastile ")]
    # In two dtypes, gathered and, where keys pass by, in a ring.
    times = {name: 4 if entry.passes else 2 for name, entry in LOSSES.items()}
    assert ours == [name for name, count in times.items() for _ in range(count)]
    assert all(line.endswith("ok") for line in lines if line.strip().startswith("contrastile "))
    assert f"{len(ours)} of {len(ours)} over 2 ranks agree with one process in fp64" in lines


@pytest.mark.parametrize("world", ["0", "5", "128"])
def test_numbers_of_ranks_that_do_not_divide_the_rows(
    world: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["verify", "--world", world]) == 2
    assert f"--world must divide 96, up to 64, got {world}" in capsys.readouterr().err


def test_a_loss_that_is_wrong_is_told() -> None:
    processes = Processes(2)
    try:
        assert processes.run(spoilt_check) == [False, False]
    finally:
        processes.stop()


@pytest.mark.parametrize("world", range(1, 7))
def test_shards_are_uneven_and_complete(world: int) -> None:
    share = verify_ranks.uneven(96, world)
    assert share.total == 96 and len(share.sizes) == world
    assert world == 1 or len(set(share.sizes)) > 1
    assert (0 in share.sizes) == (world > 2)


def test_a_library_that_cannot_be_imported_is_told(monkeypatch: pytest.MonkeyPatch) -> None:
    def of_library(rank: int, world: int) -> None:
        raise RuntimeError("built for another torch")

    monkeypatch.setattr(verify_libraries, "LIBRARIES", {"torch": of_library, "absent_one": None})
    found = verify_libraries.modes(0, 1)
    assert found == ([], ["torch cannot be imported: built for another torch"])
