"""VQA-VS: nine test sets that each break one shortcut, or one combination of shortcuts."""

from collections.abc import Sequence

from cdvqa.data.datasets.data_set import DataSet, SplitFiles

LANGUAGE = ("QT", "KW", "KWP", "QT+KW")
VISION = ("KO", "KOP")
CROSS_MODALITY = ("QT+KO", "KW+KO", "QT+KW+KO")
OOD_SETS = (*LANGUAGE, *VISION, *CROSS_MODALITY)


class VQAVS(DataSet):
    """VQA-VS, with its own Val. All questions of the nine OOD sets are in IID-Test, so only their ids are read."""

    source = "VQA-VS: the repository VQA-VS of PhoebusSi"

    def splits(self) -> dict[str, SplitFiles]:
        lists = {name: f"OOD-Test/{name}/OOD-Test-{name}-Ques.json" for name in OOD_SETS}
        return {
            "train": SplitFiles("Training/Training-Ques.json", "Training/Training-Ans.json", cached="train"),
            "dev": SplitFiles("Val/Val-Ques.json", "Val/Val-Ans.json", cached="val"),
            "iid": SplitFiles(
                "IID-Test/IID-Test-Ques.json",
                "IID-Test/IID-Test-Ans.json",
                "id",
                cached="test",
                lists=lists,
                subsets=dict.fromkeys(OOD_SETS, "ood"),
            ),
        }

    def means(self) -> dict[str, Sequence[str]]:
        return {"ood_mean": OOD_SETS, "ood_lang": LANGUAGE, "ood_vis": VISION, "ood_crsm": CROSS_MODALITY}
