"""The GPU check's comparison with other libraries: a wheel of one that is made up."""

from __future__ import annotations

import sys
import zipfile
from collections.abc import Iterator
from pathlib import Path

import pytest
import torch
from contrastile.benches.gpu import cli, peers
from contrastile.benches.gpu.peers import peers_section
from contrastile.benches.gpu.record import PASS, SKIPPED, Row
from contrastile.benches.gpu.settings import Settings

NAME = "made_up_peer"
CODE = """
import torch
from torch.nn.functional import cross_entropy

def loss(inputs):
    x, y = inputs.embeddings
    logits = inputs.scale * x @ y.T
    target = torch.arange(len(x))
    return FACTOR * (cross_entropy(logits, target) + cross_entropy(logits.T, target)) / 2
"""


@pytest.fixture
def rows() -> list[Row]:
    return []


def wheel(folder: Path, factor: float) -> Path:
    with zipfile.ZipFile(folder / f"{NAME}-1.0-py3-none-any.whl", "w") as archive:
        archive.writestr(f"{NAME}/__init__.py", f"FACTOR = {factor}\n{CODE}")
        archive.writestr(f"{NAME}-1.0.dist-info/METADATA", f"Name: {NAME}\nVersion: 1.0\n")
    return folder


def settings(rows: list[Row], wheels: Path | None) -> Settings:
    return Settings(torch.device("cpu"), "cpu", wheels=wheels, row=rows.append)


@pytest.fixture
def made_up(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    def build() -> peers.LossFunction:
        return peers.import_module(NAME).loss

    monkeypatch.setattr(peers, "PEERS", {NAME: build})
    yield
    sys.modules.pop(NAME, None)


@pytest.mark.usefixtures("made_up")
@pytest.mark.parametrize("factor", [1.0, 1.25])
def test_a_peer_of_a_wheel(factor: float, rows: list[Row], tmp_path: Path) -> None:
    before = list(sys.path)
    outcome = peers_section(settings(rows, wheel(tmp_path, factor)), sizes=((40, 8), (24, 8)))
    assert outcome.verdict == PASS and sys.path == before
    ours, theirs = rows[0], rows[1]
    assert theirs["loss"] == pytest.approx(factor * ours["loss"], rel=1e-5)
    assert theirs["difference"] == pytest.approx(factor - 1, abs=1e-5)
    largest = max(row["difference"] for row in rows if row["peer"] == NAME)
    assert outcome.numbers[f"{NAME}: largest difference"] == largest
    assert outcome.numbers[f"{NAME} 24 x 8, x ours"] > 0


@pytest.mark.usefixtures("made_up")
def test_without_a_wheel_of_it_nothing_is_compared(rows: list[Row], tmp_path: Path) -> None:
    for folder in (None, tmp_path):
        outcome = peers_section(settings(rows, folder))
        assert outcome.verdict == SKIPPED and NAME in str(outcome.reason)


@pytest.mark.usefixtures("made_up")
def test_a_peer_that_cannot_says_so(
    rows: list[Row], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def build() -> peers.LossFunction:
        raise ImportError("needs another package")

    monkeypatch.setitem(peers.PEERS, NAME, build)
    outcome = peers_section(settings(rows, wheel(tmp_path, 1.0)), sizes=((24, 8),))
    assert outcome.verdict == PASS
    assert outcome.numbers == {f"{NAME} 24 x 8": "ImportError: needs another package"}
    assert rows[1]["error"] == "ImportError: needs another package"


def test_the_folder_travels_to_the_process_that_computes(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    seen: list[list[str]] = []
    monkeypatch.setattr(cli, "supervise", lambda names, of, folder, given, *_: seen.append(given))
    out = ["--out", str(tmp_path / "out"), "--sections", "peers"]
    assert cli.main([*out, "--wheels", str(tmp_path)]) == 1
    assert cli.parser().parse_args(seen[0]).wheels == tmp_path.resolve()
    with pytest.raises(SystemExit):
        cli.main([*out, "--wheels", str(tmp_path / "absent")])
