"""Gradients of a large batch from encoders that see a small part of it at a time."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from types import TracebackType
from typing import Any

import torch
from torch import Tensor, nn
from typing_extensions import Self

from ..problem import InputError
from ..problem.advice import advise
from ..problem.checks import check_choice, shape
from .batch import Batch
from .replay import RandomState, without_autocast
from .tower import Select, Tower
from .wrappers import Reduction, batch_norms, frozen, statistics_kept

NAME = "gradient_cache"
Encoder = Callable[..., Any]
Progress = Callable[[str, int, int], object]


def gradient_cache(
    loss_fn: Callable[..., Tensor],
    towers: Sequence[tuple[Encoder, Any]],
    *,
    sub_batch: int,
    output: Select | None = None,
    scaler: torch.amp.GradScaler | None = None,
    group: Any = None,
    offload: str | None = None,
    device: torch.device | str | None = None,
    progress: Progress | None = None,
    modules: Iterable[nn.Module] = (),
) -> Tensor:
    r"""The gradient of a loss over a whole batch, with the activations of one sub-batch.

    A contrastive loss compares every item with every other, so gradients of small batches do not
    add up to that of a large one. But the loss sees the encoder only through its embeddings:

    .. math:: \frac{\partial L}{\partial\theta}
              = \sum_b \Big(\frac{\partial e_\theta(x_b)}{\partial\theta}\Big)^{\!T} u_b,\qquad
              u = \frac{\partial L(e)}{\partial e}

    1. every sub-batch ``x_b`` is encoded without a graph;
    2. the loss of all embeddings gives their gradient ``u``, and its own parameters theirs;
    3. every sub-batch is encoded again, with the same random numbers and under the same autocast,
       and its graph takes ``u_b`` back to the parameters' ``.grad``.

    That is exact, not an approximation, and costs one more forward pass. The encoder must be a
    function of its inputs, its parameters and torch's default random generators; BatchNorm in
    training mode normalises by sub-batch, which is told once, and updates its running statistics
    once. Afterwards random generators stand where one pass over the sub-batches and the loss
    would leave them.

    Args:
        loss_fn: takes the embeddings of all towers, in order, and returns one number. A loss of
            ours with options: a module, ``ClipLoss(temperature=0.07)``, or ``functools.partial``.
        towers: pairs (encoder, inputs). Encoders are any callables: modules, their methods,
            compiled or wrapped ones; one may stand for several towers. Inputs are a tensor, a
            tuple or list of arguments, or a mapping of named ones (a dict, a BatchEncoding), all
            tensors with one row an item. An encoder returns a tensor with one row an item, or a
            tuple of such tensors, each of which the loss gets.
        sub_batch: how many items an encoder sees at once.
        output: which part of every encoder's output the embeddings are: a key, an index or a
            function, as ``"pooler_output"``.
        scaler: a GradScaler; gradients are of the scaled loss, for its ``step``.
        group: passed on to the loss as ``group=``, if it is not None.
        offload: "cpu" keeps inputs in pinned host memory and moves them sub-batch by sub-batch.
        device: where offloaded sub-batches are moved to; by default where the inputs were, or the
            current accelerator.
        progress: called with (stage, done, total) after each sub-batch; the stages are "encode",
            for each tower, and "gradients", for all of them.
        modules: DDP or FSDP modules that cannot be seen from the encoders, as when an encoder is
            ``ddp.module.encode_image``. Those that an encoder is, has bound or names are found.

    Returns:
        The loss, detached and not scaled. Gradients are added to ``.grad``, as ``backward`` does;
        DDP and FSDP2 have reduced them, DDP once.

    Raises:
        InputError: inputs, embeddings, options or a loss that do not fit (a ValueError). Whatever
            is raised before the loss's backward pass leaves every ``.grad`` alone; an error later
            leaves a part of the gradients, and ``zero_grad`` takes them away.
        TypeError: an input is not a tensor, or an encoder's output is not.

    Source: Gao et al., Scaling Deep Contrastive Learning Batch Size under Memory Limited Setup,
    2021.

    >>> import torch
    >>> from contrastile import ClipLoss
    >>> from contrastile.training import gradient_cache
    >>> image_tower, text_tower = torch.nn.Linear(8, 4), torch.nn.Linear(6, 4)
    >>> batch = [(image_tower, torch.randn(100, 8)), (text_tower, torch.randn(100, 6))]
    >>> loss = gradient_cache(ClipLoss(temperature=1.0), batch, sub_batch=16)
    >>> image_tower.weight.grad.shape
    torch.Size([4, 8])
    """
    _check_towers(towers)
    cache = GradientCache(
        sub_batch, offload=offload, device=device, progress=progress, modules=modules
    )
    cache._caller = NAME
    embeddings: list[Tensor] = []
    for encoder, inputs in towers:
        encoded = cache(encoder, inputs, output=output)
        embeddings += [encoded] if isinstance(encoded, Tensor) else encoded
    loss = loss_fn(*embeddings, **({} if group is None else {"group": group}))
    _check_loss(NAME, loss)
    cache.backward(loss if scaler is None else scaler.scale(loss))
    return loss.detach()


class GradientCache:
    """:func:`gradient_cache` for a loop that exists: three lines of it change.

    Each ``cache(encoder, inputs)`` is a first pass and returns the embeddings, which the loss may
    use in any way; ``cache.backward(loss)`` is the loss's backward pass and all second passes,
    under the autocast of the first. Pass ``scaler.scale(loss)`` where there is a GradScaler.

    Args:
        sub_batch: how many items an encoder sees at once.
        offload, device, progress, modules: as for :func:`gradient_cache`.

    Raises:
        InputError: an option breaks its rule; on leaving the block, if a loss of the embeddings
            went backward by itself, so that the encoders got no gradient.

    >>> import torch
    >>> from contrastile import nt_xent
    >>> from contrastile.training import GradientCache
    >>> encoder = torch.nn.Sequential(torch.nn.Linear(8, 4), torch.nn.Dropout(0.1))
    >>> views = torch.randn(2, 100, 8)
    >>> with GradientCache(sub_batch=16) as cache:
    ...     z0, z1 = cache(encoder, views[0]), cache(encoder, views[1])
    ...     loss = nt_xent(z0, z1, temperature=0.5, normalize=True)
    ...     cache.backward(loss)
    >>> encoder[0].weight.grad.shape
    torch.Size([4, 8])
    """

    def __init__(
        self,
        sub_batch: int,
        *,
        offload: str | None = None,
        device: torch.device | str | None = None,
        progress: Progress | None = None,
        modules: Iterable[nn.Module] = (),
    ) -> None:
        self._caller = type(self).__name__
        if isinstance(sub_batch, bool) or not isinstance(sub_batch, int) or sub_batch < 1:
            raise InputError(
                f"{self._caller}: sub_batch must be a positive integer, got {sub_batch!r}; it is "
                "how many items an encoder sees at once"
            )
        if offload is not None:
            check_choice(self._caller, "offload", offload, ("cpu",))
        self._sub_batch = sub_batch
        self._offload = offload is not None
        self._device = None if device is None else torch.device(device)
        self._progress = progress
        self._modules = tuple(modules)
        self._towers: list[Tower] = []

    def __call__(self, encoder: Encoder, inputs: Any, *, output: Select | None = None) -> Any:
        """The embeddings of ``inputs``: a tensor, or a tuple of what the encoder returns."""
        batch = Batch.of(self._caller, inputs)
        if self._offload:
            batch = batch.on_host(self._device)
        tower = Tower(self._caller, encoder, batch, self._sub_batch, output)
        if batch_norms(tower.modules):
            _advise_on_batch_norm(self._caller)
        for index in range(tower.pieces):
            tower.encode(index)
            self._tell("encode", index + 1, tower.pieces)
        tower.make_leaves()
        self._towers.append(tower)
        return tower.leaves[0] if tower.one_tensor else tower.leaves

    def backward(self, loss: Tensor) -> None:
        """Add the gradients of ``loss`` to the ``.grad`` of its parameters and the encoders'."""
        _check_loss(self._caller, loss)
        behind = [module for tower in self._towers for module in tower.modules]
        behind += [module for each in self._modules for module in each.modules()]
        reduction = Reduction(dict.fromkeys(behind))
        reduction.begin()
        with without_autocast():
            loss.backward()
        towers, self._towers = [each for each in self._towers if each.cached], []
        if not towers:
            raise InputError(
                f"{self._caller}: the loss must depend on embeddings of the cache, got one that "
                "depends on none; make it of what cache(encoder, inputs) returns"
            )
        after_the_loss = RandomState.now()
        try:
            with reduction, statistics_kept(behind):
                trained = self._second_passes(towers, reduction)
        finally:
            after_the_loss.restore()
        reduction.finish()
        if not trained:
            _advise_on_frozen(self._caller)

    def _second_passes(self, towers: list[Tower], reduction: Reduction) -> bool:
        """Gradients of all sub-batches; whether there were any."""
        done, total, trained = 0, sum(tower.pieces for tower in towers), False
        for place, tower in enumerate(towers):
            comes_again = any(tower.encoder == later.encoder for later in towers[place + 1 :])
            for index in range(tower.pieces):
                reduction.in_this_pass(index == tower.pieces - 1 and not comes_again)
                gained = tower.add_gradients(index)
                trained = trained or gained
                # Of a frozen encoder the first sub-batch shows that the others get nothing either.
                last = not gained and frozen(tower.modules)
                done += tower.pieces - index if last else 1
                self._tell("gradients", done, total)
                if last:
                    break
        return trained

    def _tell(self, stage: str, done: int, total: int) -> None:
        if self._progress is not None:
            self._progress(stage, done, total)

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        towers, self._towers = self._towers, []
        if error is None and any(tower.cached for tower in towers):
            raise InputError(
                f"{self._caller}: the loss went backward by itself, so the encoders have no "
                "gradient; call cache.backward(loss) instead of loss.backward()"
            )


def _check_towers(towers: object) -> None:
    rule = f"{NAME}: towers must be a sequence of pairs (encoder, inputs)"
    if not isinstance(towers, Sequence) or not towers:
        raise TypeError(f"{rule}, got {type(towers).__name__}; of one tower [(encoder, inputs)]")
    for tower in towers:
        if not (isinstance(tower, tuple) and len(tower) == 2 and callable(tower[0])):
            raise TypeError(
                f"{rule}, got {type(tower).__name__} {tower!r:.60} in it; of one tower "
                "[(encoder, inputs)], of several inputs [(encoder, (first, second))]"
            )


def _check_loss(caller: str, loss: object) -> None:
    rule = f"{caller}: the loss must be one number, a 0-d tensor"
    if not isinstance(loss, Tensor):
        remedy = "; return_stats=True needs the context GradientCache" if _is_pair(loss) else ""
        raise TypeError(f"{rule}, got {type(loss).__name__}{remedy}")
    if loss.numel() != 1:
        raise InputError(f'{rule}, got {shape(loss)}; use reduction="mean" or loss.mean()')


def _is_pair(loss: object) -> bool:
    return isinstance(loss, tuple) and len(loss) == 2


def _advise_on_batch_norm(caller: str) -> None:
    advise(
        caller,
        "batch norm",
        "the encoder has BatchNorm in training mode, which normalises each sub-batch by its own "
        "statistics: gradients are exact for that, not for statistics of the whole batch; use "
        "LayerNorm or GroupNorm, or .eval() of these layers",
    )


def _advise_on_frozen(caller: str) -> None:
    advise(
        caller,
        "no gradient",
        "no output of an encoder requires grad, so both passes trained nothing in them; are all of "
        "their parameters frozen, or do they encode under torch.no_grad?",
    )
