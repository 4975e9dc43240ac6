"""Questions for the recurrent baselines."""

import pytest
import torch

from cdvqa.data.batch import VQABatch


@pytest.fixture
def batch() -> VQABatch:
    """Three questions of 2, 5 and 3 words; the images of two of them lack regions."""
    generator = torch.Generator().manual_seed(1)
    return VQABatch(
        question_id=torch.arange(3),
        input_ids=torch.randint(1, 12, (3, 8), generator=generator),
        attention_mask=(torch.arange(8) < torch.tensor([2, 5, 3])[:, None]).long(),
        region_features=torch.randn(3, 4, 7, generator=generator).double(),
        region_mask=torch.tensor([[1, 1, 1, 1], [1, 1, 0, 0], [1, 0, 1, 0]]).bool(),
    )
