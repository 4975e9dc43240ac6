"""How often two networks give the same answers to the test questions, and how accurate each is."""

from collections import Counter
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from cdvqa.data.questions.official import Questions
from cdvqa.deploy.network import Network
from cdvqa.errors import InputError
from cdvqa.files import read_json
from cdvqa.metrics import vqa_score
from cdvqa.runs.folder import Run, read_results
from cdvqa.studies.report.verdicts import interval_of_mean

HUMANS = 3  # different human answers that are shown, the most frequent ones
Answers = Mapping[int, str]  # by question id
Rows = list[dict[str, Any]]


def compare_answers(networks: Sequence[Network], examples: int) -> tuple[Rows, Rows, list[str]]:
    """Compare the answers of two networks, from the files in their predictions/.

    Args:
        networks: A and B.
        examples: changed answers of each test split, at most.

    Returns:
        A row for each test split and each test set inside one, accuracies in percent; rows of changed answers, those
        with a changed score first; and notes on what cannot be compared.

    Raises:
        InputError: a predictions or results file is broken.
    """
    a, b = networks
    if a.data.name != b.data.name:
        return [], [], [f"Not compared: A answers questions of {a.data.name}, B of {b.data.name}."]
    rows, changed, notes = Rows(), Rows(), vocabularies(a, b)
    tests = [split for split in a.data.data_set.splits() if split not in ("train", "dev")]
    answered = [split for split in tests if any(predictions(network, split).is_file() for network in networks)]
    for letter, network in zip("AB", networks, strict=True):
        if missing := [split for split in answered or tests if not predictions(network, split).is_file()]:
            notes.append(f"{letter} has no answers to {', '.join(missing)}: `{test_command(network)}` writes them.")
            answered = [split for split in answered if split not in missing]
    known: dict[str, Questions] = {}
    try:
        prepared = a.data.prepare() if answered else None
        known = {split: prepared.split(split).questions for split in answered if prepared}
    except InputError as error:
        notes.append(f"Accuracies are those of results.json, without interval and single questions: {error}.")
    for split in answered:
        answers = [read_answers(network, split) for network in networks]
        if answers[0].keys() != answers[1].keys() or not answers[0]:
            notes.append(f"{split}: A and B do not answer the same questions; test both on all of them.")
            continue
        if not known:
            rows.append(as_tested(split, answers, networks))
            continue
        whole = known[split]
        found = np.flatnonzero(np.isin(whole.question_id, list(answers[0])))
        if len(found) < len(answers[0]):
            notes.append(f"{split}: not compared: some answered questions are not in {a.data.root}.")
            continue
        questions = whole.select(found)
        scores = np.array([score(questions, one) for one in answers])
        subsets = a.data.data_set.read_subsets(a.data.root, split, whole.question_id)
        for name, members in ({split: set(answers[0])} | subsets).items():
            inside = np.isin(questions.question_id, list(members))
            if inside.any():
                rows.append(measured(name, [answers_to(questions, one)[inside] for one in answers], scores[:, inside]))
                notes += doubts(rows[-1], networks)
        changed += changes(split, questions, answers, scores)[:examples]
    return rows, changed, notes


def vocabularies(a: Network, b: Network) -> list[str]:
    """A note on answers that only one vocabulary has, if there are any."""
    ours, theirs = (set(network.metadata["answers"]) for network in (a, b))
    if ours == theirs:
        return []
    return [f"The vocabularies differ: {len(ours - theirs)} answers are only in A's, {len(theirs - ours)} only in B's."]


def predictions(network: Network, split: str) -> Path:
    """The file of a network's answers, in the folder of the network file."""
    return Run(network.path.parent).predictions(split)


def test_command(network: Network) -> str:
    """The command that tests a network and so writes its answers."""
    run = network.run
    if run and run.folder == network.path.parent:
        return f"cdvqa test --config {run.config}"
    config = run.config if run else network.path.with_name("config.yaml")
    return f"cdvqa test --config {config} --ckpt_path {network.path}"


def read_answers(network: Network, split: str) -> Answers:
    """A network's answers to a test split, by question id; InputError where the file is broken."""
    path = predictions(network, split)
    try:
        return {row["question_id"]: row["answer"] for row in read_json(path)}
    except (ValueError, LookupError, TypeError) as error:
        raise InputError(f"{path}: no list of answers ({error}); `{test_command(network)}` writes it") from error


def answers_to(questions: Questions, answers: Answers) -> NDArray[np.object_]:
    """The answers (N,), in the order of the questions."""
    return np.array([answers[number] for number in questions.question_id.tolist()], object)


def score(questions: Questions, answers: Answers) -> list[float]:
    """The score in [0, 1] of the answer to each question, by the paper's rule."""
    humans = questions.annotations.answers
    return [vqa_score(answer, humans[row]) for row, answer in enumerate(answers_to(questions, answers))]


def measured(name: str, answers: Sequence[NDArray[np.object_]], scores: NDArray[np.float64]) -> dict[str, Any]:
    """The row of a test set.

    Args:
        name: name of the test set.
        answers: answers (N,) of A and of B.
        scores: scores (2, N) of A and B, in [0, 1].
    """
    accuracy = 100 * scores.mean(1)
    return {
        "test set": name,
        "questions": scores.shape[1],
        "accuracy of A": float(accuracy[0]),
        "accuracy of B": float(accuracy[1]),
        "difference": float(accuracy[1] - accuracy[0]),
        "95 % interval": list(interval_of_mean(100 * (scores[1] - scores[0]))),
        "equal answers": float((answers[0] == answers[1]).mean()),
    }


def as_tested(split: str, answers: Sequence[Answers], networks: Sequence[Network]) -> dict[str, Any]:
    """The row of a split whose question files are absent, with the accuracies in results.json."""
    accuracy = [tested_accuracy(network, split) for network in networks]
    return {
        "test set": split,
        "questions": len(answers[0]),
        "accuracy of A": accuracy[0],
        "accuracy of B": accuracy[1],
        "difference": None if accuracy[0] is None or accuracy[1] is None else accuracy[1] - accuracy[0],
        "95 % interval": None,
        "equal answers": sum(answers[1][number] == answer for number, answer in answers[0].items()) / len(answers[0]),
    }


def tested_accuracy(network: Network, name: str) -> float | None:
    """The accuracy of a test set in results.json, in percent; None where it is absent."""
    run = Run(network.path.parent)
    try:
        accuracy = read_results(run).get("splits", {}).get(name, {}).get("all")
    except (ValueError, AttributeError) as error:
        raise InputError(f"{run.results}: cannot be read ({error}); `{test_command(network)}` writes it") from error
    return None if accuracy is None else float(accuracy)


def doubts(row: Mapping[str, Any], networks: Sequence[Network]) -> list[str]:
    """A note for each network whose accuracy in results.json differs from that of its answers, computed now."""
    found = []
    for letter, network in zip("AB", networks, strict=True):
        tested, here = tested_accuracy(network, row["test set"]), row[f"accuracy of {letter}"]
        if tested is not None and abs(tested - here) > 1e-6:
            found.append(
                f"{row['test set']}: results.json of {letter} says {tested:.2f}, but its answers score {here:.2f} on "
                f"the questions that are here; `{test_command(network)}` tests it again."
            )
    return found


def changes(split: str, questions: Questions, answers: Sequence[Answers], scores: NDArray[np.float64]) -> Rows:
    """A row for each question that A and B answer differently; those with a changed score first."""
    ours, theirs = (answers_to(questions, one) for one in answers)
    order = sorted(np.flatnonzero(ours != theirs).tolist(), key=lambda row: scores[0, row] == scores[1, row])
    return [
        {
            "test split": split,
            "question": questions.text[row],
            "question id": int(questions.question_id[row]),
            "image id": int(questions.image_id[row]),
            "answer of A": ours[row],
            "answer of B": theirs[row],
            "score of A": float(scores[0, row]),
            "score of B": float(scores[1, row]),
            "human answers": ", ".join(
                f"{answer} ({number})"
                for answer, number in Counter(questions.annotations.answers[row]).most_common(HUMANS)
            ),
        }
        for row in order
    ]
