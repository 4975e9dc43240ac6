"""Gradient accumulation that does not show: a step is the mean over its questions, in however many batches."""


def batch_weight(number: int, questions: int, batch_size: int, accumulated: int, epoch: int) -> float:
    """What to multiply a batch's mean loss by, given that Lightning divides it by `accumulated`.

    It is 1 except in an epoch's last step, which may have fewer batches than the others, and a smaller one.

    Args:
        number: of the batch in its epoch, from 0.
        questions: in this batch.
        batch_size: questions in a full batch.
        accumulated: batches in a full optimiser step.
        epoch: questions in the epoch, of this process as all of these.
    """
    done = number // accumulated * accumulated * batch_size
    return questions * accumulated / min(batch_size * accumulated, epoch - done)
