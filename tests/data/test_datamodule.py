"""The data module: which questions each stage gets, and what its batches hold."""

from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import orjson
import pytest
import pytorch_lightning as pl
import torch

from cdvqa.data import VQADataModule, prepared
from cdvqa.data.datasets import VQAVS
from cdvqa.data.datasets.vqavs import OOD_SETS
from cdvqa.data.handshake import DataNeeds
from cdvqa.data.questions import official
from cdvqa.errors import InputError
from cdvqa.presets import preset_protocol
from tests.data.toy import IMAGES, REGIONS, WIDTH, dump, record, split, write_toy, write_toy_features

PAPER = preset_protocol("paper", stage=1)
AUTHORS = preset_protocol("authors", stage=1)


def make(root, protocol=PAPER, **options):
    options = {"name": "toy", "layout": "vqacp", "num_answers": 6, "min_count": 2} | options
    data = VQADataModule(root=str(root), **options)
    data.needs = DataNeeds(protocol)
    return data


def train_annotations(root):
    return orjson.loads((root / "vqacp_v2_train_annotations.json").read_bytes())


def question_ids(loader):
    return torch.cat([batch.question_id for batch in loader]).tolist()


def test_a_training_batch_is_complete(tmp_path):
    data = make(write_toy(tmp_path), replace(PAPER, global_batch=8))
    data.setup("fit")
    batch = next(iter(data.train_dataloader()))
    assert batch.input_ids.shape == batch.attention_mask.shape == (8, 20)
    assert batch.region_features.shape == (8, REGIONS, WIDTH) and batch.boxes.shape == (8, REGIONS, 4)
    assert batch.region_mask is None and batch.image is None and batch.answers is None
    assert batch.soft_target.shape == batch.prior.shape == (8, 6)
    dtypes = {name: getattr(batch, name).dtype for name in ("input_ids", "attention_mask", "label", "question_type")}
    assert set(dtypes.values()) == {torch.int64}
    assert batch.region_features.dtype == batch.soft_target.dtype == batch.prior.dtype == torch.float32

    annotations = {a["question_id"]: a for a in train_annotations(tmp_path)}
    for i, question_id in enumerate(batch.question_id.tolist()):
        annotation = annotations[question_id]
        given = [answer["answer"] for answer in annotation["answers"]]
        wanted = [min(given.count(answer) / 3, 1.0) for answer in data.vocabulary.answers]
        np.testing.assert_allclose(batch.soft_target[i], wanted, rtol=1e-6)
        # The label is the answer of the largest score, of several the one that the question's humans gave first.
        best = [answer for answer in given if answer in data.vocabulary.answers]
        scores = dict(zip(data.vocabulary.answers, wanted, strict=True))
        assert batch.label[i] == (data.vocabulary.index(max(best, key=scores.get)) if best else -1)
        assert data.question_types[batch.question_type[i]] == annotation["question_type"]
        assert data.answer_types[batch.answer_type[i]] == annotation["answer_type"]
        np.testing.assert_array_equal(batch.prior[i], data.prepared.prior.row(annotation["question_type"]))


def test_development_questions_are_neither_trained_on_nor_in_the_prior(tmp_path):
    data = make(write_toy(tmp_path, train=200))
    data.setup("fit")
    train, dev = question_ids(data.train_dataloader()), question_ids(data.val_dataloader()[0])
    assert len(dev) == 10 and sorted(train + dev) == list(range(1000, 1200))
    assert all(batch.answers for batch in data.val_dataloader()[0])

    held_out = set(dev)
    kept = [
        a for a in train_annotations(tmp_path) if a["question_id"] not in held_out and a["question_type"] == "is the"
    ]
    yes = np.mean([min(sum(x["answer"] == "yes" for x in a["answers"]) / 3, 1) for a in kept])
    np.testing.assert_allclose(data.prepared.prior.row("is the")[data.vocabulary.index("yes")], yes, rtol=1e-6)


def test_fit_reads_no_test_split_unless_the_model_is_selected_on_it(tmp_path):
    root = write_toy(tmp_path, id_test=5)
    for name in ("test", "id"):
        (root / f"vqacp_v2_{name}_annotations.json").write_text("not JSON")
    data = make(root)
    data.setup("fit")
    assert data.prepared.test_splits == ["id", "test"]
    selected_on_test = make(root, replace(PAPER, selection="test"))
    with pytest.raises(InputError, match=r"vqacp_v2_test_annotations\.json: not valid JSON"):
        selected_on_test.setup("fit")


def test_a_share_of_zero_holds_nothing_out_and_has_nothing_to_validate_on(tmp_path):
    data = make(write_toy(tmp_path), replace(PAPER, selection="last", dev_share=0.0))
    data.setup("fit")
    assert sorted(question_ids(data.train_dataloader())) == list(range(1000, 1060)) and data.val_dataloader() == []
    with pytest.raises(InputError, match=r"--data\.dev_share is 0, .* use `cdvqa test`"):
        data.setup("validate")


def on_rank(rank: int, root: Path) -> VQADataModule:
    """The data module of one of two processes that are about to train."""
    data = make(root)
    data.trainer = SimpleNamespace(world_size=2, global_rank=rank, state=SimpleNamespace(fn="fit"))
    return data


def test_one_process_reads_the_questions_for_all(tmp_path, monkeypatch):
    """Every process of a distributed run parsed the files and wrote the cache at once."""
    root = write_toy(tmp_path)
    on_rank(0, root).prepare_data()
    monkeypatch.setattr(official, "read_records", lambda *args: pytest.fail("it was read again"))
    monkeypatch.setattr(prepared, "word_pieces", lambda *args: pytest.fail("it was tokenised again"))
    other = on_rank(1, root)
    other.setup("fit")
    assert len(other.facts.question_id["train"]) == 57


def test_broken_questions_stop_every_process_at_the_same_place(tmp_path):
    """In `prepare_data` the others would wait for the one that reads."""
    root = write_toy(tmp_path)
    (root / "vqacp_v2_train_annotations.json").write_text("[")
    for rank in (0, 1):
        data = on_rank(rank, root)
        data.prepare_data()
        with pytest.raises(InputError, match="not valid JSON"):
            data.setup("fit")


def test_fewer_questions_than_processes_are_refused(tmp_path):
    """Lightning said that a loader has zero length, and named no split."""
    data = make(write_toy(tmp_path, test=3))
    data.setup("test")
    data.trainer = SimpleNamespace(world_size=4, global_rank=0)
    with pytest.raises(InputError, match=r"^test: 3 questions are fewer than 4 processes; .*--trainer\.devices 1"):
        data.test_dataloader()


def test_selection_on_test_holds_nothing_out(tmp_path):
    data = make(write_toy(tmp_path, id_test=5), AUTHORS)
    data.setup("fit")
    assert sorted(question_ids(data.train_dataloader())) == list(range(1000, 1060))
    assert question_ids(data.val_dataloader()[0]) == list(range(5000, 5023))
    batch = next(iter(data.train_dataloader()))
    assert batch.input_ids.shape == (60, 14) and batch.attention_mask is None
    assert batch.label.min() >= 0  # the authors draw a random class where no answer is known
    assert all((b.label >= -1).all() and (b.label == -1).any() for b in data.val_dataloader()[0])


def test_test_splits_keep_every_question_and_index_types_seen_only_there(tmp_path):
    root = write_toy(tmp_path, id_test=5)
    questions, annotations = split(4, 7000)
    annotations[2] = record(7002, "why", ["because"] * 10, "reason")
    dump(root / "vqacp_v2_test_questions.json", questions)
    dump(root / "vqacp_v2_test_annotations.json", annotations)
    data = make(root)
    data.setup("test")
    assert (
        "why" in data.question_types
        and "why" not in data.prepared.prior.question_types
        and "reason" in data.answer_types
    )
    id_loader, test_loader = data.test_dataloader()
    assert question_ids(id_loader) == list(range(9000, 9005))
    batch = next(iter(test_loader))
    assert batch.question_id.tolist() == [7000, 7001, 7002, 7003]
    assert data.question_types[batch.question_type[2]] == "why" and data.answer_types[batch.answer_type[2]] == "reason"
    assert batch.prior[2].sum() == batch.soft_target[2].sum() == 0 and batch.label[2] == -1
    assert batch.answers[2] == ["because"] * 10


def ask(root, **options):
    """A data module for a network that has its own vocabulary and text format."""
    data = make(root, protocol=None, **options)
    data.needs = replace(data.needs, network={"answers": ["maybe", "yes"], "text_format": "authors"})
    data.setup("predict")
    return data


def test_predict_reads_questions_alone_in_the_text_format_of_the_network(tmp_path):
    root = write_toy(tmp_path, id_test=5)
    for path in [*root.glob("*annotations*"), root / "vqacp_v2_train_questions.json"]:
        path.unlink()
    data = ask(root)
    assert data.facts.splits == ["id", "test"] and data.vocabulary.answers == ["maybe", "yes"]
    id_loader, test_loader = data.predict_dataloader()
    assert sorted(question_ids(id_loader)) == list(range(9000, 9005)) and len(question_ids(test_loader)) == 23
    written = [q["question_id"] for q in orjson.loads((root / "vqacp_v2_test_questions.json").read_bytes())]
    assert data.facts.question_id["test"].tolist() == question_ids(test_loader) == written
    batch = next(iter(test_loader))
    assert batch.input_ids.shape == (23, 14) and batch.attention_mask is None
    assert batch.soft_target is batch.label is batch.prior is batch.question_type is batch.answers is None


def test_predict_takes_a_file_of_questions(tmp_path):
    root = write_toy(tmp_path)
    mine = [{"question_id": 8 - i, "image_id": i % IMAGES, "question": "is the dog?"} for i in range(5)]
    dump(tmp_path / "mine.json", mine)
    data = ask(root, questions=str(tmp_path / "mine.json"), eval_batch_size=2)
    assert data.facts.splits == ["mine"] and data.facts.question_id["mine"].tolist() == [8, 7, 6, 5, 4]
    (loader,) = data.predict_dataloader()
    assert [len(batch) for batch in loader] == [2, 2, 1]
    with pytest.raises(InputError, match="only `predict` takes questions without answers"):
        make(root, questions=str(tmp_path / "mine.json")).setup("test")
    with pytest.raises(RuntimeError, match=r"DataNeeds\.network"):
        make(root).setup("predict")


def test_features_travel_as_stored_and_are_widened_where_they_arrive(tmp_path):
    root = write_toy(tmp_path)
    halves = write_toy_features(root / "features.h5")["features"].astype(np.float16)
    stored = write_toy_features(root / "features.h5", features=halves)
    data = make(root)
    data.setup("test")
    sent = next(iter(data.test_dataloader()[0]))
    assert sent.region_features.dtype == torch.float16
    arrived = data.on_after_batch_transfer(sent, 0).region_features
    assert arrived.dtype == torch.float32
    row = {image: i for i, image in enumerate(stored["image_id"].tolist())}
    wanted = [halves[row[question % IMAGES]] for question in sent.question_id.tolist()]
    np.testing.assert_array_equal(arrived.numpy(), np.stack(wanted).astype(np.float32))


def write_vqavs(root):
    for i, (files, count) in enumerate(zip(VQAVS().splits().values(), (60, 11, 19), strict=True)):
        questions, annotations = split(count, 1000 * i)
        dump(root / files.questions, questions)
        dump(root / files.annotations, annotations)
    for i, name in enumerate(OOD_SETS):
        dump(root / f"OOD-Test/{name}/OOD-Test-{name}-Ques.json", split(i + 1, 2000)[0])
    write_toy_features(root / "features.h5")
    (write_toy(root / "other") / "vocab.txt").rename(root / "vocab.txt")
    return root


def test_vqa_vs_has_its_own_development_split_and_one_test_split(tmp_path):
    data = make(write_vqavs(tmp_path), layout="vqavs")
    data.setup("fit")
    assert sorted(question_ids(data.train_dataloader())) == list(range(60))
    assert question_ids(data.val_dataloader()[0]) == list(range(1000, 1011))
    assert not data.subsets
    data.setup("test")
    assert data.prepared.test_splits == ["iid"] and question_ids(data.test_dataloader()[0]) == list(range(2000, 2019))
    assert data.subsets["iid"]["QT+KW+KO"] == set(range(2000, 2009)) and len(data.subsets["iid"]) == 9


def test_wrong_inputs_are_named_with_the_remedy(tmp_path):
    root = write_toy(tmp_path)
    with pytest.raises(InputError, match=r"has 6 answers, not 2274; set --data.num_answers 6"):
        make(root, num_answers=2274).setup("fit")
    with pytest.raises(InputError, match="no such feature file"):
        make(root, features=str(root / "absent.h5")).setup("fit")
    write_toy_features(root / "fewer.h5", image_id=np.arange(1, IMAGES + 1))
    with pytest.raises(InputError, match=r"fewer.h5: image 0 \(question \d+\) is not in the feature file"):
        make(root, features=str(root / "fewer.h5")).setup("fit")
    data = make(root)
    data.needs = None
    with pytest.raises(RuntimeError, match=r"set `datamodule\.needs`"):
        data.setup("fit")


def test_after_a_change_of_protocol_the_questions_are_read_again(tmp_path):
    data = make(write_toy(tmp_path))
    data.setup("fit")
    assert next(iter(data.val_dataloader()[0])).input_ids.shape[1] == 20
    data.needs = DataNeeds(replace(PAPER, text_format="authors"))
    data.setup("fit")
    assert next(iter(data.val_dataloader()[0])).input_ids.shape[1] == 14


def test_fingerprint_follows_the_files(tmp_path):
    root = write_toy(tmp_path)
    data = make(root)
    data.setup("fit")
    first = data.facts.fingerprint()
    assert set(first["files"]) == {"vqacp_v2_train_questions.json", "vqacp_v2_train_annotations.json"}
    assert first == data.facts.fingerprint() and orjson.loads(orjson.dumps(first)) == first
    data.setup("test")
    assert "vqacp_v2_test_questions.json" in data.facts.fingerprint()["files"]
    write_toy(root, train=61)
    again = make(root)
    again.setup("fit")
    changed = {name for name, digest in again.facts.fingerprint()["files"].items() if digest != first["files"][name]}
    assert changed == set(first["files"]) and again.facts.fingerprint()["features"] == first["features"]


class Recorder(pl.LightningModule):
    """Writes down the questions of every training step."""

    def __init__(self):
        super().__init__()
        self.weight = torch.nn.Parameter(torch.zeros(()))
        self.steps = []

    def training_step(self, batch, batch_idx):
        self.steps.append(batch.question_id.tolist())
        return self.weight * batch.region_features.mean()

    def configure_optimizers(self):
        return torch.optim.SGD(self.parameters(), 0.1)


def run(root, folder, ckpt_path=None, workers=0, accumulate=2, **when):
    pl.seed_everything(11)
    keep = pl.callbacks.ModelCheckpoint(folder, "{step}", save_top_k=-1, **when)
    trainer = pl.Trainer(
        accelerator="cpu",
        callbacks=[keep],
        use_distributed_sampler=False,
        max_epochs=3,
        accumulate_grad_batches=accumulate,
        limit_val_batches=0,
        logger=False,
        enable_progress_bar=False,
        enable_model_summary=False,
    )
    model = Recorder()
    data = make(root, replace(PAPER, global_batch=20), num_workers=workers)
    trainer.fit(model, datamodule=data, ckpt_path=ckpt_path)
    return model.steps


@pytest.mark.parametrize("workers", [0, 2])
@pytest.mark.parametrize(
    ("when", "steps"),
    [({"every_n_train_steps": 1}, (1, 3, 5, 6)), ({"every_n_epochs": 1, "save_on_train_epoch_end": True}, (3, 6))],
)
@pytest.mark.filterwarnings("ignore::UserWarning", "ignore::FutureWarning")
def test_a_run_resumed_at_any_step_sees_the_same_questions(tmp_path, workers, when, steps):
    root = write_toy(tmp_path / "data")
    whole = run(root, tmp_path / "whole", workers=workers, **when)
    # 57 questions in batches of 10, two of them a step: six batches and three steps an epoch, three epochs
    assert [len(batch) for batch in whole[:6]] == [10, 10, 10, 10, 10, 7] and len(whole) == 18
    assert all(len(set().union(*whole[i : i + 6])) == 57 for i in (0, 6, 12)) and whole[:6] != whole[6:12]
    for step in steps:
        rest = run(root, tmp_path / f"rest{step}", tmp_path / f"whole/step={step}.ckpt", workers, **when)
        assert rest == whole[2 * step :]


@pytest.mark.filterwarnings("ignore::UserWarning")
def test_a_global_batch_that_does_not_divide_is_refused(tmp_path):
    with pytest.raises(InputError, match=r"model\.global_batch 20 is not a multiple of 3"):
        run(write_toy(tmp_path / "data"), tmp_path / "run", accumulate=3)


def test_counts_are_those_of_the_training_questions_of_the_type(tmp_path):
    data = make(write_toy(tmp_path, train=200), replace(PAPER, global_batch=16))
    data.needs = replace(data.needs, counts=True)
    data.setup("fit")
    held_out = set(data.facts.question_id["dev"].tolist())
    batch = next(iter(data.train_dataloader()))
    for kind, counts in zip(batch.question_type.tolist(), batch.counts, strict=True):
        given = [
            answer["answer"]
            for annotation in train_annotations(tmp_path)
            if annotation["question_type"] == data.question_types[kind] and annotation["question_id"] not in held_out
            for answer in annotation["answers"]
        ]
        assert counts.tolist() == [given.count(answer) for answer in data.vocabulary.answers]
    (evaluation,) = data.val_dataloader()
    assert next(iter(evaluation)).counts is None


def test_a_view_is_a_function_of_seed_epoch_and_question(tmp_path, monkeypatch):
    def backwards_from(text, random):
        words = text.split()
        start = int(random.integers(len(words)))
        return " ".join([*words[start:], *words[:start]])

    data = make(write_toy(tmp_path), replace(PAPER, global_batch=16))
    data.needs = replace(data.needs, views={"turned": backwards_from})
    data.setup("fit")
    train, rows = data.train_dataloader().dataset, np.arange(16)
    first, again, other = (train.batch(rows, epoch).views["turned"] for epoch in (3, 3, 4))
    monkeypatch.setenv("PL_GLOBAL_SEED", "1")
    seeded = make(tmp_path, replace(PAPER, global_batch=16))
    seeded.needs = data.needs
    seeded.setup("fit")
    other_seed = seeded.train_dataloader().dataset.batch(rows, 3).views["turned"]
    assert not torch.equal(other_seed.input_ids, first.input_ids)
    backwards = train.batch(rows[::-1].copy(), 3).views["turned"].input_ids.flip(0)
    assert torch.equal(first.input_ids, again.input_ids) and torch.equal(first.input_ids, backwards)
    assert not torch.equal(first.input_ids, other.input_ids)
    assert first.attention_mask.shape == first.input_ids.shape == (16, 20)
    assert train.batch(rows, 3).to("cpu").views["turned"].input_ids.shape == (16, 20)
