"""The CUDA backend's own promises, its real kernels on an emulated machine."""

from __future__ import annotations

from collections.abc import Iterator
from types import ModuleType, SimpleNamespace
from typing import Any

import contrastile.functional as losses
import emulated
import pytest
import torch
from cases import LOSSES, Choice, arguments_for, covering_choices, default_choice
from contrastile.backends.cuda import CudaBackend, backend, kernels, sums
from contrastile.backends.cuda import machine as machines
from contrastile.backends.cuda.machine import Machine, why_not_compiled, why_not_driven
from contrastile.backends.gpu import forms as gpu_forms
from contrastile.ops import log_sum_exp, pair_sum
from contrastile.problem import Channel, Equal, InputError, Phi, Problem, Scores, Term
from contrastile.problem.pairs import Op
from contrastile.problem.spec import NONE, Sizes, Stat
from helpers import Arguments, cast, evaluate
from test_error_rule import assert_rule
from waits import STEPS, Waits, as_on_a_device

pytestmark = pytest.mark.usefixtures("poisoned_empty")
CUDA = {"backend": "cuda"}
# What a block may take of shared memory on the smallest machine of each family.
SHARED = {"sm80": 101376, "sm90": 232448}


class EmulatedMachine(Machine):
    """On the CPU; there are no streams."""

    def _stream(self) -> int:
        return 0


@pytest.fixture(scope="session")
def module() -> ModuleType:
    return emulated.load()


@pytest.fixture(params=SHARED)
def family(request: pytest.FixtureRequest) -> str:
    return request.param


@pytest.fixture
def machine(
    module: ModuleType, family: str, monkeypatch: pytest.MonkeyPatch
) -> Iterator[EmulatedMachine]:
    """The backend finds an emulated machine wherever the tensors are."""
    found = EmulatedMachine(module, family, 0, 2, SHARED[family])
    monkeypatch.setattr(backend, "library", lambda: module)
    monkeypatch.setattr(backend, "has_gpu", lambda: True)
    for place in (backend, kernels):
        monkeypatch.setattr(place, "machine_of", lambda device: found)
    yield found


@pytest.fixture(params=["one form", "both forms"])
def forms(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> str:
    """The general form alone, as of a small problem, or fixed shifts and a certificate."""
    if request.param == "both forms":
        monkeypatch.setattr(gpu_forms, "SMALL", 0)
    return request.param


def narrowed(arguments: Arguments, dtype: torch.dtype) -> Arguments:
    """Embeddings of that dtype, an fp32 scale."""
    return cast(cast(arguments, dtype), torch.float32, "logit_scale")


@pytest.mark.usefixtures("machine", "forms")
@pytest.mark.parametrize(
    ("dtype", "scale"),
    [
        pytest.param(torch.bfloat16, 100.0, id="bf16-100.0"),
        pytest.param(torch.bfloat16, 1.0, id="bf16-1.0", marks=pytest.mark.gates),
        pytest.param(torch.float16, 100.0, id="fp16-100.0", marks=pytest.mark.gates),
        pytest.param(torch.float16, 1.0, id="fp16-1.0", marks=pytest.mark.gates),
    ],
)
@pytest.mark.parametrize("loss", LOSSES)
def test_error_rule(loss: str, dtype: torch.dtype, scale: float) -> None:
    """At most the error of the plain formula at the same dtype, on every output."""
    choice = default_choice(
        loss, shape=(77, 48), scale="logit_scale tensor", value=scale, crowded=True
    )

    def make(seed: int) -> Arguments:
        return narrowed(arguments_for(loss, choice, seed), dtype)

    assert_rule(loss, make, "cuda", count=2)


CROSSES = [
    pytest.param(loss, seed, choice, id=f"{loss}-{seed}")
    for loss in LOSSES
    for seed, choice in enumerate(covering_choices(loss, 1, 12))
    if not choice["normalize"]  # what is normalised is fp32
]


@pytest.mark.usefixtures("machine")
@pytest.mark.parametrize(("loss", "seed", "choice"), CROSSES)
def test_options_crossed(loss: str, seed: int, choice: Choice) -> None:
    # Which rows are empty changes from seed to seed, and with it the size of the errors.
    def make(_: int) -> Arguments:
        return narrowed(arguments_for(loss, choice, seed), torch.bfloat16)

    assert_rule(loss, make, "cuda", count=1)


@pytest.mark.usefixtures("machine", "forms")
@pytest.mark.parametrize("loss", ["clip_loss", "nt_xent", "siglip_loss"])
def test_strips_and_blocks(loss: str) -> None:
    """As many blocks as a small workspace makes of it, with positives in all of them."""
    choice = default_choice(loss, shape=(70, 24), scale="logit_scale tensor")
    arguments = narrowed(arguments_for(loss, choice), torch.bfloat16)
    whole = evaluate(getattr(losses, loss), arguments, **CUDA)
    for workspace in (6000, 20000):
        got = evaluate(getattr(losses, loss), arguments, workspace=workspace, **CUDA)
        for name, value in got.items():
            size = float(whole[name].abs().max())
            # Gradients are rounded to bf16, so an ulp apart at the most.
            close = torch.allclose(
                value.double(), whole[name].double(), rtol=2e-5, atol=0.008 * size
            )
            assert close, name


@pytest.mark.usefixtures("machine")
def test_a_failed_certificate_is_made_up_for(monkeypatch: pytest.MonkeyPatch) -> None:
    """Scores that no single shift can hold: the flag brings the general form on."""
    monkeypatch.setattr(gpu_forms, "SMALL", 0)
    flags = []
    settle = sums.settle
    monkeypatch.setattr(sums, "settle", lambda *a: flags.append(int(a[-1])) or settle(*a))
    x = torch.randn(40, 16).bfloat16().requires_grad_()
    y = torch.randn(40, 16).bfloat16().requires_grad_()
    for scale, expected in ((1.0, 0), (40.0, 1)):
        loss = losses.clip_loss(x, y, logit_scale=scale, **CUDA)
        logits = scale * (x.double() @ y.double().T)
        target = torch.arange(40)
        entropy = torch.nn.functional.cross_entropy
        truth = (entropy(logits, target) + entropy(logits.T, target)) / 2
        assert torch.allclose(loss.double(), truth, rtol=1e-5)
        got = torch.autograd.grad(loss, (x, y))
        for a, b in zip(got, torch.autograd.grad(truth, (x, y)), strict=True):
            assert torch.allclose(
                a.double(), b.double(), rtol=2e-2, atol=2e-2 * float(b.abs().max())
            )
        assert flags[-2:] == [expected, expected]


@pytest.mark.usefixtures("machine")
def test_fp32_only_by_torchs_switch(monkeypatch: pytest.MonkeyPatch) -> None:
    x, y = torch.randn(30, 20, requires_grad=True), torch.randn(30, 20, requires_grad=True)
    with pytest.raises(InputError, match="TF32"):
        losses.clip_loss(x, y, logit_scale=1.0, **CUDA)
    monkeypatch.setattr(CudaBackend, "allows_tf32", lambda self: True)
    got = losses.clip_loss(x, y, logit_scale=1.0, **CUDA)
    truth = losses.clip_loss(x, y, logit_scale=1.0, backend="reference")
    assert torch.allclose(got, truth, rtol=2e-3)
    for a, b in zip(*(torch.autograd.grad(loss, (x, y)) for loss in (got, truth)), strict=True):
        assert torch.allclose(a, b, rtol=1e-2, atol=4e-3 * float(b.abs().max()))


@pytest.mark.usefixtures("machine")
def test_what_it_cannot_do_has_a_reason() -> None:
    x = torch.randn(6, 8)
    half = x.bfloat16()
    ids = torch.arange(6)
    labels = Equal(ids, ids)
    with pytest.raises(InputError, match="no fp64"):
        losses.clip_loss(x.double(), x.double(), logit_scale=1.0, **CUDA)
    with pytest.raises(InputError, match="TF32"):
        pair_sum(half, half, terms=[Term(Phi.SQUARE)], **CUDA)
    weighted = Channel(class_log_weights=((labels, 1.0), (~labels, 2.0)))
    with pytest.raises(InputError, match="2 classes with a weight"):
        log_sum_exp(half, half, channels=[weighted], **CUDA)
    many = labels
    for _ in range(6):
        many = labels & (labels | many)
    with pytest.raises(InputError, match="operands at once"):
        log_sum_exp(half, half, channels=[Channel(pairs=many)], **CUDA)


@pytest.mark.usefixtures("machine")
def test_what_it_does_not_know_yet_is_refused() -> None:
    """Of a Spec of a later version."""
    x = torch.randn(6, 8).bfloat16()
    problem = Problem.of("test", Scores.of("test", x, x), [Channel()], Channel)
    spec, tensors = problem.lower()
    sizes = Sizes.of(spec, tensors)
    (stat,) = spec.stats

    def reason(*stats: Stat) -> str | None:
        return CudaBackend().supports(spec._replace(stats=stats), sizes)

    assert reason(stat) is None
    assert reason(stat, stat._replace(phi=0)) == "it has no log-sum-exps beside sums of a function"
    for phi in (77, int(Phi.SIGMOID)):
        assert reason(stat._replace(phi=phi)) == f"it does not know the functions [{phi}]"
    program = ((77, 0, 0),)
    assert reason(stat._replace(program=program)) == "it does not know the predicates [77]"
    program = ((int(Op.LESS), 0, 0), (int(Op.NOT), NONE, NONE))
    assert reason(stat._replace(program=program)) == "it does not know the predicates ['LESS']"


def test_without_kernels_there_is_a_reason(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(backend, "library", lambda: None)
    monkeypatch.setattr(backend.native, "why_no_cuda", lambda: "nvcc was not found")
    assert CudaBackend().available() == "not built: nvcc was not found"


@pytest.mark.parametrize(
    ("capability", "archs", "runs"),
    [
        ((8, 0), ["80", "90a"], True),
        ((9, 0), ["80", "90a"], True),
        ((12, 0), ["80", "90a"], True),
        ((7, 5), ["80", "90a"], False),
        ((8, 0), ["90a"], False),
        ((8, 6), ["89", "90a"], False),
    ],
)
def test_a_device_older_than_the_build(
    capability: tuple[int, int], archs: list[str], runs: bool
) -> None:
    reason = why_not_compiled(*capability, archs)
    assert (reason is None) == runs
    assert runs or reason == (
        f"compute capability {capability[0]}.{capability[1]}, and the kernels were built for "
        f"{' '.join(archs)}"
    )


@pytest.mark.parametrize(
    ("major", "runtime", "driver", "runs"),
    [
        (9, 13000, 13000, True),
        (9, 13010, 13000, True),
        (9, 12090, 13000, True),
        (9, 13000, 12080, False),
        (9, 12000, 0, False),
        (8, 13000, 12080, False),
        (12, 13000, 13000, True),
        (12, 13010, 13000, False),
    ],
)
def test_a_driver_older_than_the_toolkit(major: int, runtime: int, driver: int, runs: bool) -> None:
    """Of its own major version it takes what is compiled for the device, of PTX nothing newer."""
    assert (why_not_driven(major, ["80", "90a"], runtime, driver) is None) == runs


def test_what_the_driver_does_not_take_is_a_reason(monkeypatch: pytest.MonkeyPatch) -> None:
    """CUDA itself would raise at the first question about the device."""

    class Kernels:
        @staticmethod
        def versions() -> tuple[int, int]:
            return 13000, 12080

        @staticmethod
        def shared_bytes(index: int) -> int:
            raise RuntimeError("CUDA driver version is insufficient for CUDA runtime version")

    hopper = SimpleNamespace(major=9, minor=0, multi_processor_count=132)
    monkeypatch.setattr(torch.cuda, "get_device_properties", lambda index: hopper)
    monkeypatch.setattr(machines, "library", Kernels)
    monkeypatch.setattr(machines.native, "cuda_archs", lambda: "80 90a")
    spec: Any = None
    sizes: Any = SimpleNamespace(device=torch.device("cuda", 0))
    machines._of_gpu.cache_clear()
    reason = CudaBackend().supports(spec, sizes)
    machines._of_gpu.cache_clear()
    assert reason == (
        "the kernels were built with CUDA 13.0, and the NVIDIA driver takes no newer than 12.8: "
        "update the driver, or install contrastile again with a CUDA toolkit of 12.8 or older "
        "(CUDA_HOME)"
    )


def test_on_the_cpu_there_is_a_reason() -> None:
    x = torch.randn(6, 8).bfloat16()
    with pytest.raises(InputError, match=r"not built|no NVIDIA GPU|not on an NVIDIA GPU"):
        losses.clip_loss(x, x, logit_scale=1.0, **CUDA)


@pytest.mark.usefixtures("machine", "forms")
@pytest.mark.parametrize("loss", STEPS)
def test_a_step_never_waits_for_the_device(loss: str, monkeypatch: pytest.MonkeyPatch) -> None:
    as_on_a_device(monkeypatch, looked=True)
    x, y = (torch.randn(24, 8).half().requires_grad_() for _ in range(2))
    scale = torch.tensor(10.0, requires_grad=True)
    with Waits() as waits:
        STEPS[loss](x, y, logit_scale=scale, **CUDA).backward()
    assert not waits.found


@pytest.mark.usefixtures("machine")
def test_nan_is_never_a_finite_lie() -> None:
    x, y = torch.randn(30, 20).bfloat16(), torch.randn(30, 20).bfloat16()
    x[3, 4] = torch.nan
    assert losses.clip_loss(x, y, logit_scale=1.0, **CUDA).isnan()


@pytest.mark.usefixtures("machine", "forms")
@pytest.mark.parametrize("dtype", [torch.float64, torch.bfloat16])
def test_torchs_default_dtype_changes_nothing(dtype: torch.dtype) -> None:
    arguments = narrowed(
        arguments_for("clip_loss", default_choice("clip_loss", shape=(70, 24))), torch.bfloat16
    )
    expected = evaluate(losses.clip_loss, arguments, **CUDA)
    before = torch.get_default_dtype()
    torch.set_default_dtype(dtype)
    try:
        got = evaluate(losses.clip_loss, arguments, **CUDA)
    finally:
        torch.set_default_dtype(before)
    for name, value in got.items():
        assert value.dtype == expected[name].dtype and torch.equal(value, expected[name]), name


@pytest.mark.usefixtures("machine", "forms")
def test_stats_may_be_changed_in_place() -> None:
    x = torch.randn(40, 16).bfloat16().requires_grad_()
    stats = log_sum_exp(x, x.detach(), scale=2.0, channels=[Channel(), Channel()], **CUDA)
    assert not any(own._is_view() for own in stats.rows)
    stats.rows[0].add_(1.0).sum().backward()
    assert x.grad is not None and bool(x.grad.isfinite().all())
