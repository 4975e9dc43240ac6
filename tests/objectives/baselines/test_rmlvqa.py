"""RMLVQA against the authors' functions; margins and contrast against plain loops."""

import math

import pytest
import torch

from cdvqa.objectives import Output, Progress
from cdvqa.objectives.baselines import rmlvqa
from cdvqa.objectives.baselines.margin_cosine import frequency_margins
from cdvqa.objectives.baselines.rmlvqa import instance_margins, supervised_contrast, with_margins
from cdvqa.objectives.heads import CosineHead
from tests.objectives.inputs import assert_close, cases, double, given, made, table

# By name of the authors' variants: epoch, whether margins are random, and the terms that are on.
VARIANTS = {f"full_e{epoch}": (epoch, True, ("task", "bias", "contrast")) for epoch in (0, 16, 29, 45)}
VARIANTS |= {
    "full_e20_fixed": (20, True, ("task", "bias", "contrast")),
    "arc": (0, False, ("task",)),
    "rand": (0, True, ("task",)),
    "rand_inject": (0, True, ("task", "bias")),
    "learn_norand_e30": (30, False, ("task", "bias")),
}
NAMES = {"weight_g": "parametrizations.weight.original0", "weight_v": "parametrizations.weight.original1"}


def of_case(arrays, case):
    """The objective with the authors' bias head and the cosine head with their kernels; without dropout."""
    answers, size = arrays[f"{case}_arc_weight"].shape
    width = len(arrays[f"{case}_sd/main.0.bias"])
    objective = rmlvqa.RMLVQA(size, answers).double().eval()
    objective.bias_head[0] = torch.nn.utils.parametrizations.weight_norm(torch.nn.Linear(size, width), dim=None)
    objective.bias_head[3] = torch.nn.utils.parametrizations.weight_norm(torch.nn.Linear(width, answers), dim=None)
    objective.double()
    objective.bias_head.load_state_dict(
        {ours: double(arrays[f"{case}_sd/{theirs}"]) for ours, theirs in bias_head_names().items()}
    )
    head = CosineHead(size, answers).double()
    with torch.no_grad():
        head.kernels.copy_(double(arrays[f"{case}_arc_weight"]))
    return objective, head


def bias_head_names():
    """The authors' names of the bias head's parameters, by ours."""
    layers = {(layer, name): f"main.{layer}.{name}" for layer in (0, 3) for name in ("bias", "weight_g", "weight_v")}
    return {f"{layer}.{NAMES.get(name, name)}": theirs for (layer, name), theirs in layers.items()}


def check(arrays, case, variant, counts, target, monkeypatch):
    """Terms, scores and all gradients of a variant of a case."""
    epoch, random, parts = VARIANTS[variant]
    key = f"{case}_{variant}"
    objective, head = of_case(arrays, case)
    noise = double(arrays[f"{case}_noise"]) * random
    monkeypatch.setattr(torch, "randn", lambda shape, generator: noise)
    objective.generator = torch.Generator()
    seen = {}

    def watched(cosines, margins):
        logits = with_margins(cosines, margins)
        seen.update(margins=margins, logits=logits)
        return logits

    def keep(layer, inputs, logits):
        logits.retain_grad()
        seen["bias"] = logits

    monkeypatch.setattr(rmlvqa, "with_margins", watched)
    objective.bias_head[3].register_forward_hook(keep)
    feature = double(arrays[f"{case}_feature"], grad=True)
    cosines, label = head(feature), target.argmax(dim=1)  # the authors' label of a question without an answer is 0
    progress = Progress(0, 1, epoch, 50)
    loss = objective(cosines, target, hidden=feature, label=label, counts=counts, progress=progress)
    total = sum(loss.terms[part] for part in parts)
    total.backward()

    assert_close(cosines, arrays[f"{key}_cos"])
    assert_close(seen["margins"], arrays[f"{key}_margin_final"])
    assert_close(16 * seen["logits"], arrays[f"{key}_train_logits"])
    assert_close(loss.terms["task"], arrays[f"{key}_loss_arc"])
    assert_close(loss.terms["bias"], arrays[f"{key}_loss_bias_head"])
    assert_close(loss.terms["contrast"], arrays[f"{key}_loss_supcon"])
    assert_close(total, arrays[f"{key}_loss"])
    assert_close(feature.grad, arrays[f"{key}_grad_feature"])
    assert_close(head.kernels.grad, arrays[f"{key}_grad_arc_weight"])
    assert ("bias" in parts) == (f"{key}_grad_bias_head_logits" in arrays)
    if "bias" in parts:
        assert_close(seen["bias"].grad, arrays[f"{key}_grad_bias_head_logits"])
        for ours, theirs in bias_head_names().items():
            assert_close(objective.bias_head.get_parameter(ours).grad, arrays[f"{key}_grad/{theirs}"])
    assert_close(objective.scores(Output(cosines, feature)), arrays[f"{case}_test_scores"])


def variants(arrays, case):
    return [name for name in VARIANTS if f"{case}_{name}_loss" in arrays]


def test_every_variant_equals_the_authors(golden, monkeypatch):
    arrays = golden("loss_rmlvqa")
    monkeypatch.setattr(rmlvqa, "frequency_margins", lambda counts, *limits: frequency)
    checked = set()
    for case in cases(arrays, "_m"):
        frequency = double(arrays[f"{case}_m"])
        for variant in variants(arrays, case):
            counts, target = double(arrays[f"{case}_f"]), double(arrays[f"{case}_target"])
            check(arrays, case, variant, counts, target, monkeypatch)
            expected = arrays[f"{case}_{variant}_margin_instance"]
            assert_close(instance_margins(double(arrays[f"{case}_bias_head_logits"]), frequency), expected)
            checked.add(variant)
    assert checked == VARIANTS.keys() - {"full_e20_fixed"}


def test_the_authors_samples_are_reproduced_from_their_annotations(golden, monkeypatch):
    arrays = golden("loss_rmlvqa")
    assert variants(arrays, "table") == ["full_e20_fixed"]
    # The authors keep the margins of a type in float32.
    monkeypatch.setattr(rmlvqa, "frequency_margins", lambda *given: frequency_margins(*given).float().double())
    check(arrays, "table", "full_e20_fixed", *table(arrays), monkeypatch)


def test_the_angle_grows_by_the_margin_up_to_pi():
    cosines = torch.linspace(-0.99, 0.99, 34, dtype=torch.float64)[:, None]
    margins = torch.linspace(-0.4, 1.3, 18, dtype=torch.float64)[None]
    for i, cosine in enumerate(cosines[:, 0].tolist()):
        for j, margin in enumerate(margins[0].tolist()):
            angle = math.acos(cosine)
            inside = math.cos(angle) > math.cos(math.pi - margin)
            expected = math.cos(angle + margin) if inside else cosine - margin * math.sin(math.pi - margin)
            assert with_margins(cosines, margins)[i, j].item() == pytest.approx(expected, abs=1e-9)


def test_cosines_of_1_have_a_gradient():
    for dtype in (torch.float32, torch.float64):
        cosines = torch.tensor([1.0, -1.0, 0.0], dtype=dtype, requires_grad=True)
        with_margins(cosines, torch.full((3,), 0.7, dtype=dtype)).sum().backward()
        assert cosines.grad.isfinite().all()


def test_the_contrast_is_over_all_pairs_and_leaves_out_questions_without_a_label():
    torch.manual_seed(0)
    hidden, label = torch.randn(6, 3, dtype=torch.float64, requires_grad=True), torch.tensor([0, 2, -1, 0, 1, -1])
    directions = [row / row.norm() for row in hidden.detach()]
    pairs = [(i, j) for i in range(6) for j in range(6) if label[i] >= 0 and label[j] >= 0]
    other = sum(math.exp(directions[i] @ directions[j]) for i, j in pairs if label[i] != label[j])
    alike = [-(directions[i] @ directions[j] - math.log(other)).item() for i, j in pairs if label[i] == label[j]]
    assert len(alike) == 6
    contrast = supervised_contrast(hidden, label)
    assert_close(contrast, sum(alike) / 6)
    contrast.backward()
    assert not hidden.grad[[2, 5]].any() and hidden.grad[[0, 1, 3, 4]].any(dim=1).all()


@pytest.mark.parametrize("label", [[3, 3], [2, -1], [-1, -1]])
def test_without_two_labels_there_is_no_contrast(label):
    hidden = torch.randn(2, 3, requires_grad=True)
    contrast = supervised_contrast(hidden, torch.tensor(label))
    contrast.backward()
    assert contrast == 0 and not hidden.grad.any()


def test_no_answer_is_special(monkeypatch):
    """The authors' code neither counts nor trains the vocabulary's first answer."""
    noise, totals = torch.randn(3, 4).double(), []
    for order in ([0, 1, 2, 3], [1, 3, 0, 2]):
        torch.manual_seed(0)
        objective = made("rmlvqa").double().eval()
        last = objective.bias_head[3]
        with torch.no_grad():
            last.weight, last.bias[:] = last.weight[order], torch.arange(4.0)[order]
        inputs = given(objective) | {"progress": Progress(0, 1, 20, 30)}
        inputs |= {name: inputs[name][:, order] for name in ("logits", "soft_target", "counts")}
        places = torch.tensor(order).argsort()
        inputs["label"] = torch.where(inputs["label"] < 0, -1, places[inputs["label"]])
        with monkeypatch.context() as patch:
            patch.setattr(torch, "randn", lambda shape, generator, order=order: noise[:, order])
            totals.append(objective(**inputs).total)
    torch.testing.assert_close(totals[0], totals[1])


def test_answers_never_given_under_the_type_are_not_trained():
    objective = made("rmlvqa").double().eval()
    inputs = given(objective) | {"counts": torch.tensor([[500, 0, 0, 0], [0, 0, 0, 1], [0, 0, 0, 0]]).double()}
    inputs["logits"] = inputs["logits"].detach().requires_grad_()
    objective(**inputs).total.backward()
    # The right answers of the first question have no count; of the second, one.
    assert inputs["logits"].grad.any(dim=1).tolist() == [False, True, False]


def test_random_numbers_are_those_of_the_step():
    objective = made("rmlvqa").double()
    inputs, totals = given(objective), []
    for seed in (1, 2, 1):
        objective.generator.manual_seed(seed)
        torch.manual_seed(len(totals))
        totals.append(objective(**inputs).total.item())
    assert totals[0] == totals[2] != totals[1]

    # Training drops half of the bias head's units, and lets the others count twice.
    hidden, (first, relu, _, last) = inputs["hidden"], objective.bias_head
    objective.generator.manual_seed(3)
    trained = objective.bias(hidden)
    kept = torch.rand(3, 6, generator=objective.generator.manual_seed(3)) >= 0.5
    assert 0 < kept.sum() < 18
    torch.testing.assert_close(trained, last(2 * kept * relu(first(hidden))))
    torch.testing.assert_close(objective.eval().bias(hidden), last(relu(first(hidden))))
