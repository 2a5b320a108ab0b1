"""open_clip's losses and ours, in open_clip's own training loop and by themselves."""

from __future__ import annotations

import itertools
from collections.abc import Callable, Iterator
from functools import cache
from types import SimpleNamespace
from typing import Any, TypeAlias

import pytest
import torch
import torch.distributed as dist
from clients import describe_torchvision, needs
from contrastile import ContrastileWarning, InputError
from open_clip_runs import Run, Setting, tiny_clip, train
from processes import Processes
from torch import Tensor
from torch.nn.functional import normalize

pytestmark = [
    needs("open_clip", "open_clip_train", "torchvision"),
    # Losses are called without a bias, as open_clip's may be.
    pytest.mark.filterwarnings("ignore:siglip_loss. without a logit_bias"),
]

# Relative, of all that a training adds to the parameters.
ROUNDINGS = {"fp32": 2e-6, "amp_bf16": 2e-2}
RANKS = 2
Ranks: TypeAlias = Callable[[Setting], list[list[Run]]]
ALONE = [
    Setting(precision, accum_freq, siglip)
    for precision, accum_freq, siglip in itertools.product(("fp32", "amp_bf16"), (1, 2), (0, 1))
]
MODES = [
    Setting(local_loss=local, gather_with_grad=grad)
    for local, grad in itertools.product((False, True), repeat=2)
]
SIGLIPS = [Setting(siglip=True, dist_impl=d) for d in ("bidir", "shift", "reduce", "gather")]
TOGETHER = [
    *MODES,
    *SIGLIPS,
    Setting("amp_bf16", local_loss=True, gather_with_grad=True),
    Setting("amp_bf16", siglip=True),
    Setting(accum_freq=2, local_loss=True, gather_with_grad=True),
    Setting(accum_freq=2, siglip=True),
]


def start(setting: Setting) -> dict[str, Tensor]:
    return {n: p.detach().clone() for n, p in tiny_clip(setting.siglip).named_parameters()}


def check_same_training(theirs: Run, ours: Run, setting: Setting) -> None:
    """The parameters moved, and by the same."""
    expected = theirs.step(start(setting))
    assert expected.norm() > 0.1
    difference = (ours.step(start(setting)) - expected).norm() / expected.norm()
    assert difference < ROUNDINGS[setting.precision]


@pytest.mark.parametrize("setting", ALONE, ids=str)
def test_one_process_trains_the_same(setting: Setting) -> None:
    theirs, ours = train(False, setting), train(True, setting)
    check_same_training(theirs, ours, setting)
    if setting.precision == "fp32":
        torch.testing.assert_close(ours.losses, theirs.losses, rtol=2e-6, atol=0.0)
    # In bf16 open_clip rounds the scores; ours are of the same embeddings, not rounded again.
    torch.testing.assert_close(ours.losses, ours.exact, rtol=1e-6, atol=0.0)


@pytest.fixture(scope="module")
def ranks() -> Iterator[Ranks]:
    """The runs of each setting by each rank, open_clip's and ours; made once."""
    processes = Processes(RANKS)

    @cache
    def runs(setting: Setting) -> list[list[Run]]:
        return [processes.run(train, ours, setting) for ours in (False, True)]

    yield runs
    processes.stop()


@pytest.mark.parametrize("setting", TOGETHER, ids=str)
def test_ranks_train_the_same(setting: Setting, ranks: Ranks) -> None:
    """In every mode, the ones whose gradient is another than the loss's among them."""
    for theirs, ours in zip(*ranks(setting), strict=True):
        check_same_training(theirs, ours, setting)


@pytest.mark.parametrize("setting", TOGETHER, ids=str)
def test_every_rank_has_the_mean_of_the_ranks_losses(setting: Setting, ranks: Ranks) -> None:
    """Where open_clip's ranks differ, ours agree; but for local_loss without gather_with_grad."""
    rtol = 2e-6 if setting.precision == "fp32" else 2e-2
    theirs, ours = (torch.tensor([run.losses for run in runs]).double() for runs in ranks(setting))
    own = setting.local_loss and not setting.gather_with_grad
    expected = theirs if own else theirs.mean(0).expand(RANKS, -1)
    torch.testing.assert_close(ours, expected, rtol=rtol, atol=0.0)
    if setting.siglip or setting.local_loss:
        assert (theirs[0] != theirs[1]).any()


def test_the_modes_differ_as_open_clips_do(ranks: Ranks) -> None:
    """Two have the whole gradient; the others a part of it, of the towers or of the negatives."""
    steps = {
        (mode.local_loss, mode.gather_with_grad): ranks(mode)[1][0].step(start(mode))
        for mode in MODES
    }
    whole = steps[False, True]
    torch.testing.assert_close(steps[True, True], whole, rtol=1e-4, atol=1e-6)
    for mode in ((False, False), (True, False)):
        assert (steps[mode] - whole).norm() > 0.1 * whole.norm()


def embeddings(n: int = 12) -> tuple[Tensor, Tensor]:
    x, y = torch.randn(2, n, 8).unbind()
    return normalize(x, dim=1).requires_grad_(), normalize(y, dim=1).requires_grad_()


def both(name: str) -> tuple[Any, Any]:
    describe_torchvision()
    from contrastile.integrations import open_clip as ours
    from open_clip import factory

    return getattr(factory, name), getattr(ours, name)


@pytest.mark.parametrize("bias", [None, -3.0])
@pytest.mark.parametrize("output_dict", [False, True])
@pytest.mark.parametrize("name", ["ClipLoss", "SigLipLoss"])
def test_by_itself(name: str, output_dict: bool, bias: float | None) -> None:
    """By position, as open_clip's own scripts call it; scale and bias are learned."""
    seen = []
    given = embeddings()
    for loss in (kind() for kind in both(name)):
        leaves = [x.detach().clone().requires_grad_() for x in (*given, torch.tensor(10.0))]
        leaves += [] if bias is None else [torch.tensor(bias, requires_grad=True)]
        tail = leaves[3:] or [None]
        found = loss(*leaves[:3], *tail, output_dict=output_dict)
        assert isinstance(found, dict) == output_dict
        value = found["contrastive_loss"] if output_dict else found
        value.backward()
        seen.append((value.detach(), *(leaf.grad for leaf in leaves)))
    torch.testing.assert_close(seen[1], seen[0], rtol=1e-5, atol=1e-6)


def test_coca() -> None:
    """Its contrastive part is ours."""
    x, y = embeddings()
    logits, labels = torch.randn(12, 5, 30), torch.randint(0, 30, (12, 5))
    theirs, ours = (
        kind(caption_loss_weight=2.0, clip_loss_weight=0.5)(x, y, logits, labels, 10.0, True)
        for kind in both("CoCaLoss")
    )
    torch.testing.assert_close(ours, theirs, rtol=1e-6, atol=1e-6)


def distilled(ours: bool, modes: dict[str, bool], rank: int = 0, size: int = 1) -> list[Tensor]:
    """Both losses, and the gradients of all sets and scales, by position as open_clip calls it."""
    kind = both("DistillClipLoss")[ours]
    torch.manual_seed(3 + rank)
    sets = [normalize(torch.randn(12, width), dim=1) for width in (8, 8, 5, 5)]
    given = [*sets[:2], torch.tensor(10.0), *sets[2:], torch.tensor(20.0)]
    leaves = [x.requires_grad_() for x in given]
    local, grad = modes.get("local_loss", False), modes.get("gather_with_grad", False)
    loss = kind(local, grad, False, rank, size, False)
    found = loss(*leaves, output_dict=True)
    assert list(found) == ["contrastive_loss", "distill_loss"]
    pair = loss(*leaves)
    assert torch.equal(torch.stack([*pair]), torch.stack([*found.values()]))
    sum(found.values()).backward()
    return [*(x.detach() for x in pair), *(leaf.grad for leaf in leaves)]


def distilled_over_ranks(ours: bool, modes: dict[str, bool]) -> list[Tensor]:
    return distilled(ours, modes, dist.get_rank(), dist.get_world_size())


def test_distillation() -> None:
    theirs, ours = distilled(False, {}), distilled(True, {})
    torch.testing.assert_close(ours, theirs, rtol=1e-5, atol=1e-6)


def test_distillation_over_ranks() -> None:
    """As DDP averages them; of the modes whose gradient is whole, and of the one it is a part."""
    processes = Processes(RANKS)
    for modes in (
        {"local_loss": True, "gather_with_grad": True},
        {"gather_with_grad": True},
        {},
    ):
        runs = [processes.run(distilled_over_ranks, ours, modes) for ours in (False, True)]
        theirs, ours = (
            [torch.stack(each).mean(0) for each in zip(*run, strict=True)] for run in runs
        )
        torch.testing.assert_close(ours, theirs, rtol=1e-5, atol=1e-6)
    processes.stop()


@pytest.mark.parametrize(
    ("change", "name"),
    [
        ({}, "ClipLoss"),
        ({"siglip": True}, "SigLipLoss"),
        ({"model": "coca_ViT-B-32"}, "CoCaLoss"),
        ({"distill": True}, "DistillClipLoss"),
    ],
    ids=str,
)
def test_create_loss(change: dict[str, Any], name: str) -> None:
    arguments = Setting(gather_with_grad=True, dist_impl="shift").arguments(1, 4)
    arguments = SimpleNamespace(
        **{
            **vars(arguments),
            "coca_caption_loss_weight": 2.0,
            "coca_contrastive_loss_weight": 1.0,
            **change,
        }
    )
    theirs, ours = (create(arguments) for create in both("create_loss"))
    assert type(ours).__name__ == type(theirs).__name__ == name
    assert isinstance(ours, type(theirs))
    mine = {k: v for k, v in vars(ours).items() if not k.startswith("_")}
    assert mine == {k: v for k, v in vars(theirs).items() if not k.startswith("_")}


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (
            {"distill": True, "local_loss": True, "world_size": 2},
            "DistillClipLoss: local_loss=True needs gather_with_grad=True",
        ),
        ({"horovod": True}, "^ClipLoss: use_horovod is not supported"),
        ({"horovod": True, "distill": True}, "^DistillClipLoss: use_horovod is not supported"),
        ({"horovod": True, "siglip": True}, "Horovod"),
    ],
    ids=str,
)
def test_what_is_refused(change: dict[str, Any], message: str) -> None:
    _, create = both("create_loss")
    arguments = vars(Setting().arguments(0, 1))
    with pytest.raises(InputError, match=message):
        create(SimpleNamespace(**{**arguments, **change}))


def test_ranks_that_are_not_there() -> None:
    _, kind = both("ClipLoss")
    with pytest.raises(InputError, match="world_size is 2, but there is no process group"):
        kind(gather_with_grad=True, world_size=2)(*embeddings(), 10.0)


def test_a_partial_gradient_is_told() -> None:
    _, kind = both("ClipLoss")
    with pytest.warns(ContrastileWarning, match="leaves out of each embedding's gradient"):
        kind(local_loss=True, world_size=2)


def test_under_autocast_products_are_in_half_precision() -> None:
    """As open_clip's own are, though the loss itself leaves its inputs alone."""
    from contrastile import clip_loss

    x, y = embeddings()
    _, kind = both("ClipLoss")
    with torch.autocast("cpu", torch.bfloat16):
        found = kind()(x, y, 10.0)
    assert found.dtype == torch.float32
    torch.testing.assert_close(found, clip_loss(x.bfloat16(), y.bfloat16(), logit_scale=10.0))
    assert found != clip_loss(x, y, logit_scale=10.0)
