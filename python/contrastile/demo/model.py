"""A small image-text model."""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from .data import PADDING, PIXELS

SIZE = 64
CHANNELS = 24
LARGEST_SCALE = 100.0


class ImageTextModel(nn.Module):
    """Convolutions for the images, a bag of words for the names, a learnable scale and bias."""

    def __init__(self, vocabulary: int, scale: float, bias: float) -> None:
        super().__init__()
        # GELU: where ReLU is not smooth, training amplifies rounding and the two losses drift
        # apart by more than the rounding they differ by.
        self.image = nn.Sequential(
            nn.Conv2d(1, CHANNELS, 5, stride=2, padding=2),
            nn.GELU(),
            nn.Conv2d(CHANNELS, 2 * CHANNELS, 3, stride=2, padding=1),
            nn.GELU(),
            nn.Flatten(),
            nn.Linear(2 * CHANNELS * (PIXELS // 4) ** 2, SIZE),
        )
        self.text = nn.Sequential(
            nn.EmbeddingBag(vocabulary, SIZE, mode="mean", padding_idx=PADDING),
            nn.Linear(SIZE, SIZE),
        )
        self.log_scale = nn.Parameter(torch.tensor(scale).log())
        self.bias = nn.Parameter(torch.tensor(bias))

    def forward(self, images: Tensor, words: Tensor) -> tuple[Tensor, Tensor, Tensor, Tensor]:
        """Unit embeddings of both [N, 64], scale and bias: the arguments of a loss."""
        return self.embed_images(images), self.embed_names(words), self.scale(), self.bias

    def scale(self) -> Tensor:
        return self.log_scale.exp().clamp(max=LARGEST_SCALE)

    def embed_images(self, images: Tensor) -> Tensor:
        return F.normalize(self.image(images), dim=1)

    def embed_names(self, words: Tensor) -> Tensor:
        return F.normalize(self.text(words), dim=1)
