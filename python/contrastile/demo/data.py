"""Glyphs of the DejaVu fonts that matplotlib brings, with their Unicode names."""

from __future__ import annotations

import unicodedata
from collections.abc import Iterator
from dataclasses import dataclass, replace
from pathlib import Path

import matplotlib
import numpy as np
import torch
from matplotlib.ft2font import FT2Font
from PIL import Image, ImageDraw, ImageFont
from torch import Tensor

# The first two faces and the unseen one have every glyph; for a glyph that one of the others lacks
# the first face stands in.
FACES = ("DejaVuSans", "DejaVuSans-Bold", "DejaVuSerif", "DejaVuSansMono")
COMPLETE_FACES = 2
UNSEEN_FACE = "DejaVuSans-Oblique"
PIXELS = 24
POINTS = 18
LONGEST_NAME = 16
PADDING = 0


@dataclass(frozen=True)
class Glyphs:
    """Characters as images in several faces, and their names as words.

    Args:
        characters: n of them.
        images: [faces, n, 1, 24, 24], 0 to 1, to train on.
        unseen: [n, 1, 24, 24], in a face to test on.
        words: [n, 16] numbers of the words in each name, 0 where there are no more.
        vocabulary: how many numbers there are.
    """

    characters: str
    images: Tensor
    unseen: Tensor
    words: Tensor
    vocabulary: int

    @property
    def names(self) -> list[str]:
        return [unicodedata.name(character) for character in self.characters]

    def to(self, device: torch.device) -> Glyphs:
        images, unseen, words = (t.to(device) for t in (self.images, self.unseen, self.words))
        return replace(self, images=images, unseen=unseen, words=words)

    def batches(self, size: int, seed: int) -> Iterator[tuple[Tensor, Tensor]]:
        """Endless (images, words) of distinct characters, each in a face drawn by chance."""
        generator = torch.Generator().manual_seed(seed)
        while True:
            chosen = torch.randperm(len(self.characters), generator=generator)[:size]
            faces = torch.randint(len(self.images), (size,), generator=generator)
            chosen, faces = chosen.to(self.words.device), faces.to(self.words.device)
            yield self.images[faces, chosen], self.words[chosen]


def load_glyphs() -> Glyphs:
    """Renders every named character that all complete faces and the unseen one can show."""
    faces = [Face(name) for name in (*FACES, UNSEEN_FACE)]
    complete = (*faces[:COMPLETE_FACES], faces[-1])
    shared = sorted(set.intersection(*(face.characters for face in complete)))
    visible = [
        character
        for character in shared
        if unicodedata.name(character, "") and all(face.shows(character) for face in complete)
    ]
    *images, unseen = (torch.stack([face.draw(c, faces[0]) for c in visible]) for face in faces)
    words, vocabulary = _numbered([unicodedata.name(character) for character in visible])
    return Glyphs("".join(visible), torch.stack(images), unseen, words, vocabulary)


class Face:
    """One font file."""

    def __init__(self, name: str) -> None:
        file = Path(matplotlib.get_data_path()) / "fonts" / "ttf" / f"{name}.ttf"
        self.characters = {chr(code) for code in FT2Font(str(file)).get_charmap()}
        # The basic layout draws one glyph as it is; combining marks upset the complex one.
        self._font = ImageFont.truetype(str(file), POINTS, layout_engine=ImageFont.Layout.BASIC)

    def shows(self, character: str) -> bool:
        """Whether the character leaves a mark, as a space does not."""
        return bool(self.draw(character, self).any())

    def draw(self, character: str, stand_in: Face) -> Tensor:
        """[1, 24, 24]; drawn by ``stand_in`` if this face lacks the character."""
        font = self._font if character in self.characters else stand_in._font
        image = Image.new("L", (PIXELS, PIXELS))
        middle = (PIXELS / 2, PIXELS / 2)
        ImageDraw.Draw(image).text(middle, character, fill=255, font=font, anchor="mm")
        return torch.from_numpy(np.array(image, dtype=np.float32) / 255)[None]


def _numbered(names: list[str]) -> tuple[Tensor, int]:
    numbers: dict[str, int] = {}
    table = torch.full((len(names), LONGEST_NAME), PADDING)
    for row, name in zip(table, names, strict=True):
        for place, word in enumerate(name.replace("-", " ").split()[:LONGEST_NAME]):
            row[place] = numbers.setdefault(word, len(numbers) + 1)
    return table, len(numbers) + 1
