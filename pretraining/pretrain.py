"""How the small models that ship for `scenes` were made: `python -m pretraining.pretrain lxmert|visualbert|mplug`.

They are trained on the balanced world. As in the pre-training of published models, they also learn to classify what
they see; without that the answers stay at chance for longer. Models of region features train first without noise, then
with new noise at each step: a model that never saw noise forgets what it learned in the first steps of stage 1.
"""

import argparse
import shutil
from pathlib import Path

import torch
from torch import nn

from cdvqa.data.questions.text import load_tokenizer
from cdvqa.worlds.layout import write_vocabulary
from cdvqa.worlds.scene_folder import SHIPPED
from cdvqa.worlds.scene_questions import LANGUAGE
from pretraining import ANSWERS, Learner, LxmertLearner, MplugLearner, VisualBertLearner, ask_balanced

QUESTIONS = 128_000
NOISE = 2.2  # maximum, in the second half
LEARNERS: dict[str, type[LxmertLearner | VisualBertLearner | MplugLearner]] = {
    "lxmert": LxmertLearner,
    "visualbert": VisualBertLearner,
    "mplug": MplugLearner,
}


def pretrain(name: str, output: Path, seed: int = 0, questions: int = QUESTIONS, steps: int | None = None) -> None:
    """Train a model and save it with its vocabulary, replacing `output`.

    Args:
        name: a key of `LEARNERS`.
        output: folder to make.
        seed: of all random numbers.
        questions: number of training questions, at most four per scene.
        steps: optimiser steps; None for those of the learner.
    """
    torch.manual_seed(seed)
    shutil.rmtree(output, ignore_errors=True)
    output.mkdir(parents=True)
    # Only a generative model needs the words of the answers.
    write_vocabulary(output / "vocab.txt", [*LANGUAGE, *ANSWERS] if name == "mplug" else LANGUAGE)
    tokenizer = load_tokenizer(output / "vocab.txt")
    learner = LEARNERS[name](tokenizer, ask_balanced(questions, seed, tokenizer))
    train(learner, steps or learner.steps)
    learner.save(output)


def train(learner: Learner, steps: int) -> None:
    """Train it, without dropout: with dropout the first, flat part of the curve is longer."""
    learner.eval()
    parameters = list(learner.parameters())
    optimizer = torch.optim.AdamW(parameters, lr=learner.rate, weight_decay=0)
    schedule = torch.optim.lr_scheduler.LambdaLR(
        optimizer, lambda step: min((step + 1) / 200, 1, 1.5 * (steps - step) / steps)
    )
    epochs = -(-steps * learner.batch // learner.units)
    rows = torch.cat([torch.randperm(learner.units) for _ in range(epochs)])
    for step, batch in enumerate(rows[: steps * learner.batch].split(learner.batch), 1):
        losses = learner.losses(batch, NOISE if 2 * step > steps else 0.0)
        optimizer.zero_grad()
        torch.stack(list(losses.values())).sum().backward()
        nn.utils.clip_grad_norm_(parameters, 1.0)
        optimizer.step()
        schedule.step()
        if step % 250 == 0:
            print(f"step {step}: " + ", ".join(f"{key} {loss.item():.3f}" for key, loss in losses.items()), flush=True)


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("model", choices=LEARNERS)
    model = parser.parse_args().model
    pretrain(model, SHIPPED[model])
