"""The losses in one table: what tests, benches, ``contrastile verify`` and README know of them."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from inspect import signature

import torch
from torch import Tensor
from torch.nn.functional import normalize

from .clip import ClipLoss, clip_loss, clip_loss_reference
from .dcl import DCL, DCLW, dcl_loss, dcl_loss_reference, dclw_loss, dclw_loss_reference
from .distill import DistillClipLoss, distill_clip_loss, distill_clip_loss_reference
from .gist import GISTEmbedLoss, gist_loss, gist_loss_reference
from .hard_negative import (
    HardNegativeNCE,
    hard_negative_nce,
    hard_negative_nce_reference,
)
from .infonce import InfoNCE, info_nce, info_nce_reference
from .inputs import (
    ROWS_PER_LABEL,
    Inputs,
    names_guide,
    names_ids,
    noisy_copies,
    taken_by_position,
)
from .module import Loss
from .multi_positive import MultiPositiveNCE, multi_positive_nce, multi_positive_nce_reference
from .ntxent import NTXent, nt_xent, nt_xent_reference
from .options import LossOutput
from .qwen3 import Qwen3Loss, qwen3_loss, qwen3_loss_reference
from .siglip import SigLip, siglip_loss, siglip_loss_reference
from .supcon import SupCon, supcon_loss, supcon_loss_reference

# Temperature 0.07.
SOFTMAX_SCALE = 1 / 0.07


@dataclass(frozen=True, kw_only=True)
class LossEntry:
    """One loss and the facts about it.

    Args:
        function: the loss. Its tensors by position tell what it takes: integers where a name ends
            in ``ids`` or ``labels``, vectors where not, those of another model where it begins with
            ``guide`` or ``teacher``.
        module: its nn.Module twin.
        reference: its formula with all of S in memory, mean over rows, by the same tensors and
            the options in ``parameters``; of embeddings that are already normalised.
        summary: what it is, in a few words, for README.
        paper: who and when, for README.
        directions: 1 where the stats of rows alone make the loss, 2 where those of columns do too.
        views: how many sets are stacked to the rows of S.
        row_scale: whether each row may have a scale of its own.
        own_blocks: how many further matrices of scores there are, each of one set with itself.
        passes: whether keys may pass by shard by shard, in a ring of ranks or from the host.
        normalize: whether it is used on embeddings that it has to normalise itself.
        parameters: what the options ``logit_scale`` and ``logit_bias`` start at.
        learned: whether these are usually parameters of the model.
    """

    function: Callable[..., LossOutput]
    module: type[Loss]
    reference: Callable[..., Tensor]
    summary: str
    paper: str
    directions: int = 1
    views: int = 1
    row_scale: bool = True
    own_blocks: int = 0
    passes: bool = True
    normalize: bool = False
    parameters: Mapping[str, float] = field(default_factory=lambda: {"logit_scale": SOFTMAX_SCALE})
    learned: bool = False

    @property
    def name(self) -> str:
        return self.function.__name__

    @property
    def tensors(self) -> tuple[str, ...]:
        """The names of what it takes by position."""
        return taken_by_position(self.function)

    @property
    def embeddings(self) -> tuple[str, ...]:
        return tuple(name for name in self.tensors if not (names_ids(name) or names_guide(name)))

    @property
    def guides(self) -> tuple[str, ...]:
        """Embeddings of another model, without a gradient."""
        return tuple(name for name in self.tensors if names_guide(name))

    @property
    def labels(self) -> tuple[str, ...]:
        """The ids that it cannot do without."""
        return tuple(name for name in self.tensors if names_ids(name))

    @property
    def options(self) -> tuple[str, ...]:
        """The names of what it takes by keyword."""
        return tuple(
            name for name in signature(self.function).parameters if name not in self.tensors
        )

    @property
    def one_set(self) -> bool:
        """Whether S compares one set with itself."""
        return self.views > 1 or len(self.embeddings) == 1

    @property
    def square(self) -> bool:
        """Whether no further keys can be added to the columns of S."""
        return "positives" not in self.options

    # Both directions need S, S again, G K and G^T Q: 4. One direction, or a sum over single pairs,
    # can turn a strip of S into G at once: 3. Of a symmetric S one triangle is enough: 2. A guide's
    # matrices are computed once, as the scores are.
    @property
    def forward(self) -> float:
        """Least work of the loss alone, in units of 2 N M D flop."""
        own = (0.5 if self.one_set else 1) + 0.5 * self.own_blocks
        return 2 * own if self.guides else own

    @property
    def training(self) -> float:
        """Least work of the loss and its gradients, in the same units."""
        own = (2 if self.one_set else 2 + self.directions) + 2 * self.own_blocks
        return own + self.forward / 2 if self.guides else own

    def compute(self, inputs: Inputs, **options: object) -> Tensor:
        """The loss of ``inputs``; further options as the function has them."""
        value = self.function(
            *inputs.tensors, normalize=self.normalize, **inputs.parameters, **options
        )
        assert isinstance(value, Tensor), "return_stats is nobody's option here"
        return value

    def formula(self, inputs: Inputs) -> Tensor:
        """The same by the reference."""
        vectors = inputs.embeddings
        if self.normalize:
            vectors = tuple(normalize(vector, dim=1) for vector in vectors)
        return self.reference(*vectors, *inputs.guides, *inputs.labels, **inputs.parameters)

    def make_inputs(
        self,
        n: int,
        d: int,
        dtype: torch.dtype = torch.float32,
        device: torch.device | str = "cpu",
        *,
        generator: torch.Generator,
        negatives: int = 0,
        gradients: bool = True,
        learned: bool | None = None,
    ) -> Inputs:
        """Noisy copies of common centres; the same numbers on every device and, rounded, dtype.

        Args:
            n: rows of S, a multiple of ``views``.
            d: embedding size.
            dtype: of the embeddings. Parameters are fp32, or fp64 beside fp64.
            device: where the tensors are to be.
            generator: of the CPU.
            negatives: further keys, where the loss takes more keys than queries.
            gradients: whether embeddings and learned parameters require grad.
            learned: whether parameters are tensors; by default where the loss has them learned.
        """
        group = torch.arange(n + negatives) // (ROWS_PER_LABEL if self.labels else 1)
        counts = [n // self.views] * len(self.embeddings)
        counts[-1] += negatives
        vectors = noisy_copies(counts, d, group, self.normalize, generator)
        guides = noisy_copies([n] * len(self.guides), d, group, True, generator)
        exact = torch.float64 if dtype == torch.float64 else torch.float32

        def leaf(tensor: Tensor, dtype: torch.dtype) -> Tensor:
            return tensor.to(device, dtype).requires_grad_(gradients)

        def parameter(value: float) -> Tensor | float:
            as_tensor = self.learned if learned is None else learned
            return leaf(torch.tensor(value, dtype=torch.float64), exact) if as_tensor else value

        made = {name: parameter(value) for name, value in self.parameters.items()}
        return Inputs(
            tuple(leaf(vector, dtype) for vector in vectors),
            tuple(group[:n].to(device) for _ in self.labels),
            made["logit_scale"],
            made.get("logit_bias"),
            tuple(guide.to(device, dtype) for guide in guides),
        )


ENTRIES = (
    LossEntry(
        function=info_nce,
        module=InfoNCE,
        reference=info_nce_reference,
        summary="one direction; positives by index, extra negatives, false negatives by id",
        paper="van den Oord et al. 2018",
        normalize=True,
    ),
    LossEntry(
        function=clip_loss,
        module=ClipLoss,
        reference=clip_loss_reference,
        summary="both directions from one pass",
        paper="Radford et al. 2021",
        directions=2,
        learned=True,
    ),
    LossEntry(
        function=nt_xent,
        module=NTXent,
        reference=nt_xent_reference,
        summary="two views, over one triangle of z z^T",
        paper="Chen et al. 2020",
        views=2,
        normalize=True,
    ),
    LossEntry(
        function=dcl_loss,
        module=DCL,
        reference=dcl_loss_reference,
        summary="decoupled: NT-Xent without the positive in its denominator",
        paper="Yeh et al. 2022",
        views=2,
        normalize=True,
    ),
    LossEntry(
        function=dclw_loss,
        module=DCLW,
        reference=dclw_loss_reference,
        summary="decoupled, and positives weighted by how far they are",
        paper="Yeh et al. 2022",
        views=2,
        normalize=True,
    ),
    LossEntry(
        function=supcon_loss,
        module=SupCon,
        reference=supcon_loss_reference,
        summary='supervised, "out" and "in"',
        paper="Khosla et al. 2020",
        normalize=True,
    ),
    LossEntry(
        function=multi_positive_nce,
        module=MultiPositiveNCE,
        reference=multi_positive_nce_reference,
        summary="several positives by id; rows, columns or both",
        paper="Miech et al. 2020",
        directions=2,
    ),
    LossEntry(
        function=siglip_loss,
        module=SigLip,
        reference=siglip_loss_reference,
        summary="sigmoid over all pairs, learnable scale and bias",
        paper="Zhai et al. 2023",
        parameters={"logit_scale": 10.0, "logit_bias": -10.0},
        learned=True,
    ),
    LossEntry(
        function=hard_negative_nce,
        module=HardNegativeNCE,
        reference=hard_negative_nce_reference,
        summary="one direction; hard negatives count more, and are debiased",
        paper="Robinson et al. 2021",
        normalize=True,
    ),
    LossEntry(
        function=gist_loss,
        module=GISTEmbedLoss,
        reference=gist_loss_reference,
        summary="a guide model says which pairs are no negatives; all pairs of a batch",
        paper="Solatorio et al. 2024",
        own_blocks=2,
        passes=False,
        normalize=True,
    ),
    LossEntry(
        function=qwen3_loss,
        module=Qwen3Loss,
        reference=qwen3_loss_reference,
        summary="all pairs of a batch and hard negatives, but for near copies of the positive",
        paper="Zhang et al. 2025",
        own_blocks=2,
        passes=False,
        normalize=True,
    ),
    LossEntry(
        function=distill_clip_loss,
        module=DistillClipLoss,
        reference=distill_clip_loss_reference,
        summary="a teacher's softmaxes as soft targets, both directions",
        paper="Yang et al. 2024",
        directions=2,
        row_scale=False,
        passes=False,
        learned=True,
    ),
)
LOSSES: dict[str, LossEntry] = {entry.name: entry for entry in ENTRIES}
