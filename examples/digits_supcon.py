"""Embeds handwritten digits so that equal ones are neighbours. Needs: pip install scikit-learn"""

import torch
from contrastile import SupCon
from sklearn.datasets import load_digits
from sklearn.model_selection import train_test_split
from sklearn.neighbors import KNeighborsClassifier
from torch import nn


def main(steps: int = 150, batch: int = 512) -> tuple[float, float]:
    """Returns the 5-NN accuracy on unseen digits: in pixels, and in the learned embedding."""
    digits = load_digits()
    pixels = torch.tensor(digits.data, dtype=torch.float32) / 16
    labels = torch.tensor(digits.target)
    train, test = train_test_split(torch.arange(len(labels)), random_state=0, stratify=labels)

    def accuracy(features: torch.Tensor) -> float:
        neighbours = KNeighborsClassifier(5).fit(features[train], labels[train])
        return float(neighbours.score(features[test], labels[test]))

    torch.manual_seed(0)
    encoder = nn.Sequential(
        nn.Unflatten(1, (1, 8, 8)),
        nn.Conv2d(1, 32, 3, padding=1),
        nn.GELU(),
        nn.Conv2d(32, 64, 3, stride=2, padding=1),
        nn.GELU(),
        nn.Flatten(),
        nn.Linear(64 * 16, 16),
    )
    loss = SupCon(temperature=0.1, normalize=True)
    optimizer = torch.optim.Adam(encoder.parameters(), lr=3e-3)
    for _ in range(steps):
        pick = train[torch.randperm(len(train))[:batch]]
        optimizer.zero_grad()
        loss(encoder(pixels[pick]), labels[pick]).backward()
        optimizer.step()

    with torch.no_grad():
        embedded = nn.functional.normalize(encoder(pixels))
    before, after = accuracy(pixels), accuracy(embedded)
    print(f"5-NN accuracy on {len(test)} unseen digits: {before:.1%} from 64 pixels,")
    print(f"{after:.1%} from {embedded.shape[1]} learned numbers after {steps} steps")
    return before, after


if __name__ == "__main__":
    main()
