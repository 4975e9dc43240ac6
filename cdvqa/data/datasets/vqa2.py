"""VQA v2, tested on its validation questions."""

from cdvqa.data.datasets.data_set import DataSet, SplitFiles


class VQA2(DataSet):
    """VQA v2: `test` is val2014, in distribution."""

    source = "VQA v2: the download page of visualqa.org, questions and annotations of train2014 and val2014"

    def splits(self) -> dict[str, SplitFiles]:
        questions, annotations = "v2_OpenEnded_mscoco_{}_questions.json", "v2_mscoco_{}_annotations.json"
        train, test = "train2014", "val2014"
        return {
            "train": SplitFiles(questions.format(train), annotations.format(train), cached="train"),
            "test": SplitFiles(questions.format(test), annotations.format(test), "id", cached="val"),
        }
