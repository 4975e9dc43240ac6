"""Positive questions and their contrast, against the authors' own code."""

import json

import numpy as np
import pytest
import torch

from cdvqa.data.answers.targets import SoftTargets
from cdvqa.data.answers.vocabulary import AnswerVocabulary
from cdvqa.data.dataset import Answered
from cdvqa.data.questions.annotations import Annotations
from cdvqa.errors import InputError
from cdvqa.objectives import LMH, Output, make_objective
from cdvqa.objectives.baselines.mmbs import MMBS, Positive, contrastive, normalised, unbiased
from tests.objectives.inputs import assert_close, double


def answered(arrays, split: str) -> Answered:
    annotations = Annotations.of(json.loads(str(arrays[f"{split}_annotations"])))
    vocabulary = AnswerVocabulary(json.loads(str(arrays[f"{split}_vocabulary"])))
    targets = SoftTargets.from_annotations(annotations, vocabulary, rule="clark")
    return Answered(annotations.question_type, annotations.answer_type, targets)


@pytest.mark.parametrize(("split", "key"), [("split", "split_ntypes_unbiased"), ("split65", "split65_unbiased")])
def test_unbiased_answers_are_the_authors(golden, split, key):
    arrays = golden("mmbs")
    questions = answered(arrays, split)
    types = zip(questions.question_type.names, unbiased(questions), strict=True)
    found = {name: np.flatnonzero(chosen).tolist() for name, chosen in types}
    expected = {name: sorted(labels) for name, labels in json.loads(str(arrays[key])).items()}
    assert found == expected and any(expected.values())


def test_positive_questions_are_the_authors(golden):
    arrays = golden("mmbs")
    questions, text = answered(arrays, "split"), json.loads(str(arrays["split_questions"]))
    positive = Positive().over(questions)
    removed = iter(json.loads(str(arrays["split_removed_text"])))
    kinds = set()
    for number, row in enumerate(arrays["split_rows"].tolist()):
        found, without = positive(row, text[row], np.random.default_rng(3)), next(removed)
        if arrays["split_has_answer"][number] and arrays["split_is_unbiased"][number]:
            kinds.add("itself")
            assert found == text[row]
        elif questions.answer_type[row] == "yes/no":
            kinds.add("without its type")
            assert found == without
        else:
            kinds.add("shuffled")
            assert sorted(found.split()) == sorted(text[row].split())
    assert kinds == {"itself", "without its type", "shuffled"}


def test_shuffled_words_follow_the_generator(golden):
    arrays = golden("mmbs")
    questions, text = answered(arrays, "split"), json.loads(str(arrays["split_questions"]))
    row = next(i for i in range(len(text)) if questions.answer_type[i] == "number" and len(text[i].split()) > 4)
    positive = Positive().over(questions)
    first, again, other = (positive(row, text[row], np.random.default_rng(seed)) for seed in (0, 0, 1))
    assert first == again != other


@pytest.mark.parametrize("case", ["c0", "c1", "c2"])
def test_the_loss_equals_the_reference(golden, case):
    """In the authors' model the classifier reads the normalised vector, too."""
    arrays = golden("mmbs")
    joint, positive = (double(arrays[f"{case}_{name}"], grad=True) for name in ("joint", "joint_positive"))
    weight, target = double(arrays[f"{case}_classifier_weight"], grad=True), double(arrays[f"{case}_target"])
    logits = normalised(joint) @ weight.T + double(arrays[f"{case}_classifier_bias"])
    assert_close(logits, arrays[f"{case}_logits"])
    loss = MMBS(joint.shape[1])(logits, target, prior=target, hidden=joint, views={"positive": Output(None, positive)})
    assert_close(loss.terms["task"], arrays[f"{case}_loss_bce"])
    assert_close(loss.terms["contrast"], arrays[f"{case}_loss_cl"])
    assert_close(loss.total, arrays[f"{case}_loss"])
    loss.total.backward()
    assert_close(joint.grad, arrays[f"{case}_grad_joint"])
    assert_close(positive.grad, arrays[f"{case}_grad_joint_positive"])
    assert_close(weight.grad, arrays[f"{case}_grad_classifier_weight"])


@pytest.mark.parametrize("case", ["c0", "c1", "c2"])
def test_the_contrast_without_batch_norm_equals_the_reference(golden, case):
    arrays = golden("mmbs")
    vectors = [double(arrays[f"{case}_{name}"], grad=True) for name in ("joint", "joint_positive")]
    loss = contrastive(*vectors)
    loss.backward()
    assert_close(loss, arrays[f"{case}_nobn_loss_cl"])
    assert_close(vectors[0].grad, arrays[f"{case}_nobn_grad_joint"])
    assert_close(vectors[1].grad, arrays[f"{case}_nobn_grad_joint_positive"])


def test_over_lmh_it_has_lmhs_terms_and_parameters():
    torch.manual_seed(0)
    objective = MMBS(8, base="lmh").double()
    logits, target, prior = torch.randn(4, 5).double(), torch.rand(4, 5).double(), torch.rand(4, 5).double()
    hidden, views = torch.randn(4, 8).double(), {"positive": Output(None, torch.randn(4, 8).double())}
    loss = objective(logits, target, prior=prior, hidden=hidden, views=views)
    lmh = LMH(8).double()
    lmh.load_state_dict(objective.base.state_dict())
    expected = lmh(logits, target, prior=prior, hidden=hidden)
    assert_close(loss.total - loss.terms["contrast"], expected.total.detach().numpy())
    assert set(loss.terms) == {"task", "entropy", "contrast"} and "gate" in loss.logged


def test_another_base_is_refused():
    with pytest.raises(InputError, match=r"--model\.objective_options\.base lhm: expected one of bce, lmh"):
        make_objective("mmbs", 8, base="lhm")
