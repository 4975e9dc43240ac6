"""A network as a folder that transformers loads, with example code that answers a question."""

from pathlib import Path
from typing import cast

import torch
from torch import nn
from transformers.utils.logging import disable_progress_bar

from cdvqa.backbones.head import HEAD_FILE, save_answer_head
from cdvqa.data.questions.text import LENGTH
from cdvqa.deploy.network import Network
from cdvqa.errors import InputError
from cdvqa.files import write_folder

TYPES = {"fp32": torch.float32, "fp16": torch.float16, "bf16": torch.bfloat16}
# By backbone: the encoder's arguments for regions and boxes, and the name of its pooled output.
CALLS = {
    "lxmert": ("visual_feats=features, visual_pos=boxes", "pooled_output"),
    "visualbert": ("visual_embeds=features", "pooler_output"),
}
WORDS = {
    "standard": "ids = tokenizer.encode(question).ids\nids = ids if len(ids) <= {length} else [*ids[:{last}], ids[-1]]",
    "authors": "ids = tokenizer.encode(question, add_special_tokens=False).ids[:{length}]\n"
    "ids += [0] * ({length} - len(ids))",
}
README = """\
# {name}

The encoder at its full size, with zeros where it was pruned, and the answer head. These lines answer a question;
`features` (R, F) and `boxes` (R, 4; x1/w, y1/h, x2/w, y2/h) are those of its image, as float32 tensors:

```python
import json, torch
from safetensors import safe_open
from tokenizers import Tokenizer
from transformers import AutoModel

encoder = AutoModel.from_pretrained(folder, dtype=torch.float32).eval()
tokenizer = Tokenizer.from_file(f"{{folder}}/tokenizer.json")
{words}
ids, features, boxes = torch.tensor([ids]), features[None], boxes[None]
with torch.no_grad(), safe_open(f"{{folder}}/{head}", "pt") as head:
    hidden = encoder(input_ids=ids, attention_mask=torch.ones_like(ids), {call}).{pooled}
    hidden = torch.relu(hidden @ head.get_tensor("0.weight").T + head.get_tensor("0.bias"))
    scores = hidden @ head.get_tensor("3.weight").T + head.get_tensor("3.bias")
    answer = json.loads(head.metadata()["answers"])[scores.argmax()]
```
"""


def write_huggingface(network: Network, folder: Path, dtype: str) -> None:
    """Write config, weights, tokeniser, answer head and README into a new folder, whole or not at all.

    Raises:
        InputError: transformers has no such encoder, or the answers need more than the encoder and an `answer_head`.
    """
    backbone, encoder = network.backbone, network.backbone.encoder
    if encoder is None or backbone.name not in CALLS:
        raise InputError(f"{backbone.name}: transformers has no model of its kind; export it with --to subnetwork")
    if network.metadata["head"] is not None:
        raise InputError(f"{network.path}: its objective has an answer head of its own; export it with --to subnetwork")
    if network.objective.shipped():
        raise InputError(f"{network.path}: its objective has a part in the answer; export it with --to subnetwork")
    assert backbone.tokenizer is not None and backbone.answers is not None
    regions, pooled = CALLS[backbone.name]
    length = LENGTH[network.metadata["text_format"]]
    words = WORDS[network.metadata["text_format"]].format(length=length, last=length - 1)
    with write_folder(folder) as temporary:
        disable_progress_bar()
        cast(nn.Module, encoder).to(TYPES[dtype])
        encoder.save_pretrained(temporary)
        encoder.float()
        save_answer_head(cast(nn.Sequential, backbone.classifier), backbone.answers, temporary)
        backbone.tokenizer.save(str(temporary / "tokenizer.json"))
        text = README.format(name=network.name, words=words, head=HEAD_FILE, call=regions, pooled=pooled)
        (temporary / "README.md").write_text(text)
