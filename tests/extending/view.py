"""An objective that compares each question with a second view of it, its words in another order."""

from torch.nn.functional import binary_cross_entropy_with_logits, mse_loss

from cdvqa.objectives import Loss, Objective


def shuffled(question: str, random) -> str:
    """The question's words in another order; `random` is seeded by the run's seed, the epoch and the question's id."""
    words = question.split()
    return " ".join(words[i] for i in random.permutation(len(words)))


class Orderless(Objective):
    """Binary cross-entropy, and the squared distance of the pooled outputs of the question and its shuffled view."""

    needs = frozenset({"hidden", "views"})
    views = {"shuffled": shuffled}  # noqa: RUF012

    def __init__(self, weight: float = 0.1) -> None:
        super().__init__()
        self.weight = weight

    def loss(self, logits, soft_target, hidden, views) -> Loss:
        task = binary_cross_entropy_with_logits(logits, soft_target, reduction="sum") / len(logits)
        distance = self.weight * mse_loss(views["shuffled"].hidden, hidden)
        return Loss(task + distance, {"task": task, "distance": distance}, count=len(logits))
