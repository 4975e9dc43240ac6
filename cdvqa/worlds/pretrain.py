"""How the small models that ship for `scenes` were made: `python -m cdvqa.worlds.pretrain lxmert|visualbert|mplug`.

They learn the balanced world. Besides the answers they learn what there is to see, as the pre-training of published
models teaches: without it the answers stay at chance for longer. Models of region features learn first without noise,
then with fresh noise at each step, since a model that never met noise loses what it knows in the first steps of
stage 1.
"""

import argparse
import shutil
from pathlib import Path

import torch
from torch import nn

from cdvqa.data.questions.text import load_tokenizer
from cdvqa.worlds.layout import write_vocabulary
from cdvqa.worlds.pretraining import ANSWERS, Learner, LxmertLearner, MplugLearner, VisualBertLearner, ask_balanced
from cdvqa.worlds.scene_folder import SHIPPED
from cdvqa.worlds.scene_questions import LANGUAGE

QUESTIONS = 128_000
NOISE = 2.2  # the most that the second half adds
LEARNERS: dict[str, type[LxmertLearner | VisualBertLearner | MplugLearner]] = {
    "lxmert": LxmertLearner,
    "visualbert": VisualBertLearner,
    "mplug": MplugLearner,
}


def pretrain(name: str, output: Path, seed: int = 0, questions: int = QUESTIONS, steps: int | None = None) -> None:
    """Make a checkpoint with its vocabulary, replacing `output`.

    Args:
        name: of `LEARNERS`.
        output: folder to make.
        seed: of everything that is drawn.
        questions: asked about its scenes, at most four a scene.
        steps: as many as the learner says where None.
    """
    torch.manual_seed(seed)
    shutil.rmtree(output, ignore_errors=True)
    output.mkdir(parents=True)
    # Only a model that says its answers needs their words; the others keep the vocabulary of the questions.
    write_vocabulary(output / "vocab.txt", [*LANGUAGE, *ANSWERS] if name == "mplug" else LANGUAGE)
    tokenizer = load_tokenizer(output / "vocab.txt")
    learner = LEARNERS[name](tokenizer, ask_balanced(questions, seed, tokenizer))
    train(learner, steps or learner.steps)
    learner.save(output)


def train(learner: Learner, steps: int) -> None:
    """Train it. Dropout is off: with it the first, flat part takes longer."""
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
