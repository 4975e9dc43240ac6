"""VQA-CP v2, and every data set in its files: the embedded worlds `scenes` and `easyvqa`, and your own questions."""

from cdvqa.data.datasets.data_set import DataSet, Distribution, SplitFiles


class VQACP(DataSet):
    """VQA-CP v2: `test` has other answer priors than `train`. The official data set has no `id` split."""

    source = "VQA-CP v2: Aishwarya Agrawal's page of the GVQA project, questions and annotations of train and test"

    def splits(self) -> dict[str, SplitFiles]:
        return {"train": _files("train"), "id": _files("id", "id", optional=True), "test": _files("test", "ood")}


def _files(split: str, distribution: Distribution | None = None, optional: bool = False) -> SplitFiles:
    stem = f"vqacp_v2_{split}"
    return SplitFiles(f"{stem}_questions.json", f"{stem}_annotations.json", distribution, optional, cached=split)
