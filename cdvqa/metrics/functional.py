"""VQA accuracy: the paper's rule, the official rule, and the means of VQA-VS."""

from collections import Counter, defaultdict
from collections.abc import Iterable, Mapping, Sequence
from statistics import fmean
from typing import Any

from cdvqa.data.answers.normalisation import normalise_official
from cdvqa.data.datasets import VQAVS
from cdvqa.data.questions.annotations import JsonRecord
from cdvqa.errors import InputError

# Means of VQA-VS, each with the names of its out-of-distribution sets, without "+".
_VQA_VS_MEANS = {mean: [name.replace("+", "") for name in names] for mean, names in VQAVS().means().items()}


def vqa_score(prediction: str, answers: Sequence[str]) -> float:
    """Score in [0, 1] of one prediction by the paper's rule: min(1, n / 3), where n human answers equal it.

    Args:
        prediction: the predicted answer; nothing is normalised.
        answers: the raw human answers, usually ten.
    """
    return min(1.0, answers.count(prediction) / 3)


def official_vqa_score(prediction: str, answers: Sequence[str]) -> float:
    """Score in [0, 1] of one prediction by the official VQA evaluation code.

    For each human answer, n of the others equal the prediction; the score is the mean of min(1, n / 3). As in that
    code, prediction and answers are normalised only if the human answers differ: "The Yes." scores 0 against ten "yes".

    Args:
        prediction: the predicted answer.
        answers: the raw human answers, usually ten.
    """
    if len(set(answers)) > 1:
        prediction, answers = normalise_official(prediction), [normalise_official(answer) for answer in answers]
    else:
        prediction = prediction.replace("\n", " ").replace("\t", " ").strip()
    equal = answers.count(prediction)
    credit = equal * min(1.0, (equal - 1) / 3) + (len(answers) - equal) * min(1.0, equal / 3)
    return credit / len(answers)


def vqa_accuracy(predictions: Iterable[JsonRecord], annotations: Sequence[JsonRecord]) -> dict[str, float]:
    """Accuracy in percent by the paper's rule, over all questions and per answer type.

    Args:
        predictions: {question_id, answer}, one for each annotation, in any order.
        annotations: official records {question_id, answer_type, answers: [{answer}]}, or the authors' cached targets
            {question_id, answer_type, answers_word, answer_count}, in which only answers of the vocabulary score.

    Returns:
        {"all": …, <answer type>: …}, not rounded; answer types in order of appearance.

    Raises:
        InputError: a prediction is missing, duplicate, or belongs to no annotation.
    """
    return _mean_by_type((a["answer_type"], vqa_score(p, _answers(a))) for p, a in _pairs(predictions, annotations))


def official_vqa_accuracy(predictions: Iterable[JsonRecord], annotations: Sequence[JsonRecord]) -> dict[str, float]:
    """Accuracy in percent by the rule of the official evaluation code; otherwise like `vqa_accuracy`."""
    pairs = _pairs(predictions, annotations)
    return _mean_by_type((a["answer_type"], official_vqa_score(p, _answers(a))) for p, a in pairs)


def vqa_vs_scores(
    predictions: Iterable[JsonRecord], annotations: Sequence[JsonRecord], ood_question_ids: Mapping[str, Iterable[int]]
) -> dict[str, Any]:
    """Accuracies on VQA-VS: IID-Test, its nine out-of-distribution sets, and their means.

    Args:
        predictions: {question_id, answer} for all of IID-Test.
        annotations: those of IID-Test, as for `vqa_accuracy`.
        ood_question_ids: ids of each of the nine sets, by name, with or without "+" (QT+KW or QTKW).

    Returns:
        {"iid", "ood": {name as given: score}, "ood_mean", "ood_lang", "ood_vis", "ood_crsm"} in percent by the paper's
        rule. Each set's score is rounded to two decimals; the means are unweighted means of rounded scores.

    Raises:
        InputError: as for `vqa_accuracy`; or a set is missing, empty, or holds a question without an annotation.
    """
    scores = {a["question_id"]: vqa_score(p, _answers(a)) for p, a in _pairs(predictions, annotations)}
    ood = {name: _set_score(name, set(ids), scores) for name, ids in ood_question_ids.items()}
    plain = {name.replace("+", ""): {"all": score} for name, score in ood.items()}
    nine = _VQA_VS_MEANS["ood_mean"]
    if set(plain) != set(nine):
        odd = sorted(set(plain) ^ set(nine))[0]
        raise InputError(f"VQA-VS out-of-distribution set {odd}: missing or unknown; the nine are {', '.join(nine)}")
    return {"iid": _rounded_percent(scores.values()), "ood": ood, **set_means(plain, _VQA_VS_MEANS)}


def set_means(results: Mapping[str, Mapping[str, Any]], means: Mapping[str, Sequence[str]]) -> dict[str, float]:
    """Unweighted means over test sets; each accuracy is rounded to two decimals first, as in VQA-VS.

    Args:
        results: accuracies in percent by test set; an empty set has no `all`.
        means: names of the sets of each mean. A mean is left out if one of its sets is empty.
    """
    rounded = {name: round(result["all"], 2) for name, result in results.items() if "all" in result}
    return {
        mean: fmean(rounded[name] for name in names)
        for mean, names in means.items()
        if all(name in rounded for name in names)
    }


def id_and_ood(results: Mapping[str, Mapping[str, Any]], means: Mapping[str, float]) -> dict[str, float]:
    """Accuracy in distribution (`id`) and out of distribution (`ood`), in percent; left out where there is no test set.

    Of several test sets of a kind it is the unweighted mean; `ood` is `ood_mean` where the data set defines that.

    Args:
        results: by test set, `distribution` and accuracies in percent; an empty set has no `all`.
        means: the means that the data set defines, by name.
    """
    found = {}
    for kind in ("id", "ood"):
        alike = [result["all"] for result in results.values() if result["distribution"] == kind and "all" in result]
        if alike:
            found[kind] = fmean(alike)
    return found | ({"ood": means["ood_mean"]} if "ood_mean" in means else {})


def _pairs(predictions: Iterable[JsonRecord], annotations: Sequence[JsonRecord]) -> list[tuple[str, JsonRecord]]:
    """Join predictions to annotations by question id."""
    answer_of: dict[int, str] = {}
    for prediction in predictions:
        if prediction["question_id"] in answer_of:
            raise InputError(f"predictions: question {prediction['question_id']} has two answers")
        answer_of[prediction["question_id"]] = prediction["answer"]
    missing = [a["question_id"] for a in annotations if a["question_id"] not in answer_of]
    if missing:
        raise InputError(f"predictions: question {missing[0]} has no answer ({len(missing)} such questions)")
    unknown = answer_of.keys() - {a["question_id"] for a in annotations}
    if unknown:
        raise InputError(f"predictions: question {min(unknown)} has no annotation ({len(unknown)} such questions)")
    return [(answer_of[a["question_id"]], a) for a in annotations]


def _answers(annotation: JsonRecord) -> list[str]:
    if "answers" in annotation:
        return [answer["answer"] for answer in annotation["answers"]]
    return [word for word in annotation["answers_word"] for _ in range(annotation["answer_count"][word])]


def _mean_by_type(scored: Iterable[tuple[str, float]]) -> dict[str, float]:
    totals: dict[str, float] = defaultdict(float)
    counts = Counter[str]()
    for answer_type, score in scored:
        for group in ("all", answer_type):
            totals[group] += score
            counts[group] += 1
    return {group: 100 * totals[group] / count for group, count in counts.items()}


def _set_score(name: str, members: set[int], scores: Mapping[int, float]) -> float:
    if not members:
        raise InputError(f"VQA-VS out-of-distribution set {name} is empty")
    missing = members - scores.keys()
    if missing:
        raise InputError(f"VQA-VS out-of-distribution set {name}: question {min(missing)} has no annotation")
    return _rounded_percent(score for question, score in scores.items() if question in members)


def _rounded_percent(scores: Iterable[float]) -> float:
    scores = list(scores)
    # Scores are thirds, and ties at the third decimal occur: another order of operations would break them differently.
    return round(sum(scores) * 100 / len(scores), 2)
