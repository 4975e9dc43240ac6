"""The data module for backbones that read images, and for generative ones."""

from dataclasses import replace

import numpy as np
import orjson
import pytest
import torch
from PIL import Image

from cdvqa.data.handshake import DataNeeds
from cdvqa.data.visual.source import ImageFormat
from cdvqa.errors import InputError
from cdvqa.presets import preset_protocol
from cdvqa.stages.features import differences
from tests.data.test_datamodule import make, train_annotations
from tests.data.toy import IMAGES, dump, write_toy, write_toy_images

FORMAT = ImageFormat(16, (0.5, 0.4, 0.3), (0.2, 0.25, 0.3))
PROTOCOL = replace(preset_protocol("paper", stage=1), global_batch=8)


@pytest.fixture
def root(tmp_path):
    """A data set without any region features."""
    write_toy(tmp_path)
    write_toy_images(tmp_path / "images")
    (tmp_path / "features.h5").unlink()
    return tmp_path


def see(root, generates=False, **options):
    data = make(root, PROTOCOL, **options)
    data.needs = DataNeeds(PROTOCOL, FORMAT, generates)
    return data


def squeezed(root, image):
    (file,) = root.rglob(f"COCO_*_{image:012}.png")
    with Image.open(file) as picture:
        pixels = np.asarray(picture.resize((16, 16), Image.Resampling.BICUBIC), np.float64)
    return ((pixels / 255 - FORMAT.mean) / FORMAT.std).transpose(2, 0, 1)


def test_batches_hold_pictures_and_no_regions(root):
    data = see(root)
    for stage in ("fit", "test"):
        data.setup(stage)
    loaders = [data.train_dataloader(), data.val_dataloader()[0], *data.test_dataloader()]
    for batch in (batch for loader in loaders for batch in loader):
        assert batch.region_features is batch.boxes is batch.region_mask is batch.sequences is None
        assert batch.image.dtype == torch.float32
        wanted = [squeezed(root, question % IMAGES) for question in batch.question_id.tolist()]
        np.testing.assert_allclose(batch.image, wanted, rtol=1e-6, atol=1e-6)
        assert batch.soft_target.shape == (len(batch), 6) and batch.label is not None
        assert data.on_after_batch_transfer(batch, 0).image is batch.image


def test_training_batches_of_a_generative_backbone_hold_sequences_and_no_targets(root):
    data = see(root, generates=True)
    data.setup("fit")
    annotations = {annotation["question_id"]: annotation for annotation in train_annotations(root)}
    trained_on = [annotations[int(q)] for q in data.facts.question_id["train"]]
    seen = 0
    for batch in data.train_dataloader():
        assert batch.soft_target is batch.label is batch.prior is batch.answers is None
        sequences = batch.sequences
        for number, question in enumerate(batch.question_id.tolist()):
            given = [answer["answer"] for answer in annotations[question]["answers"]]
            distinct = list(dict.fromkeys(given))
            mine = sequences.question == number
            assert int(mine.sum()) == len(distinct)
            np.testing.assert_allclose(sequences.weight[mine], [given.count(a) / 10 for a in distinct], rtol=1e-6)
            kind = annotations[question]["question_type"]
            of_type = [x["answer"] for a in trained_on if a["question_type"] == kind for x in a["answers"]]
            prior = [of_type.count(answer) / len(of_type) for answer in distinct]
            np.testing.assert_allclose(sequences.prior[mine], prior, rtol=1e-6)
            seen += 1
    assert seen == len(trained_on) < len(annotations)  # nothing of the development split is in the prior
    assert data.tokenizer.token_to_id("[SEP]") == 3
    evaluation = next(iter(data.val_dataloader()[0]))
    assert evaluation.sequences is None and evaluation.answers and evaluation.soft_target is not None


def batches(data, epoch):
    loader = data.train_dataloader()
    loader.sampler.set_epoch(epoch)
    return {q: picture for batch in loader for q, picture in zip(batch.question_id.tolist(), batch.image, strict=True)}


def test_augmented_pictures_are_the_same_in_any_order_and_number_of_threads(root, monkeypatch):
    monkeypatch.setenv("PL_GLOBAL_SEED", "5")
    datas = [see(root, augmentation="mplug", num_workers=workers) for workers in (0, 2)]
    for data in datas:
        data.setup("fit")
    first, threads = (batches(data, epoch=1) for data in datas)
    datas[0].needs = DataNeeds(replace(PROTOCOL, global_batch=5), FORMAT)
    others = batches(datas[0], epoch=1), batches(datas[0], epoch=2)
    assert len(first) == 57
    for question, picture in first.items():
        assert torch.equal(picture, threads[question]) and torch.equal(picture, others[0][question])
        assert not torch.equal(picture, others[1][question])
    for batch in datas[0].val_dataloader()[0]:  # evaluation uses the pictures as they are
        wanted = [squeezed(root, question % IMAGES) for question in batch.question_id.tolist()]
        np.testing.assert_allclose(batch.image, wanted, rtol=1e-6, atol=1e-6)


def test_an_epoch_resumed_in_the_middle_continues_with_the_same_pictures(root):
    data = see(root, augmentation="mplug")
    data.setup("fit")
    whole = data.train_dataloader()
    whole.sampler.set_epoch(2)
    iterator = iter(whole)
    for _ in range(3):
        next(iterator)
    state, rest = whole.state_dict(), list(iterator)
    again = data.train_dataloader()
    again.load_state_dict(state)
    resumed = list(again)
    assert len(resumed) == len(rest) == 5
    for batch, wanted in zip(resumed, rest, strict=True):
        assert torch.equal(batch.question_id, wanted.question_id) and torch.equal(batch.image, wanted.image)


def test_the_fingerprint_is_that_of_the_images_and_differs_from_that_of_regions(root):
    data = see(root)
    data.setup("fit")
    fingerprint = data.facts.fingerprint()
    assert fingerprint["features"] == data.facts.features and orjson.loads(orjson.dumps(fingerprint)) == fingerprint
    theirs = {"extractor": "images, 16 x 16 pixels"}
    assert list(differences(theirs | {"files": 3}, data.facts.features)) == []
    regions = {"extractor": "a", "images": 64, "norm": {"mean": 1.0}, "boxes": {}, "order": {}}
    assert [what for what, *_ in differences(regions, data.facts.features)] == ["extractor"]


def test_errors_come_at_set_up_and_are_named(root, tmp_path):
    with pytest.raises(InputError, match=r"absent: no such folder of images; point --data\.images"):
        see(root, images=str(tmp_path / "absent")).setup("fit")
    next(root.rglob(f"COCO_*_{3:012}.png")).unlink()
    with pytest.raises(InputError, match=r"images: image 3 \(question \d+\) has no file in the folder"):
        see(root).setup("fit")
    data = make(root, augmentation="mplug")
    with pytest.raises(InputError, match=r"^--data\.augmentation mplug: the backbone sees region features, no images$"):
        data.setup("fit")


def ask(root, questions):
    dump(root / "mine.json", [{"question_id": i, "image_id": i, "question": "is the dog?"} for i in questions])
    data = see(root, generates=True, questions=str(root / "mine.json"))
    data.needs = replace(data.needs, network={"answers": ["yes"], "text_format": "standard"})
    data.setup("predict")
    return data


def test_own_questions_about_images(root):
    (batch,) = ask(root, [4, 2]).predict_dataloader()[0]
    assert batch.question_id.tolist() == [4, 2] and batch.sequences is batch.region_features is None
    np.testing.assert_allclose(batch.image, [squeezed(root, 4), squeezed(root, 2)], rtol=1e-6, atol=1e-6)
    with pytest.raises(
        InputError, match=r"mine\.json: .*image 77 \(question 77\).*; --data\.images must hold every im"
    ):
        ask(root, [4, 77])


def test_extra_text_is_tokenised_with_the_question_and_kept_by_its_content(root):
    def first_pieces(**options):
        data = see(root, **options)
        data.setup("test")
        batch = next(iter(data.test_dataloader()[0]))
        return dict(zip(batch.question_id.tolist(), batch.input_ids.tolist(), strict=True)), data

    plain, _ = first_pieces()
    extra = root / "extra.json"
    dump(extra, [{"question_id": 5003, "ocr": ["dog"], "object_label": "the&&dog"}])
    longer, data = first_pieces(extra_text=str(extra))
    assert data.facts.fingerprint()["files"][str(extra)] == data.extra_text.digest
    for question, pieces in longer.items():
        own = [piece for piece in plain[question] if piece]
        appended = [11, 3, 6, 11, 3] if question == 5003 else []
        assert pieces == (own + appended + [0] * 80)[:80]
    dump(extra, [{"question_id": 5004, "object_label": "dog"}])
    again, _ = first_pieces(extra_text=str(extra))
    assert again[5003] == plain[5003] + [0] * 60 and again[5004] != longer[5004]
    assert first_pieces()[0] == plain
