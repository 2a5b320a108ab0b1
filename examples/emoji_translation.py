"""Translates the names of emoji into English. Needs: pip install emoji

An emoji has five skin tones whose names mean nearly the same: a name has several positives.
"""

import zlib

import emoji
import torch
from contrastile import multi_positive_nce
from torch import nn
from torch.nn.functional import normalize
from torch.nn.utils.rnn import pad_sequence

LANGUAGES = ("en", "de", "es", "fr", "it", "pt")
SKIN_TONES = dict.fromkeys(range(0x1F3FB, 0x1F400))
BUCKETS = 8192


def trigrams(name: str) -> torch.Tensor:
    """Numbers from 1 for the runs of three characters in a name."""
    parts = [name[i : i + 3].encode() for i in range(len(name) - 2)]
    return torch.tensor([1 + zlib.crc32(part) % (BUCKETS - 1) for part in parts])


def main(steps: int = 200, batch: int = 512) -> float:
    """Returns the share of German names of unseen emoji whose nearest English name is right."""
    emoji.config.load_language(list(LANGUAGES))
    entries = {c: e for c, e in emoji.EMOJI_DATA.items() if all(k in e for k in LANGUAGES)}
    toneless = [character.translate(SKIN_TONES) for character in entries]
    numbers = {character: i for i, character in enumerate(dict.fromkeys(toneless))}
    ids = torch.tensor([numbers[character] for character in toneless])
    names = [[entry[k].lower() for entry in entries.values()] for k in LANGUAGES]
    words = pad_sequence([trigrams(n) for language in names for n in language], batch_first=True)
    words = words.unflatten(0, (len(LANGUAGES), -1))
    unseen = ids % 5 == 0
    train = (~unseen).nonzero()[:, 0]
    test = [i for i, c in enumerate(entries) if unseen[i] and c == toneless[i]]

    torch.manual_seed(0)
    encoder = nn.Sequential(nn.EmbeddingBag(BUCKETS, 128, padding_idx=0), nn.Linear(128, 64))
    optimizer = torch.optim.Adam(encoder.parameters(), lr=5e-3)
    for step in range(steps):
        pick = train[torch.randperm(len(train))[:batch]]
        foreign = encoder(words[1 + step % 5, pick])
        english = encoder(words[0, pick])
        loss = multi_positive_nce(
            foreign, english, ids[pick], ids[pick], temperature=0.07, normalize=True
        )
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()

    with torch.no_grad():
        english, german = (normalize(encoder(words[k, test])) for k in (0, 1))
    nearest = (german @ english.T).argmax(1)
    right = (nearest == torch.arange(len(test))).float().mean().item()
    print(f"{len(test)} unseen emoji, German to English: {right:.0%} right after {steps} steps")
    return right


if __name__ == "__main__":
    main()
