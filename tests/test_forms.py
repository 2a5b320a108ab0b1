"""The two forms of the Triton backend's shift, and which of them the device settles on."""

from __future__ import annotations

import contrastile.functional as losses
import oracles
import pytest
import torch
from cases import arguments_for, default_choice
from contrastile.backends.gpu import forms
from contrastile.backends.gpu.memory import Memory
from contrastile.backends.triton.kernels import TritonKernels
from contrastile.ops import log_sum_exp
from contrastile.problem import Channel, Equal
from helpers import assert_results_close, evaluate
from selected import rest_in_gates

pytestmark = pytest.mark.usefixtures("poisoned_empty")
TRITON = {"backend": "triton"}


@pytest.fixture
def large(monkeypatch: pytest.MonkeyPatch) -> None:
    """As of a large problem: both forms are launched, the device settles on one."""
    monkeypatch.setattr(forms, "SMALL", 0)


@pytest.fixture(params=rest_in_gates(["fixed", "general", "general only"], ["fixed", "general"]))
def form(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> str:
    """Either form, whatever the device would have settled on."""
    if request.param != "general only":
        monkeypatch.setattr(forms, "SMALL", 0)
    if request.param == "general":
        certify = TritonKernels.certify

        def fail(self: TritonKernels, memory: Memory) -> None:
            certify(self, memory)
            memory.flag.fill_(1)

        monkeypatch.setattr(TritonKernels, "certify", fail)
    return request.param


@pytest.mark.parametrize("workspace", [None, 6000], ids=["one strip", "strips"])
@pytest.mark.parametrize(
    "loss",
    rest_in_gates(
        ["clip_loss", "info_nce", "nt_xent", "multi_positive_nce"], ["clip_loss", "nt_xent"]
    ),
)
def test_both_forms(loss: str, workspace: int | None, form: str) -> None:
    choice = default_choice(loss, shape=(37, 20), scale="logit_scale tensor", ids="few")
    arguments = arguments_for(loss, choice)
    got = evaluate(getattr(losses, loss), arguments, workspace=workspace, **TRITON)
    assert_results_close(got, evaluate(getattr(oracles, loss), arguments))


@pytest.fixture
def settled(large: None, monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """What the device settled on, call by call: 0 is the fixed shift."""
    flags: list[int] = []
    certify = TritonKernels.certify

    def recorded(self: TritonKernels, memory: Memory) -> None:
        certify(self, memory)
        flags.append(int(memory.flag))

    monkeypatch.setattr(TritonKernels, "certify", recorded)
    return flags


@pytest.mark.parametrize("scale", [1.0, 20.0, 100.0])
def test_fixed_shift_serves_normalised_embeddings(scale: float, settled: list[int]) -> None:
    x, y = (torch.nn.functional.normalize(torch.randn(40, 24), dim=1) for _ in range(2))
    loss = losses.clip_loss(x, y, logit_scale=scale, **TRITON)
    assert settled == [0]
    expected = oracles.clip_loss(x.double(), y.double(), logit_scale=scale)
    assert torch.allclose(loss.double(), expected, rtol=1e-5)


@pytest.mark.parametrize("scale", [1e3, 1e6, 1e18])
def test_general_form_takes_over(scale: float, settled: list[int]) -> None:
    """Rows far below the largest score would vanish under one shift for all."""
    x, y = torch.randn(40, 24, dtype=torch.float64), torch.randn(40, 24, dtype=torch.float64)
    x[::2] *= 1e-3
    got = log_sum_exp(x, y, scale=scale, columns=True, **TRITON)
    assert settled == [1]
    exact = scale * (x @ y.T)
    assert torch.allclose(got.rows[0], exact.logsumexp(1))
    assert torch.allclose(got.columns[0], exact.logsumexp(0))


def test_rows_without_a_pair_do_not_call_the_general_form(settled: list[int]) -> None:
    """At a scale where sums are certified: a class of one has a sum of 0."""
    x = torch.nn.functional.normalize(torch.randn(24, 16), dim=1)
    ids = torch.arange(24) // 2
    ids[-1] = 99
    y = torch.nn.functional.normalize(x + 0.1 * torch.randn(24, 16), dim=1)
    options = {"logit_scale": 100.0}
    loss = losses.multi_positive_nce(x, y, ids, torch.arange(24) // 2, **options, **TRITON)
    assert set(settled) == {0}
    exact = oracles.multi_positive_nce(
        x.double(), y.double(), ids, torch.arange(24) // 2, **options
    )
    assert torch.allclose(loss.double(), exact, rtol=1e-5)


def test_powers_that_vanish_are_noticed_beside_empty_rows(settled: list[int]) -> None:
    """The smallest normal number in place of what vanished is no sum to trust."""
    x = torch.zeros(20, 8)
    x[:, 0] = 1.0
    y = x.clone()
    y[10:] *= -1
    pairs = Equal(torch.arange(20) // 10, torch.arange(20) // 10)
    channels = [Channel(pairs)]
    lse = log_sum_exp(x, y, scale=150.0, channels=channels, **TRITON).rows[0]
    assert settled == [1]
    exact = log_sum_exp(
        x.double(), y.double(), scale=150.0, channels=channels, backend="reference"
    ).rows[0]
    assert torch.allclose(lse.double(), exact, rtol=1e-6)


def test_fp64_keeps_small_powers_beside_empty_rows(settled: list[int]) -> None:
    """A sum 93 bits below the shift, beside what would vanish in fp32, but not in fp64."""
    x, y = torch.zeros(6, 4, dtype=torch.float64), torch.zeros(30, 4, dtype=torch.float64)
    x[:, 0], y[:, 0], y[0, 0] = 1.0, -1.0, 0.33
    labels = torch.zeros(6, dtype=torch.int64), torch.zeros(30, dtype=torch.int64)
    lse = log_sum_exp(x, y, scale=200.0, channels=[Channel(Equal(*labels))], **TRITON).rows[0]
    assert settled == [0]
    assert torch.allclose(lse, (200.0 * x @ y.T).logsumexp(1), rtol=1e-14, atol=0.0)


def test_a_row_that_is_no_number_stays_alone(settled: list[int]) -> None:
    x, y = torch.randn(20, 8), torch.randn(20, 8)
    x[3, 2] = torch.nan
    lse = log_sum_exp(x, y, **TRITON).rows[0]
    assert settled == [1]
    assert lse.isnan().nonzero().flatten().tolist() == [3]
