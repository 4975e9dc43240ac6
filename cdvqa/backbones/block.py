"""BLOCK, the bilinear fusion of question and regions (Ben-younes et al., 2019)."""

import torch
from torch import Tensor, nn
from torch.nn import functional


class BlockFusion(nn.Module):
    """Bilinear fusion: question and region are projected to one width, cut into chunks, and multiplied chunk by chunk.

    A chunk of n units has two Linears n → rank · n, one for the question and one for the region. Their product is
    summed over the rank; its signed square root is scaled to length 1. The chunks are concatenated and projected to the
    output.

    Source: `Block` in Cadene/block.bootstrap.pytorch, with the published `pos_norm`.

    Args:
        question_size, visual_size: Q and F, width of a question and of a region.
        output_size: width of a fused region.
        fusion_size: width to which both are projected.
        chunks: number of chunks of equal size; the last is smaller if `fusion_size` is not a multiple of `chunks`.
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
        """Each region fused with its question, (B, R, output_size), from questions (B, Q) and regions (B, R, F)."""
        questions = self.question(question).split(self.sizes, dim=-1)
        visions = self.vision(regions).split(self.sizes, dim=-1)
        fused = []
        for q, v, ask, see in zip(questions, visions, self.question_chunks, self.vision_chunks, strict=True):
            products = ask(q)[:, None] * see(v)
            chunk = products.unflatten(-1, (self.rank, -1)).sum(dim=-2)
            # Not sign(x) · √|x|, whose gradient at 0 is NaN.
            rooted = chunk.relu().sqrt() - (-chunk).relu().sqrt()
            fused.append(functional.normalize(rooted, dim=-1))
        output: Tensor = self.output(torch.cat(fused, dim=-1))
        return output
