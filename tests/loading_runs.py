"""Training runs that write down what each process sees; `test_loading_processes` starts them.

As a script, `python loading_runs.py ROOT FOLDER PROCESSES` is one of the processes, and DDP starts the others from it.
"""

import json
import sys
import warnings
from pathlib import Path

import pytorch_lightning as pl
import torch
from pytorch_lightning.callbacks import ModelCheckpoint

from cdvqa.data.loaders import TrainingLoader, evaluation_loader
from tests.data.toy import make_dataset

EPOCHS = 2


class Data(pl.LightningDataModule):
    def __init__(self, root: Path, workers: int) -> None:
        super().__init__()
        self.workers = workers
        self.train = make_dataset(root, "train", random_label_seed=5)
        self.test = make_dataset(root, "test")

    def _place(self) -> dict[str, int]:
        return {"rank": self.trainer.global_rank, "world_size": self.trainer.world_size, "num_workers": self.workers}

    def train_dataloader(self):
        return TrainingLoader(self.train, 6 // self.trainer.world_size, seed=3, **self._place())

    def val_dataloader(self):
        return evaluation_loader(self.test, 4, **self._place())


class Recorder(pl.LightningModule):
    """Learns nothing."""

    def __init__(self) -> None:
        super().__init__()
        self.weight = torch.nn.Parameter(torch.zeros(()))
        self.seen: dict[str, list] = {"train": [], "evaluation": []}

    def training_step(self, batch, batch_idx):
        pairs = zip(batch.question_id.tolist(), batch.label.tolist(), strict=True)
        self.seen["train"].append([self.trainer.current_epoch, *pairs])
        return self.weight * batch.region_features.mean()

    def on_validation_epoch_start(self):
        self.seen["evaluation"].append([])

    def validation_step(self, batch, batch_idx):
        self.seen["evaluation"][-1] += batch.question_id.tolist()

    def configure_optimizers(self):
        return torch.optim.SGD(self.parameters(), 0.1)


def run(root: Path, folder: Path, workers: int, processes: int, resume: Path | None = None) -> dict[str, list]:
    """Train; checkpoints go to `folder`: after each step, after each validation, and at the end of each epoch."""
    often = {
        "step": {"every_n_train_steps": 1, "save_on_train_epoch_end": False},
        "validated": {"save_on_train_epoch_end": False},
        "epoch": {"save_on_train_epoch_end": True, "mode": "max"},  # no two may have all settings in common
    }
    trainer = pl.Trainer(
        accelerator="cpu",
        devices=processes,
        strategy="ddp" if processes > 1 else "auto",
        callbacks=[ModelCheckpoint(folder, f"{name}-{{step}}", save_top_k=-1, **when) for name, when in often.items()],
        max_epochs=EPOCHS,
        val_check_interval=2,
        num_sanity_val_steps=0,
        logger=False,
        enable_progress_bar=False,
        enable_model_summary=False,
    )
    model = Recorder()
    trainer.fit(model, datamodule=Data(root, workers), ckpt_path=resume)
    return model.seen


def whole_and_resumed(root: Path, folder: Path, workers: int, processes: int) -> dict[str, dict[str, list]]:
    """What this process saw in a run, and in those that went on from each of its checkpoints."""
    seen = {"whole": run(root, folder, workers, processes)}
    for checkpoint in sorted(folder.glob("*.ckpt")):
        seen[checkpoint.stem] = run(root, folder / "resumed", workers, processes, checkpoint)
    return seen


if __name__ == "__main__":
    warnings.simplefilter("ignore")
    root, folder, processes = Path(sys.argv[1]), Path(sys.argv[2]), int(sys.argv[3])
    for workers in (0, 2):
        seen = whole_and_resumed(root, folder / f"{workers}", workers, processes)
        rank = torch.distributed.get_rank()
        (folder / f"workers{workers}-rank{rank}.json").write_text(json.dumps(seen))
