"""BLOCK, the bilinear fusion of question and regions (Ben-younes et al., 2019)."""

import torch
from torch import Tensor, nn
from torch.nn import functional


class BlockFusion(nn.Module):
    """Question and region are projected to one width and cut into chunks, and each pair of chunks is multiplied.

    A chunk of n units has two Linears n → rank · n, one for the question and one for the region. Their product is
    summed over the rank, and its signed square root is scaled to length 1. The chunks, side by side, are projected to
    the output. Source: `Block` in Cadene/block.bootstrap.pytorch, with `pos_norm` as published.

    Args:
        question_size, visual_size: width of a question and of a region.
        output_size: width of a fused region.
        fusion_size: width to which both are projected.
        chunks: number of chunks, all of one size but the last, which is smaller if they do not divide `fusion_size`.
        rank: number of products in the sum.
    """

    def __init__(
        self, question_size: int, visual_size: int, output_size: int, fusion_size: int, chunks: int, rank: int
    ) -> None:
        super().__init__()
        size = -(-fusion_size // chunks)
        self.sizes = [min(size, fusion_size - start) for start in range(0, fusion_size, size)]
        self.rank = rank
        self.question, self.vision = nn.Linear(question_size, fusion_size), nn.Linear(visual_size, fusion_size)
        self.question_chunks = nn.ModuleList(nn.Linear(n, rank * n) for n in self.sizes)
        self.vision_chunks = nn.ModuleList(nn.Linear(n, rank * n) for n in self.sizes)
        self.output = nn.Linear(fusion_size, output_size)

    def forward(self, question: Tensor, regions: Tensor) -> Tensor:
        """Each region as the question sees it, (B, R, output_size), of questions (B, Q) and regions (B, R, F)."""
        questions = self.question(question).split(self.sizes, dim=-1)
        visions = self.vision(regions).split(self.sizes, dim=-1)
        fused = []
        for q, v, ask, see in zip(questions, visions, self.question_chunks, self.vision_chunks, strict=True):
            products = ask(q)[:, None] * see(v)
            chunk = products.unflatten(-1, (self.rank, -1)).sum(dim=-2)
            # Not sign(x) · √|x|, whose gradient at 0 is no number.
            rooted = chunk.relu().sqrt() - (-chunk).relu().sqrt()
            fused.append(functional.normalize(rooted, dim=-1))
        return self.output(torch.cat(fused, dim=-1))  # type: ignore[no-any-return]
