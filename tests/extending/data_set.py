"""A data set with annotations of its own: one file a split, the human answers as one string, two OOD test sets."""

from cdvqa.data.datasets import DataSet, SplitFiles
from cdvqa.data.questions.annotations import Annotations, check_fields
from cdvqa.data.questions.official import PlainQuestions, read_records

FIELDS = {"id": int, "photo": int, "text": str, "topic": str, "answers": str}


class Survey(DataSet):
    """Photos taken by day (train, `day`), in the evening and at night.

    A file holds {"items": [{"id": 1, "photo": 7, "text": "what is red", "topic": "what", "answers": "cup|cup|mug"}]}.
    """

    source = "Survey: ask its authors"

    def splits(self) -> dict[str, SplitFiles]:
        return {
            "train": SplitFiles("survey_train.json", "survey_train.json"),
            "day": SplitFiles("survey_day.json", "survey_day.json", "id"),
            "evening": SplitFiles("survey_evening.json", "survey_evening.json", "ood"),
            "night": SplitFiles("survey_night.json", "survey_night.json", "ood"),
        }

    def read_questions(self, source) -> PlainQuestions:
        items = self._items(source)
        records = [{"question_id": item["id"], "image_id": item["photo"], "question": item["text"]} for item in items]
        return PlainQuestions.of(records, str(source))

    def read_annotations(self, source) -> Annotations:
        return Annotations.of([self._annotation(item) for item in self._items(source)], str(source))

    def _items(self, source) -> list[dict]:
        items = read_records(source, "items")
        for number, item in enumerate(items):
            check_fields(item, FIELDS, number, str(source))  # a wrong record is named with its file
        return items

    def _annotation(self, item: dict) -> dict:
        answers = item["answers"].split("|")  # ten of them
        return {
            "question_id": item["id"],
            "question_type": item["topic"],
            "answer_type": "yes/no" if set(answers) <= {"yes", "no"} else "other",
            "multiple_choice_answer": max(answers, key=answers.count),
            "answers": [{"answer": answer} for answer in answers],
        }
