"""Stage 1: fine-tune the full model."""

from cdvqa.stages.stage import VQAStage


class FineTune(VQAStage):
    """Stage 1. Trains every parameter of the pre-trained backbone, except branches that cannot reach the answer."""

    stage = 1
