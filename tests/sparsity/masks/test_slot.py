"""Masks that share memory with their gradients give the very numbers of masks that do not."""

import copy
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch.nn.utils import clip_grad_norm_
from torch.utils.checkpoint import checkpoint

from cdvqa.sparsity import attach_masks, binary_masks, dense_state, masks, reset_thresholds
from cdvqa.sparsity.masks.matrices import masked_matrices
from cdvqa.stages.optimisation import make_optimizer
from tests.sparsity.reference import use_plain_masks
from tests.sparsity.toy import DEAD, GROUPS, Toy


def score(model, name):
    return binary_masks(model)[f"{name}.weight"].score


class Shared(Toy):
    """The toy with a matrix that is used twice, as LXMERT's cross-attention is."""

    def forward(self, ids, regions):
        words = torch.tanh(self.language(self.words(ids).mean(1)))
        hidden = self.twice(words, self.vision(regions))
        self.dead(hidden)
        return self.classifier(torch.tanh(self.pooler(hidden)))

    def twice(self, words, regions):
        return torch.tanh(self.cross(words)) + torch.tanh(self.cross(regions))


class Checkpointed(Shared):
    def __init__(self, reentrant):
        super().__init__()
        self.reentrant = reentrant

    def twice(self, words, regions):
        half = lambda hidden: torch.tanh(self.cross(hidden))  # noqa: E731 (each half is recomputed by itself)
        return sum(checkpoint(half, hidden, use_reentrant=self.reentrant) for hidden in (words, regions))


class Pair:
    """The same model twice, with slots and the plain way, under the same commands."""

    def __init__(self, make=Shared, dtype=torch.float32, **options):
        self.models, self.optimizers, self.generator = [], [], torch.Generator().manual_seed(0)
        for plain in (False, True):
            model = make().to(dtype)
            attach_masks(model, GROUPS, dict.fromkeys(GROUPS, 0.6), overall=0.6, dead=DEAD, **options)
            self.models.append(use_plain_masks(model.to(dtype)) if plain else model.to(dtype))
            trained = [parameter for parameter in model.parameters() if parameter.requires_grad]
            self.optimizers.append(make_optimizer("adamw", [{"params": trained, "lr": 1e-2, "weight_decay": 0.0}]))
        self.dtype, self.saved = dtype, copy.deepcopy(self.models[0].state_dict())

    def each(self, command):
        """Give both the command; what it returns must be the same to the last bit."""
        fast, plain = (command(model) for model in self.models)
        assert (fast is None and plain is None) or torch.equal(fast, plain)

    def loss(self, scale=1.0):
        ids = torch.randint(0, 16, (8, 5), generator=self.generator)
        regions = torch.randn(8, 9, generator=self.generator).to(self.dtype)
        return lambda model: scale * model(ids, regions).square().sum()

    def forward(self):
        self.each(self.loss())

    def evaluate(self):
        with torch.no_grad():
            self.forward()

    def infer(self):
        with torch.inference_mode():
            self.forward()

    def backward(self):
        loss = self.loss()
        self.each(lambda model: loss(model).backward())

    def two_graphs(self):
        """Both forward passes before either backward."""
        one, two = self.loss(), self.loss(0.5)

        def run(model):
            losses = one(model), two(model)
            for loss in losses:
                loss.backward()

        self.each(run)

    def step(self):
        if score(self.models[0], "vision").grad is None:
            self.backward()
        self.each(lambda model: clip_grad_norm_(model.parameters(), 1.0))
        for optimizer in self.optimizers:
            optimizer.step()

    def reset(self):
        reports = [reset_thresholds(model) for model in self.models]
        assert reports[0] == reports[1]

    def tie(self):
        """Put a third of all scores on their threshold."""
        for model in self.models:
            for mask in binary_masks(model).values():
                with torch.no_grad():
                    mask.score.view(-1)[::3] = mask.threshold

    def save(self):
        self.saved = copy.deepcopy(self.models[0].state_dict())

    def load(self):
        for model in self.models:
            model.load_state_dict(self.saved)

    def check(self):
        for mine, other in zip(*(model.parameters() for model in self.models), strict=True):
            assert torch.equal(mine, other)
            assert (mine.grad is None) == (other.grad is None)
            assert mine.grad is None or torch.equal(mine.grad, other.grad)
        for matrix in masked_matrices(self.models[0]):
            kept = matrix.mask.mask(matrix.weight)
            assert torch.equal(getattr(matrix.module, matrix.tensor), torch.where(kept, matrix.weight, 0))
        fast, plain = (dense_state(model) for model in self.models)
        assert all(torch.equal(value, plain[name]) for name, value in fast.items())


@pytest.mark.parametrize("accumulation", [1, 2])
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize("options", [{}, {"assignment": "global"}, {"tie_break": "strict"}])
def test_training_is_bit_equal_to_the_plain_way(accumulation, dtype, options):
    pair = Pair(lambda: Shared(tied=True), dtype, **options)
    start = masks(pair.models[0])
    for step in range(1, 13):
        for _ in range(accumulation):
            pair.backward()
        pair.step()
        if step % 4 == 0:
            pair.reset()
            pair.tie()
        pair.check()
    assert any(not torch.equal(mask, start[name]) for name, mask in masks(pair.models[0]).items())


OPERATIONS = ["forward", "evaluate", "infer", "backward", "two_graphs", "step", "reset", "tie", "save", "load"]


@settings(max_examples=60)
@given(st.lists(st.sampled_from(OPERATIONS), min_size=1, max_size=12))
def test_any_sequence_of_events_leaves_the_numbers_of_the_plain_way(operations):
    pair = Pair(lambda: Shared(tied=True))
    for operation in operations:
        getattr(pair, operation)()
        pair.check()


@pytest.mark.parametrize("reentrant", [False, True])
def test_gradient_checkpointing(reentrant):
    pair = Pair(lambda: Checkpointed(reentrant))
    for _ in range(4):
        pair.backward()
        pair.backward()
        pair.step()
        pair.check()


def test_bf16_autocast():
    pair = Pair()
    for _ in range(3):
        with torch.autocast("cpu", torch.bfloat16):
            pair.evaluate()
            loss = pair.loss()
            pair.each(lambda model, loss=loss: loss(model).float().backward())
        pair.step()
        pair.check()
    assert score(pair.models[0], "vision").dtype == torch.float32


def test_compilation_takes_the_plain_way_and_nothing_stale_is_left():
    pair = Pair()
    pair.check()  # fills the slots
    for model in pair.models:
        model.compile(backend="aot_eager")
    for _ in range(2):
        pair.backward()
        pair.step()
        pair.check()


# Where things are


def test_the_gradient_takes_the_place_of_the_masked_weight():
    model = Pair().models[0]
    ids, regions = torch.randint(0, 16, (8, 5)), torch.randn(8, 9)
    place = model.vision.weight.data_ptr()
    model(ids, regions).sum().backward()
    gradient = score(model, "vision").grad
    assert gradient.data_ptr() == place
    before = gradient.clone()
    weight = model.vision.weight
    assert weight.data_ptr() != place, "while the gradient waits, the masked weight must leave it alone"
    assert torch.equal(gradient, before)
    score(model, "vision").grad = None
    assert model.vision.weight.data_ptr() == place
    assert torch.equal(model.vision.weight, weight)


def test_an_embedding_masks_the_rows_it_reads_and_no_others():
    model = Pair().models[0]
    weight = masked_matrices(model)[0].weight
    with torch.no_grad():
        weight[20:] = float("nan")
    assert model.words(torch.tensor([[1, 2], [0, 19]])).isfinite().all()
    assert torch.equal(model.words(torch.tensor([3])), model.words.weight[3:4])


def test_frozen_weights_get_neither_gradient_nor_state():
    pair = Pair()
    pair.step()
    held = {id(parameter) for parameter in pair.optimizers[0].state}
    for matrix in masked_matrices(pair.models[0]):
        assert matrix.weight.grad is None and id(matrix.weight) not in held
    assert all(id(mask.score) in held for mask in binary_masks(pair.models[0]).values())


def test_slots_are_neither_saved_nor_copied():
    pair = Pair()
    pair.step()
    pair.evaluate()
    assert pair.models[0].state_dict().keys() == pair.models[1].state_dict().keys()
    twin = copy.deepcopy(pair.models[0])
    place = pair.models[0].vision.weight.data_ptr()
    assert twin.vision.weight.data_ptr() != place
    with torch.no_grad():
        score(twin, "vision").fill_(-1.0)
    assert not twin.vision.weight.any()
    assert pair.models[0].vision.weight.any()


def test_exchanged_parameters_and_other_types_are_seen():
    model = Pair().models[0]
    before = model.vision.weight.clone()
    state = copy.deepcopy(model.state_dict())
    state["vision.parametrizations.weight.0.score"].fill_(-1.0)
    model.load_state_dict(state, assign=True)
    assert before.any() and not model.vision.weight.any()
    model.double()
    assert model.vision.weight.dtype == torch.float64
    model(torch.randint(0, 16, (8, 5)), torch.randn(8, 9).double()).sum().backward()
    assert score(model, "vision").grad.dtype == torch.float64


def test_a_second_backward_over_what_is_gone_is_refused():
    model = Pair().models[0]
    loss = model(torch.randint(0, 16, (8, 5)), torch.randn(8, 9)).sum()
    loss.backward(retain_graph=True)
    with pytest.raises(RuntimeError, match="modified by an inplace operation"):
        loss.backward()


# Two processes


def test_two_processes_are_bit_equal_to_the_plain_way(tmp_path):
    command = [sys.executable, "-m", "tests.sparsity.two_processes", str(tmp_path / "rendezvous")]
    root = Path(__file__).parents[3]
    processes = [
        subprocess.Popen([*command, str(rank)], cwd=root, stderr=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
        for rank in range(2)
    ]
    try:
        for process in processes:
            process.wait(timeout=180)
    finally:  # a process that waits for the other prints nothing; the other's output explains the failure
        for process in processes:
            process.kill()
        outcomes = [process.communicate() for process in processes]
        print(*(text for outcome in outcomes for text in outcome))
    assert [process.returncode for process in processes] == [0, 0], outcomes
    assert outcomes[0][0] == outcomes[1][0] and "bit-equal after 8 steps" in outcomes[0][0]
