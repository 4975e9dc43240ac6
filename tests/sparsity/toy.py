"""A model with the parts of a masked backbone: an embedding, linear layers, a dead one, and parameters left alone."""

import torch
from torch import Tensor, nn

GROUPS = {
    "language": ["words.weight", "language.weight"],
    "vision": ["vision.weight"],
    "cross": ["cross.weight", "dead.weight"],
    "pooler": ["pooler.weight"],
}
DEAD = ("dead.weight",)
NAMES = [name for names in GROUPS.values() for name in names]


class Toy(nn.Module):
    def __init__(self, seed: int = 0, tied: bool = False) -> None:
        super().__init__()
        torch.manual_seed(seed)
        # Registered in another order than GROUPS lists them: the order of matrices is that of GROUPS.
        self.pooler, self.cross, self.dead = nn.Linear(6, 6), nn.Linear(6, 6), nn.Linear(6, 7)
        self.words = nn.Embedding(31, 6, padding_idx=0)
        self.language, self.vision = nn.Linear(6, 6), nn.Linear(9, 6)
        self.classifier = nn.utils.parametrizations.weight_norm(nn.Linear(6, 4))
        if tied:  # every |weight| is one of few values
            with torch.no_grad():
                for name in NAMES:
                    weight = self.get_parameter(name)
                    weight.copy_(torch.randint(-2, 3, weight.shape) * 0.25)

    def forward(self, ids: Tensor, regions: Tensor) -> Tensor:
        hidden = torch.tanh(self.language(self.words(ids).mean(1)) + self.vision(regions))
        self.dead(hidden)
        return self.classifier(torch.tanh(self.pooler(torch.tanh(self.cross(hidden)))))


def train(model: nn.Module, steps: int, seed: int = 1, rate: float = 3e-3) -> None:
    """A few steps on random data; word pieces from 16 on never occur, so that their scores stay tied."""
    generator = torch.Generator().manual_seed(seed)
    optimizer = torch.optim.AdamW([p for p in model.parameters() if p.requires_grad], lr=rate, weight_decay=0.0)
    for _ in range(steps):
        ids = torch.randint(0, 16, (8, 5), generator=generator)
        logits = model(ids, torch.randn(8, 9, generator=generator))
        optimizer.zero_grad()
        logits.square().sum().backward()
        optimizer.step()
