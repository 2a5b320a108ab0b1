"""The GPU check's comparison with other libraries: wheels of stand-ins, called as the real ones."""

from __future__ import annotations

import sys
import zipfile
from collections.abc import Iterator
from pathlib import Path

import pytest
import torch
from contrastile.benches.gpu import cli, peers
from contrastile.benches.gpu.peer_calls import PEERS, Peer
from contrastile.benches.gpu.peers import peers_section
from contrastile.benches.gpu.record import PASS, SKIPPED, Outcome, Row
from contrastile.benches.gpu.settings import Settings
from contrastile.benches.gpu.speed import OURS

COMMON = """
import torch
from torch.nn.functional import cross_entropy, logsigmoid

FACTOR = 1.0

def softmax(scores):
    return FACTOR * cross_entropy(scores, torch.arange(len(scores)), reduction="none")
"""
# What each takes and returns, as the sources have it of memeff 0.3.1, siglip-kernel 0.1.2, inf-cl
# 1.2.1, liger-kernel 0.8.5, late-interaction-kernels 0.4.5; the others as their documentation.
CODE = {
    "memeff/__init__.py": """
class MemoryEfficientCLIPLoss:
    def __init__(self, temperature=0.07, normalized_inputs=False, stable=True):
        assert normalized_inputs and not stable and isinstance(temperature, float)
        self.temperature = temperature

    def __call__(self, image_features, text_features):
        scores = image_features @ text_features.T / self.temperature
        return (softmax(scores).mean() + softmax(scores.T).mean()) / 2
""",
    "siglip_kernel/__init__.py": """
def fused_siglip_loss(img_features, txt_features, log_temperature, bias):
    scores = img_features @ txt_features.T * log_temperature.exp() + bias
    signs = 2 * torch.eye(len(scores)) - 1
    return -FACTOR * logsigmoid(signs * scores).sum() / len(scores)
""",
    "inf_cl/__init__.py": """
def cal_flash_loss(q, k, labels=None, scale=None, head_dim=256):
    assert q.shape[1] % head_dim == 0
    return softmax(scale * q @ k.T)
""",
    "liger_kernel/transformers/fused_linear_cross_entropy.py": """
class LigerFusedLinearCrossEntropyLoss:
    def __call__(self, lin_weight, _input, target, bias=None):
        return softmax(_input @ lin_weight.T).mean()
""",
    "late_interaction_kernels/__init__.py": """
def maxsim(Q, D, q_mask=None, d_mask=None, *, normalize=False, backward=None):
    return FACTOR * torch.einsum("qsd,ntd->qnst", Q, D).amax(3).sum(2)
""",
    "open_clip/loss.py": """
class ClipLoss:
    def __call__(self, image_features, text_features, logit_scale):
        scores = logit_scale * image_features @ text_features.T
        return (softmax(scores).mean() + softmax(scores.T).mean()) / 2

class SigLipLoss:
    def __call__(self, image_features, text_features, logit_scale, logit_bias):
        scores = logit_scale * image_features @ text_features.T + logit_bias
        signs = 2 * torch.eye(len(scores)) - 1
        return -FACTOR * logsigmoid(signs * scores).sum() / len(scores)
""",
    "cut_cross_entropy/__init__.py": """
def linear_cross_entropy(e, c, targets):
    return softmax(e @ c.T).mean()
""",
}
CASES = (("clip_loss", 40, 8), ("siglip_loss", 24, 8))


@pytest.fixture
def rows() -> list[Row]:
    return []


@pytest.fixture(autouse=True)
def at_once(monkeypatch: pytest.MonkeyPatch) -> None:
    """Few repeats."""
    monkeypatch.setattr(peers, "SECONDS", 0.0)


@pytest.fixture
def forgotten() -> Iterator[None]:
    yield
    for name in list(sys.modules):
        if name.split(".")[0] in {peer.module for peer in PEERS}:
            del sys.modules[name]


def wheels(folder: Path, factor: float = 1.0, without: str = "-") -> Path:
    common = COMMON.replace("FACTOR = 1.0", f"FACTOR = {factor}")
    for path, code in CODE.items():
        name = path.split("/")[0]
        if name != without:
            with zipfile.ZipFile(folder / f"{name}-1.0-py3-none-any.whl", "w") as archive:
                archive.writestr(path, common + code)
    return folder


def compare(rows: list[Row], folder: Path | None) -> Outcome:
    settings = Settings(torch.device("cpu"), "cpu", wheels=folder, row=rows.append)
    return peers_section(settings, CASES, PEERS)


@pytest.mark.usefixtures("forgotten")
def test_every_peer_is_checked_and_timed(rows: list[Row], tmp_path: Path) -> None:
    before = list(sys.path)
    outcome = compare(rows, wheels(tmp_path))
    assert outcome.verdict == PASS and sys.path == before
    assert not [row for row in rows if "error" in row]
    assert {row["cell"].split(", ")[1] for row in rows} == {OURS, *(peer.name for peer in PEERS)}
    for row in rows:
        (ours,) = (
            other
            for other in rows
            if other["cell"].split(",")[0] == row["cell"].split(",")[0] and OURS in other["cell"]
        )
        assert row["loss"] == pytest.approx(ours["loss"], rel=1e-5) and row["ms"] > 0
        # The gradients of both sides, and of what it learns.
        learnt = {"scale", "bias"} if "siglip" in row["cell"] else {"scale"}
        learnt = set() if "memeff" in row["cell"] else learnt
        if "errors" in row:
            leaves = {"embedding 0", "embedding 1", *learnt}
            assert set(row["errors"]) == {"loss", *(f"gradient of {leaf}" for leaf in leaves)}
    assert outcome.numbers["memeff, clip_loss 40 x 8, x ours"] > 0


@pytest.mark.usefixtures("forgotten")
def test_a_peer_that_is_wrong_is_not_timed(rows: list[Row], tmp_path: Path) -> None:
    outcome = compare(rows, wheels(tmp_path, factor=1.01))
    assert outcome.verdict == PASS
    theirs = [row for row in rows if OURS not in row["cell"]]
    assert all("loss is off by" in row["error"] and "ms" not in row for row in theirs)
    assert "not timed" in outcome.numbers["inf-cl, clip_loss 40 x 8"]


@pytest.mark.usefixtures("forgotten")
def test_a_peer_that_is_not_there_is_a_line(rows: list[Row], tmp_path: Path) -> None:
    outcome = compare(rows, wheels(tmp_path, without="inf_cl"))
    assert outcome.verdict == PASS and outcome.numbers["not here"] == "inf-cl"
    assert not [row for row in rows if "inf-cl" in row["cell"]]


def test_without_any_nothing_is_compared(rows: list[Row], tmp_path: Path) -> None:
    for folder in (None, tmp_path):
        outcome = compare(rows, folder)
        assert outcome.verdict == SKIPPED and "memeff" in str(outcome.reason) and not rows


def test_a_peer_that_cannot_says_so(rows: list[Row]) -> None:
    def build() -> None:
        raise ImportError("needs another package")

    peer = Peer("made-up", "json", {"clip_loss": build})
    settings = Settings(torch.device("cpu"), "cpu", row=rows.append)
    outcome = peers_section(settings, CASES[:1], [peer])
    assert outcome.verdict == PASS
    assert outcome.numbers == {"made-up, clip_loss 40 x 8": "ImportError: needs another package"}
    assert rows[1]["error"] == "ImportError: needs another package"


def test_what_travels_to_the_process_that_computes(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    seen: list[list[str]] = []
    monkeypatch.setattr(cli, "supervise", lambda steps, folder, given, *_, **__: seen.append(given))
    out = ["--out", str(tmp_path / "out"), "--sections", "peers"]
    assert cli.main([*out, "--wheels", str(tmp_path)]) == 1
    assert cli.parser().parse_args(seen[0]).wheels == tmp_path.resolve()
    with pytest.raises(SystemExit):
        cli.main([*out, "--wheels", str(tmp_path / "absent")])
