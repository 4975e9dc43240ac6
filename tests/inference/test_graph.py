"""A scorer and its graph give the scores of its backbone, for any number of questions, words and regions."""

import pytest
import torch

from cdvqa.backbones import Lxmert
from cdvqa.data.batch import VQABatch
from cdvqa.errors import InputError
from cdvqa.inference.graph import library, onnx_session, trace, write_onnx
from cdvqa.inference.scorer import Scorer, inputs_of
from cdvqa.objectives import make_objective
from tests.backbones.test_lxmert import TINY as LXMERT
from tests.backbones.test_shrink import BACKBONES


def questions(number: int, words: int, regions: int, masks: bool) -> VQABatch:
    generator = torch.Generator().manual_seed(number)
    lengths = torch.randint(1, words + 1, (number, 1), generator=generator)
    return VQABatch(
        torch.arange(number),
        torch.randint(1, 40, (number, words), generator=generator),
        (torch.arange(words) < lengths).long() if masks else None,
        torch.randn(number, regions, 10, generator=generator),
        torch.rand(number, regions, 4, generator=generator),
        torch.rand(number, regions, generator=generator) > 0.3 if masks else None,
    )


@pytest.mark.parametrize("backbone", BACKBONES)
def test_scores_are_those_of_the_backbone(backbone, tmp_path):
    torch.manual_seed(0)
    model = BACKBONES[backbone]().eval()
    batches = [questions(3, 6, 5, True), questions(1, 4, 7, False), questions(5, 2, 3, True)]
    with torch.no_grad():
        expected = [model(batch).logits for batch in batches]
    scorer = Scorer(model, make_objective("bce", model.hidden_size, num_answers=7))
    program = trace(scorer, inputs_of(batches[0]))
    atol = {"fp32": 1e-5, "fp16": 5e-3, "int8": 5e-2}
    for dtype in ("fp32", "fp16", "int8"):
        write_onnx(program, tmp_path / f"{dtype}.onnx", dtype)
        session = onnx_session(tmp_path / f"{dtype}.onnx", 1)
        for batch, scores in zip(batches, expected, strict=True):
            torch.testing.assert_close(scorer(**inputs_of(batch)), scores, rtol=0, atol=1e-5)
            torch.testing.assert_close(session(inputs_of(batch)), scores, rtol=0, atol=atol[dtype])
    assert sorted(path.name for path in tmp_path.iterdir()) == ["fp16.onnx", "fp32.onnx", "int8.onnx"]


def test_scores_of_an_objective_with_a_part_in_the_network_are_ranked():
    torch.manual_seed(0)
    model, batch = BACKBONES["lxmert"]().eval(), questions(3, 6, 5, True)
    objective = make_objective("rmlvqa", model.hidden_size, num_answers=7).eval()
    with torch.no_grad():
        expected = objective.scores(model(batch))
    scorer = Scorer(model, objective)
    torch.testing.assert_close(scorer(**inputs_of(batch)), expected)
    assert not any("parametrizations" in name for name, _ in scorer.named_parameters())


class LooksAtValues(Lxmert):
    """Its computation depends on what the questions are."""

    def forward(self, batch):
        return super().forward(batch if bool(batch.boxes.sum() > 0) else questions(2, 2, 2, False))


def test_a_backbone_that_is_no_graph_and_a_missing_library_are_refused():
    scorer = Scorer(LooksAtValues(7, None, LXMERT), make_objective("bce", 16, num_answers=7))
    with pytest.raises(InputError, match="torch cannot write LooksAtValues as a graph; export it with --to subnetwork"):
        trace(scorer, inputs_of(questions(3, 6, 5, True)))
    with pytest.raises(InputError, match=r"nothing_like_it is not installed; pip install 'cdvqa\[export\]'"):
        library("nothing_like_it.part")
