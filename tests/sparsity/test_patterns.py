"""Patterns of zeros: exact at every reset, ranked as documented, and their gradients."""

import copy
import itertools
import json
from pathlib import Path

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import nn

from cdvqa.cli.inspect import ConfigInspector
from cdvqa.errors import InputError
from cdvqa.sparsity import (
    Subnetwork,
    attach_fixed_masks,
    attach_masks,
    binary_masks,
    count_zeros,
    fold_masks,
    masks,
    one_shot_masks,
    reset_thresholds,
)
from cdvqa.sparsity.masks.units import Spread, two_of_four
from cdvqa.sparsity.patterns import Part, Structure
from tests.conftest import the_run

HEADS, WIDTH, INNER = 4, 24, 40
GROUPS = {
    "language": ["words.weight"],
    "cross": ["query.weight", "value.weight", "out.weight", "first.weight", "second.weight"],
}
STRUCTURES = (
    Structure("heads", HEADS, (Part("query.weight", 0), Part("value.weight", 0), Part("out.weight", 1))),
    Structure("neurons", INNER, (Part("first.weight", 0), Part("second.weight", 1))),
)


class Layer(nn.Module):
    """A table, something with heads, and a feed-forward block."""

    def __init__(self, seed: int = 0) -> None:
        super().__init__()
        torch.manual_seed(seed)
        self.words = nn.Embedding(37, WIDTH)
        self.query, self.value, self.out = (nn.Linear(WIDTH, WIDTH) for _ in range(3))
        self.first, self.second = nn.Linear(WIDTH, INNER), nn.Linear(INNER, WIDTH)

    def forward(self, ids):
        hidden = self.words(ids)
        hidden = hidden + self.out(torch.sigmoid(self.query(hidden)) * self.value(hidden))
        return hidden + self.second(torch.relu(self.first(hidden)))


def attached(pattern, sparsity, **options):
    model = Layer()
    attach_masks(model, GROUPS, dict.fromkeys(GROUPS, sparsity), pattern=pattern, structures=STRUCTURES, **options)
    return model


def train(model, steps=4):
    generator = torch.Generator().manual_seed(1)
    optimizer = torch.optim.AdamW([p for p in model.parameters() if p.requires_grad], lr=5e-3, weight_decay=0.0)
    for _ in range(steps):
        optimizer.zero_grad()
        model(torch.randint(0, 37, (8,), generator=generator)).square().sum().backward()
        optimizer.step()


def blocks(mask):
    """Rows and columns of blocks of a mask, each with the values of its up to 16 rows."""
    return {
        (row // 16, column): mask[row : row + 16, column]
        for row in range(0, len(mask), 16)
        for column in range(mask.shape[1])
    }


def assert_pattern(found, pattern, sparsity):
    """The masks have the pattern, and exactly so many zeros in every matrix or layer."""
    if pattern == "2:4":
        for mask in found.values():
            assert (mask.view(-1, 4).sum(1) == 2).all()
    elif pattern == "block16x1":
        for mask in found.values():
            kept = [bool(block.all()) for block in blocks(mask).values()]
            assert all(bool(block.all()) or not block.any() for block in blocks(mask).values())
            assert kept.count(False) == count_zeros(sparsity, len(kept))
    else:
        assert found["words.weight"].all()
        heads = found["query.weight"].view(HEADS, -1)
        assert torch.equal(found["value.weight"], found["query.weight"])
        assert torch.equal(found["out.weight"].T, found["query.weight"])
        assert torch.equal(found["second.weight"].T, found["first.weight"])
        for rows, number in ((heads, HEADS), (found["first.weight"], INNER)):
            assert all(bool(row.all()) or not row.any() for row in rows)
            assert sum(not row.any() for row in rows) == count_zeros(sparsity, number)


PATTERNS = [("2:4", 0.5), *itertools.product(["block16x1", "structured"], [0.0, 0.25, 0.5, 0.9])]


@pytest.mark.parametrize(("pattern", "sparsity"), PATTERNS)
def test_zeros_are_exact_at_the_start_and_at_every_reset(pattern, sparsity):
    model = attached(pattern, sparsity)
    assert_pattern(masks(model), pattern, sparsity)
    for _ in range(3):
        train(model)
        before = masks(model)
        report = reset_thresholds(model)
        after = masks(model)
        assert_pattern(after, pattern, sparsity)
        for name, reset in report.items():
            assert reset.zeros == int((~after[name]).sum()) and reset.zeros_before == int((~before[name]).sum())
    if sparsity in (0.25, 0.5):
        assert any(reset.flips for reset in report.values())


@pytest.mark.parametrize(("pattern", "sparsity"), PATTERNS)
def test_one_shot_pruning_gives_the_masks_that_training_starts_from(pattern, sparsity):
    model = Layer()
    options = {"pattern": pattern, "structures": STRUCTURES}
    pruned = one_shot_masks(model, GROUPS, dict.fromkeys(GROUPS, sparsity), **options)
    start = masks(attached(pattern, sparsity))
    assert list(pruned) == list(start)
    assert all(torch.equal(pruned[name], start[name]) for name in start)


def test_magnitudes_rank_units_by_their_norm():
    model = Layer()
    found = masks(attached("structured", 0.5))
    squares = {name: model.get_parameter(name).square() for names in GROUPS.values() for name in names}
    norms = sum(squares[name].view(HEADS, -1).sum(1) for name in ("query.weight", "value.weight"))
    norms = norms + squares["out.weight"].view(WIDTH, HEADS, -1).sum((0, 2))
    kept = found["query.weight"].view(HEADS, -1).all(1)
    assert set(norms.argsort()[HEADS // 2 :].tolist()) == set(kept.nonzero().flatten().tolist())
    norms = squares["first.weight"].sum(1) + squares["second.weight"].sum(0)
    kept = found["first.weight"].all(1)
    assert set(norms.argsort()[INNER // 2 :].tolist()) == set(kept.nonzero().flatten().tolist())


@pytest.mark.parametrize(("pattern", "sparsity"), [("2:4", 0.5), ("block16x1", 0.5), ("structured", 0.5)])
def test_the_gradient_of_a_score_is_the_sum_over_its_weights(pattern, sparsity):
    model, ids = attached(pattern, sparsity), torch.arange(11)
    model(ids).square().sum().backward()
    dense = Layer()
    with torch.no_grad():
        for name, mask in masks(model).items():
            dense.get_parameter(name).mul_(mask)
    dense(ids).square().sum().backward()
    whole = Layer()
    of_weights = {name: whole.get_parameter(name) * dense.get_parameter(name).grad for name in masks(model)}
    trained = binary_masks(model)
    if pattern == "2:4":
        expected = of_weights
    elif pattern == "block16x1":
        expected = {name: Spread(16).sums(value) for name, value in of_weights.items()}
    else:
        heads = sum(of_weights[name].view(HEADS, -1).sum(1) for name in ("query.weight", "value.weight"))
        heads = heads + of_weights["out.weight"].view(WIDTH, HEADS, -1).sum((0, 2))
        expected = {
            "query.weight": heads,
            "first.weight": of_weights["first.weight"].sum(1) + of_weights["second.weight"].sum(0),
        }
    for name, value in expected.items():
        torch.testing.assert_close(trained[name].score.grad, value.detach(), rtol=1e-5, atol=1e-6)


def test_scores_of_a_structure_are_shared_and_trained_once():
    model = attached("structured", 0.5)
    trained = binary_masks(model)
    assert set(trained) == {"query.weight", "value.weight", "out.weight", "first.weight", "second.weight"}
    assert trained["query.weight"].score is trained["out.weight"].score
    scores = {id(mask.score): mask.score for mask in trained.values()}
    assert sorted(score.numel() for score in scores.values()) == [HEADS, INNER]
    assert sum(id(parameter) in scores for parameter in model.parameters()) == 2


@pytest.mark.parametrize(("pattern", "sparsity"), [("2:4", 0.5), ("block16x1", 0.3), ("structured", 0.5)])
def test_a_saved_network_answers_the_same_and_a_restored_one_goes_on_the_same(pattern, sparsity, tmp_path):
    model, ids = attached(pattern, sparsity), torch.arange(20)
    train(model)
    reset_thresholds(model)
    train(model, 2)
    other = attached(pattern, sparsity)
    other.load_state_dict(copy.deepcopy(model.state_dict()))
    assert torch.equal(other(ids), model(ids))
    for one in (model, other):
        train(one, 3)
        reset_thresholds(one)
    assert all(torch.equal(mask, masks(other)[name]) for name, mask in masks(model).items())
    Subnetwork.from_model(model, {}).save(tmp_path / "s.safetensors")
    network, fresh = Subnetwork.load(tmp_path / "s.safetensors"), Layer(seed=1)
    fresh.load_state_dict(network.state)
    attach_fixed_masks(fresh, network.masks)
    assert torch.equal(fresh(ids), model(ids))
    fold_masks(model)
    assert torch.equal(fresh(ids), model(ids))


@given(st.data())
def test_two_of_four_rank_by_score_size_and_place(data):
    rows, columns = data.draw(st.integers(1, 4)), data.draw(st.integers(1, 13))
    values = st.lists(st.sampled_from([0.0, 0.5, 1.0]), min_size=rows * columns, max_size=rows * columns)
    scores, weight = (torch.tensor(data.draw(values)).view(rows, columns) for _ in range(2))
    weight = weight * torch.where(torch.arange(columns) % 2 == 0, 1, -1)
    kept = two_of_four(scores, weight)
    for row in range(rows):
        for start in range(0, columns, 4):
            places = range(start, min(start + 4, columns))
            ranked = sorted(places, key=lambda at: (scores[row, at].item(), abs(weight[row, at].item()), at))
            assert {at for at in places if kept[row, at]} == set(ranked[-2:])


@given(st.integers(1, 50), st.integers(1, 5))
def test_blocks_of_sixteen_rows_and_a_short_last_one(rows, columns):
    spread, weight = Spread(16), torch.rand(rows, columns)
    sums = spread.sums(weight)
    assert sums.shape == (-(-rows // 16), columns)
    for (row, column), block in blocks(weight).items():
        assert sums[row, column] == pytest.approx(block.sum().item(), rel=1e-5)
        assert (blocks(spread.expand(sums, weight))[row, column] == sums[row, column]).all()


def test_what_a_pattern_cannot_do_is_reported():
    with pytest.raises(InputError, match=r"pattern structured needs --model.tie_break exact, not strict"):
        attached("structured", 0.5, tie_break="strict")
    with pytest.raises(InputError, match=r"prunes matrix by matrix, and the assignment ranks 6 together"):
        attached("block16x1", 0.5, assignment="global")
    with pytest.raises(InputError, match=r"this backbone has no attention heads or neurons"):
        attach_masks(Layer(), GROUPS, dict.fromkeys(GROUPS, 0.5), pattern="structured")


# Through the command line


def assert_structured(network, structures, share):
    """Each layer has lost exactly so many heads and neurons, in every matrix that they are part of."""
    pruned = set()
    for structure in structures:
        kept = []
        for name, axis in structure.parts:
            rows = network.masks[name] if axis == 0 else network.masks[name].T
            units = rows.reshape(structure.number, -1)
            assert all(bool(unit.all()) or not unit.any() for unit in units)
            kept.append(units.all(1).tolist())
            pruned.add(name)
        assert all(part == kept[0] for part in kept)
        assert kept[0].count(False) == count_zeros(share, structure.number)
    assert all(mask.all() for name, mask in network.masks.items() if name not in pruned)


@pytest.mark.parametrize(
    ("backbone", "pattern", "objective"),
    [
        ("lxmert", "2:4", "bce"),
        ("lxmert", "block16x1", "bce"),
        ("lxmert", "structured", "bce"),
        ("visualbert", "structured", "bce"),
        ("mplug", "structured", "ce"),
    ],
)
def test_a_pattern_goes_through_all_stages(cdvqa, backbone, pattern, objective):
    runs, conf = Path("logs/scenes") / backbone, [] if backbone == "lxmert" else [f"{backbone}.yaml"]
    pruned = [f"--model.sparsity.pattern={pattern}"]
    share = 0.5 if pattern == "2:4" else 0.25
    shared = [*conf, f"--model.objective={objective}", "--trainer.max_epochs=1"]
    masked = [*pruned, f"--model.sparsity.overall={share}", "tiny_masks.yaml", "--model.lr=0.01"]
    assert cdvqa("fit", f"stage1_{objective}.yaml", *shared) == 0
    assert cdvqa("fit", f"stage2_{objective}.yaml", *shared, *masked, "--trainer.max_steps=3") == 0
    assert cdvqa("test", f"stage2_{objective}.yaml", *shared, *masked, "--trainer.max_steps=3") == 0
    assert cdvqa("fit", f"stage3_{objective}.yaml", *shared, *pruned) == 0
    first = the_run(f"stage2_{objective}+{objective}_mask_uniform_s{100 * share:.0f}_{pattern}", runs=runs)
    tuned = the_run(f"stage3_{objective}+{objective}+{objective}_mask_uniform_s{100 * share:.0f}_{pattern}", runs=runs)
    network = Subnetwork.load(first / "subnetwork.safetensors")
    after = Subnetwork.load(tuned / "subnetwork.safetensors")
    assert all(torch.equal(mask, after.masks[name]) for name, mask in network.masks.items())
    assert not any(after.state[name][~mask].any() for name, mask in network.masks.items())
    if pattern == "structured":
        structures = ConfigInspector(["--config", str(first / "config.yaml")]).model.backbone.structures()
        assert_structured(network, structures, share)
    else:
        for mask in network.masks.values():
            if mask.shape[1] % 4 == 0:
                assert_pattern({"matrix": mask}, pattern, share)
    record = json.loads((first / "run.json").read_text())
    zeros = sum(int((~mask).sum()) for mask in network.masks.values())
    assert record["selected"]["sparsity"]["overall"] == zeros / sum(m.numel() for m in network.masks.values())
    assert record["sparsity"]["pattern"] == pattern and record["settings"]["model.sparsity.pattern"] == pattern


def test_a_pattern_that_is_not_there_or_not_quoted(cdvqa, capsys, tmp_path):
    assert cdvqa("fit", "stage2_bce.yaml", "--model.sparsity.pattern=4:8") == 2
    assert "--model.sparsity.pattern: expected one of" in capsys.readouterr().err
    (tmp_path / "pattern.yaml").write_text("model: {sparsity: {pattern: 2:4}}")
    assert cdvqa("fit", "stage2_bce.yaml", tmp_path / "pattern.yaml") == 2
    assert 'write "2:4" in quotes' in capsys.readouterr().err
    assert cdvqa("fit", "stage2_bce.yaml", "--model.sparsity.pattern=2:4", "--model.sparsity.overall=0.7") == 2
    assert "it needs overall 0.5 and assignment uniform" in capsys.readouterr().err
