"""An assignment with its own share for each matrix: small matrices keep more of their weights."""

from cdvqa.sparsity import Assignment, Group


class ErdosRenyi(Assignment):
    """Of r x c weights the share kept is proportional to (r + c) / (r · c), and at most 1 (Evci et al. 2020).

    Args:
        power: of that ratio; 0 keeps the same share of every matrix.
    """

    def __init__(self, power: float = 1.0) -> None:
        self.power = power

    def groups(self, matrices, overall):
        sizes = [matrix.weight.numel() for matrix in matrices]
        ratios = [(sum(matrix.weight.shape) / matrix.weight.numel()) ** self.power for matrix in matrices]
        low, high = 0.0, 1 / min(ratios)
        for _ in range(60):  # halve the interval around the scale at which the shares give the overall sparsity
            scale = (low + high) / 2
            kept = [min(1.0, scale * ratio) for ratio in ratios]
            enough = sum(share * size for share, size in zip(kept, sizes, strict=True)) > (1 - overall) * sum(sizes)
            low, high = (low, scale) if enough else (scale, high)
        return [Group([matrix.name], 1 - share) for matrix, share in zip(matrices, kept, strict=True)]
