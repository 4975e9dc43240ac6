"""LXMERT-base on one GPU at the paper's batch: a step of mask training, resets, and the three stages as users run them.

Random weights, features and questions of the real sizes: speed and memory depend on the sizes alone.
"""

import gc
import os
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import nullcontext
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import orjson
import torch
import yaml
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator
from torch import nn
from torch.sparse import to_sparse_semi_structured

from benchmarks.data_reading import write_file
from benchmarks.mask_step import ANSWERS, TOKENS, mask, random_batch
from benchmarks.record import Record, interleave, write
from benchmarks.threshold import PLANS, SCORES, masked_lxmert, spread
from cdvqa.backbones import Lxmert
from cdvqa.objectives import BCE
from cdvqa.runs.dashboard import GPU_MEMORY, SPEED
from cdvqa.sparsity import binary_masks, reset_thresholds
from cdvqa.stages.optimisation import make_optimizer
from tests.killing import differences, logged
from tests.sparsity.reference import use_plain_masks

ROOT = Path(__file__).parents[1]
DEVICE = "cuda"
BATCH, STEPS, REPEATS = 256, 200, 10
PRECISIONS = ("32-true", "bf16-mixed")
ARMS = ("dense", "mask", "plain")
LXMERT: dict[str, Any] = {}  # LXMERT-base
IMAGES, TYPES, WORDS = 2000, 65, 30_517
TEST_QUESTIONS = 2560
STAGES = ("stage1_lmh", "stage2_lmh", "stage3_lmh")
NOTE = (
    "LXMERT-base sizes, random weights, 36 regions, batch 256, clip 1.0, fused AdamW. Steps: 20 tokens, no loader, the "
    "models in turn. Stages: `cdvqa fit` with LMH for 200 steps, 50 % zeros, features in fp16 from a file; questions/s "
    "is the median of cdvqa's own log without its first 50 steps, the time is that of the whole command, with imports, "
    "checkpoints and a validation. 32-true is true fp32, without TF32."
)


def main() -> None:
    if not torch.cuda.is_available():
        raise SystemExit("no GPU here")
    write("gpu", [*steps(), *resets(), *two_of_four(), *stages()], NOTE)


# One optimiser step


def steps() -> Iterator[Record]:
    """Mask training and its plain implementation against dense fine-tuning: time in turn, peak memory one by one."""
    for precision in PRECISIONS:
        arms = {kind: trainer(kind, precision) for kind in ARMS}
        times = interleave(arms, REPEATS, warmup=3)
        dense = times["dense"].median
        for kind, goal in (("mask", "<= 1.05"), ("plain", "")):
            name = {"mask": "mask step", "plain": "plain implementation"}[kind]
            note = f"{BATCH / times[kind].median:,.0f} questions/s; fastest against fastest "
            note += f"{times[kind].best / times['dense'].best:.3f}"
            yield Record(f"{name}, {precision}", times[kind].median, "s", dense, goal=goal, note=note)
        del arms
        peaks = {kind: peak(partial(trainer, kind, precision)) for kind in ARMS}
        yield Record(f"peak memory of mask training, {precision}", peaks["mask"], "GiB", peaks["dense"], goal="<= 1.35")
        yield Record(f"peak memory, plain implementation, {precision}", peaks["plain"], "GiB", peaks["dense"])


def trainer(kind: str, precision: str) -> Callable[[], None]:
    """A model on the GPU; a call makes one step."""
    torch.manual_seed(0)
    model, objective = Lxmert(ANSWERS, pretrained=None, config=LXMERT), BCE()
    if kind != "dense":
        mask(model)
    model.to(DEVICE)
    if kind == "plain":
        use_plain_masks(model)
    trained = [parameter for parameter in model.parameters() if parameter.requires_grad]
    optimizer = make_optimizer("adamw", [{"params": trained, "lr": 5e-5, "weight_decay": 0.0}])
    batch = random_batch(BATCH).to(DEVICE)

    def step() -> None:
        with torch.autocast(DEVICE, torch.bfloat16) if precision == "bf16-mixed" else nullcontext():
            logits = model(batch).logits
        objective(logits.float(), batch.soft_target).total.backward()
        nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimizer.step()

    step()
    if kind != "dense":
        reset_thresholds(model)  # from now on the forward pass resolves ties
    return step


def peak(make: Callable[[], Callable[[], None]]) -> float:
    """The most memory, GiB, of a few steps of a model that is alone on the GPU."""
    gc.collect()
    torch.cuda.empty_cache()
    torch.cuda.reset_peak_memory_stats()
    step = make()
    for _ in range(3):
        step()
    return torch.cuda.max_memory_allocated() / 2**30


# Resets of the thresholds


def resets() -> Iterator[Record]:
    """A reset of all matrices; against the authors' torch.kthvalue, matrix by matrix, which finds thresholds alone."""
    for name, plan in PLANS.items():
        torch.manual_seed(0)
        model = masked_lxmert(plan).to(DEVICE)
        for scores, moved in SCORES.items():
            spread(model, moved)
            flat = [mask.score.detach().view(-1) for mask in binary_masks(model).values()]
            arms: dict[str, Callable[[], Any]] = {"reset": partial(reset_thresholds, model)}
            if name == "uniform":
                arms["kthvalue"] = partial(authors_thresholds, flat)
            times = interleave(arms, 3)
            baseline = times["kthvalue"].median if "kthvalue" in times else None
            yield Record(f"reset: {name}, {scores}", times["reset"].median, "s", baseline)
        del model, flat, arms
        gc.collect()


def authors_thresholds(scores: list[torch.Tensor]) -> list[float]:
    return [float(part.kthvalue(round(0.7 * len(part))).values) for part in scores]


# Two of four weights on the GPU's sparse units


def two_of_four() -> Iterator[Record]:
    """Linear layers of LXMERT-base with two of four weights zero, against the same layers dense; bf16."""
    for rows in (36, 36 * BATCH):
        for inputs, outputs in ((768, 768), (768, 3072), (3072, 768)):
            weight = torch.randn(outputs, inputs, dtype=torch.bfloat16, device=DEVICE)
            weight.view(-1, 4)[:, 2:] = 0
            sparse = to_sparse_semi_structured(weight)
            hidden = torch.randn(rows, inputs, dtype=torch.bfloat16, device=DEVICE)
            arms = {"dense": weight, "sparse": sparse}
            with torch.inference_mode():
                times = interleave({kind: partial(repeat, hidden, arm) for kind, arm in arms.items()}, REPEATS)
            name = f"50 linear layers {inputs} to {outputs}, two of four, {rows:,} rows"
            yield Record(name, 1e3 * times["sparse"].median, "ms", 1e3 * times["dense"].median)


def repeat(hidden: torch.Tensor, weight: torch.Tensor) -> None:
    for _ in range(50):
        nn.functional.linear(hidden, weight)


# The three stages, from the command line


def stages() -> Iterator[Record]:
    """Each stage at each precision; a mask training that is killed and resumed, with --trainer.deterministic."""
    gc.collect()
    torch.cuda.empty_cache()
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        prepare(folder)
        for precision in PRECISIONS:
            before: list[str] = []
            for stage in STAGES:
                seconds, run = fit(folder, stage, f"--trainer.precision={precision}", *before)
                speed, memory = speed_and_memory(run)
                note = f"peak memory on the GPU {memory:.1f} GiB; whole command {seconds:.0f} s"
                yield Record(f"{stage}, {precision}", speed, "questions/s", note=note)
                before = [f"--model.init_from={run}"]
                if stage == "stage1_lmh":
                    first = before
        yield resumed(folder, first)


def resumed(folder: Path, first: list[str]) -> Record:
    """Whether a killed mask training ends as one that was not, to the last bit."""
    flags = ["--trainer.precision=bf16-mixed", "--trainer.deterministic=true", "--checkpoint_every_n_steps=50"]
    flags += ["--seed_everything=1", *first]
    _, run = fit(folder, "stage2_lmh", *flags)
    speed, _ = speed_and_memory(run)
    whole = run.rename(run.with_name("whole"))
    process = subprocess.Popen(command("stage2_lmh", flags), cwd=folder, env=environment(), start_new_session=True)
    while process.poll() is None and not logged(run / "metrics.csv", STEPS // 2 - 1):
        time.sleep(0.1)
    os.killpg(process.pid, signal.SIGKILL)
    process.wait()
    fit(folder, "stage2_lmh", *flags, "--ckpt_path=last")
    differing = differences(whole, run)
    note = f"killed after {STEPS // 2} steps or a few more, and resumed: differs in {', '.join(differing) or 'nothing'}"
    return Record("stage2_lmh, bf16-mixed, deterministic", speed, "questions/s", note=note)


def fit(folder: Path, stage: str, *flags: str) -> tuple[float, Path]:
    """Seconds of the whole command, and the run's folder."""
    began = time.perf_counter()
    subprocess.run(command(stage, flags), cwd=folder, env=environment(), check=True)
    seconds = time.perf_counter() - began
    return seconds, max(folder.glob("logs/*/*/*/seed*"), key=lambda run: (run / "run.json").stat().st_mtime)


def command(stage: str, flags: Any) -> list[str]:
    return [sys.executable, "-m", "cdvqa", "fit", "--config", f"{stage}.yaml", "--config", "sizes.yaml", *flags]


def environment() -> dict[str, str]:
    return os.environ | {"PYTHONPATH": os.pathsep.join([str(ROOT), *sys.path]), "HF_HUB_OFFLINE": "1"}


def speed_and_memory(run: Path) -> tuple[float, float]:
    """Questions a second and GiB on the GPU, from the events of TensorBoard."""
    events = EventAccumulator(str(run)).Reload()
    speeds = [event.value for event in events.Scalars(SPEED)][1:]
    found = events.Tags()["scalars"]
    memory = max(event.value for event in events.Scalars(GPU_MEMORY)) if GPU_MEMORY in found else 0.0
    return float(np.median(speeds)), memory


def prepare(folder: Path) -> None:
    """Features, questions and annotations in VQA-CP v2's files, word pieces, and the config of these sizes."""
    root, rng = folder / "data", np.random.default_rng(0)
    root.mkdir()
    write_file(root / "features.h5", IMAGES, "float16", chunks=None)
    pieces = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]", *map(word, range(WORDS))]
    (root / "vocab.txt").write_text("\n".join(pieces))
    train = round(BATCH * (STEPS + 1) / 0.95)  # a development split of 5 % is held out
    for split, first, number in (("train", 0, train), ("test", 10**6, TEST_QUESTIONS)):
        questions, annotations = [], []
        for question in range(first, first + number):
            image, words = int(rng.integers(IMAGES)), rng.integers(WORDS, size=rng.integers(4, TOKENS - 2))
            questions.append({"question_id": question, "image_id": image, "question": " ".join(map(word, words))})
            answer = f"answer {question % ANSWERS}"
            annotations.append(
                {
                    "question_id": question,
                    "image_id": image,
                    "question_type": f"type {question % ANSWERS % TYPES}",
                    "answer_type": "other",
                    "multiple_choice_answer": answer,
                    "answers": [{"answer": answer, "answer_id": i, "answer_confidence": "yes"} for i in range(10)],
                }
            )
        (root / f"vqacp_v2_{split}_questions.json").write_bytes(orjson.dumps(questions))
        (root / f"vqacp_v2_{split}_annotations.json").write_bytes(orjson.dumps(annotations))
    backbone = {"class_path": "cdvqa.backbones.Lxmert", "init_args": {"pretrained": None, "config": LXMERT or None}}
    config = {
        "model": {"backbone": backbone, "global_batch": BATCH},
        "data": {"name": "random", "root": str(root), "num_answers": ANSWERS},
        "trainer": {"accelerator": "auto", "devices": 1, "max_epochs": 1, "limit_train_batches": STEPS},
    }
    (folder / "sizes.yaml").write_text(yaml.safe_dump(config))


def word(number: int) -> str:
    return f"word{number}"


if __name__ == "__main__":
    main()
