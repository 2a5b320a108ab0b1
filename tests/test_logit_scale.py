"""The learned scale: its bounds, its names in a checkpoint, its gradient through a loss."""

from __future__ import annotations

import copy
import math
import pickle

import pytest
import torch
from contrastile import InputError, LogitScale, clip_loss, siglip_loss
from torch.nn.functional import normalize


def embeddings() -> tuple[torch.Tensor, torch.Tensor]:
    x, y = torch.randn(2, 24, 16).unbind()
    return normalize(x, dim=1).requires_grad_(), normalize(y, dim=1).requires_grad_()


def test_starts_where_it_is_told() -> None:
    assert LogitScale()().item() == pytest.approx(1 / 0.07)
    scale, bias = LogitScale(10.0, bias=-10.0)()
    assert (scale.item(), bias.item()) == (pytest.approx(10.0), -10.0)
    assert scale.shape == bias.shape == ()


def test_names_and_shapes_are_those_of_open_clip() -> None:
    """What open_clip.CLIP registers: two 0-d parameters, the scale as its logarithm."""
    assert set(LogitScale().state_dict()) == {"logit_scale"}
    with_bias = LogitScale(10.0, bias=-10.0)
    assert set(with_bias.state_dict()) == {"logit_scale", "logit_bias"}
    with_bias.load_state_dict(
        {"logit_scale": torch.tensor(math.log(20.0)), "logit_bias": torch.tensor(-5.0)}
    )
    scale, bias = with_bias()
    assert (scale.item(), bias.item()) == (pytest.approx(20.0), -5.0)


def test_gradient_is_that_of_the_logarithm() -> None:
    x, y = embeddings()
    module = LogitScale(10.0, bias=-10.0)
    scale, bias = module()
    siglip_loss(x, y, logit_scale=scale, logit_bias=bias).backward()
    t = torch.tensor(math.log(10.0), requires_grad=True)
    b = torch.tensor(-10.0, requires_grad=True)
    logits = t.exp() * x @ y.T + b
    sign = 2 * torch.eye(len(x)) - 1
    (-torch.nn.functional.logsigmoid(sign * logits).sum() / len(x)).backward()
    torch.testing.assert_close(module.logit_scale.grad, t.grad)
    assert module.logit_bias is not None
    torch.testing.assert_close(module.logit_bias.grad, b.grad)


@pytest.mark.parametrize(("start", "step", "end"), [(99.0, +1.0, 100.0), (1.1, -1.0, 1.0)])
def test_same_path_as_a_parameter_that_is_clamped_after_each_step(
    start: float, step: float, end: float
) -> None:
    """open_clip's way, pushed beyond a bound and back: no time is lost outside of the bounds."""
    module = LogitScale(start)
    plain = torch.nn.Parameter(torch.tensor(math.log(start)))
    optimizers = [torch.optim.SGD([p], lr=0.1) for p in (module.logit_scale, plain)]
    path = []
    for direction in (step, step, -step):
        for optimizer, scale in zip(optimizers, (module(), plain.exp()), strict=True):
            optimizer.zero_grad()
            (-direction * scale.log()).backward()
            optimizer.step()
        with torch.no_grad():
            plain.clamp_(0, math.log(100))
        path.append(module().item())
        torch.testing.assert_close(module.logit_scale, plain)
    assert path[:2] == [pytest.approx(end)] * 2
    assert path[2] != pytest.approx(end)


def test_evaluation_is_bounded_and_changes_nothing() -> None:
    module = LogitScale().eval()
    with torch.no_grad():
        module.logit_scale.fill_(9.0)
    assert module().item() == pytest.approx(100.0)
    assert module.logit_scale.item() == 9.0
    module.clamp_()
    assert module.logit_scale.item() == pytest.approx(math.log(100.0))


def test_unbounded() -> None:
    assert LogitScale(1e4, largest=math.inf)().item() == pytest.approx(1e4)


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16, torch.float64])
def test_half_precision_parameters_give_a_wide_scale(dtype: torch.dtype) -> None:
    scale, bias = LogitScale(10.0, bias=-10.0).to(dtype)()
    assert scale.dtype == bias.dtype == torch.promote_types(dtype, torch.float32)


def test_two_forward_passes_before_a_backward_pass() -> None:
    """As with gradient accumulation: the clamp in place must not spoil the first graph."""
    x, y = embeddings()
    module = LogitScale(50.0)
    losses = [clip_loss(x, y, logit_scale=module()) for _ in range(2)]
    sum(losses).backward()  # type: ignore[union-attr]
    twice = module.logit_scale.grad
    assert twice is not None
    module.logit_scale.grad = None
    clip_loss(x, y, logit_scale=module()).backward()
    torch.testing.assert_close(twice, 2 * module.logit_scale.grad)


def test_in_one_graph() -> None:
    x, y = embeddings()
    module = LogitScale(50.0)
    compiled = torch.compile(
        lambda: clip_loss(x, y, logit_scale=module()), backend="aot_eager", fullgraph=True
    )
    loss = compiled()
    loss.backward()
    assert loss.item() == pytest.approx(clip_loss(x, y, logit_scale=module()).item())
    assert module.logit_scale.grad is not None


def test_copies_and_pickles() -> None:
    module = LogitScale(10.0, bias=-10.0, largest=50.0)
    for twin in (copy.deepcopy(module), pickle.loads(pickle.dumps(module))):
        assert twin.largest == 50.0
        torch.testing.assert_close(twin(), module())
    assert repr(module) == "LogitScale(smallest=1, largest=50, bias=True)"


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"scale": 4.6e3}, "scale must be from smallest=1 to largest=100, got 4600"),
        ({"scale": 0.07}, "scale itself, not its logarithm"),
        ({"scale": 2.0, "smallest": 3.0, "largest": 1.0}, "largest"),
        ({"bias": math.nan}, "bias must be a finite number"),
    ],
    ids=str,
)
def test_numbers_that_do_not_fit(arguments: dict[str, float], message: str) -> None:
    with pytest.raises(InputError, match=message):
        LogitScale(**arguments)
