"""From the names of weights in the authors' checkpoints to the names in cdvqa's mPLUG."""

import re
from collections.abc import Container, Mapping

import torch
from torch import Tensor
from torch.nn import functional

POSITIONS = "vision.embeddings.position_embedding.weight"
# Pattern of the start of an authors' name, and its replacement.
RULES = [
    (r"visual_encoder\.visual\.class_embedding", "vision.embeddings.class_embedding"),
    (r"visual_encoder\.visual\.positional_embedding", POSITIONS),
    (r"visual_encoder\.visual\.conv1\.", "vision.embeddings.patch_embedding."),
    (r"visual_encoder\.visual\.ln_pre\.", "vision.pre_layrnorm."),
    (r"visual_encoder\.visual\.ln_post\.", "vision.post_layernorm."),
    (r"visual_encoder\.visual\.transformer\.resblocks\.(\d+)\.", r"vision.encoder.layers.\1."),
    (r"text_encoder\.embeddings\.", "text.embeddings."),
    (r"text_encoder\.encoder\.layer\.", "text.layer."),
    (r"fusion_encoder\.encoder\.layer\.", "fusion.layer."),
    (r"text_decoder\.bert\.embeddings\.", "decoder.embeddings."),
    (r"text_decoder\.bert\.encoder\.layer\.", "decoder.layer."),
    (r"text_decoder\.cls\.predictions\.(?=transform\.|bias$)", "classifier."),
]
CLIP_PARTS = {
    "attn.out_proj": "self_attn.out_proj",
    "ln_1": "layer_norm1",
    "ln_2": "layer_norm2",
    "mlp.c_fc": "mlp.fc1",
    "mlp.c_proj": "mlp.fc2",
}


def translate(state: Mapping[str, Tensor], own: Container[str]) -> tuple[dict[str, Tensor], list[str]]:
    """The weights under our names, and the authors' names of weights that are not in `own`."""
    ours: dict[str, Tensor] = {}
    foreign = []
    for name, tensor in state.items():
        found = {our: part for our, part in renamed(name, tensor).items() if our in own}
        ours |= found
        if not found:
            foreign.append(name)
    return ours, foreign


def renamed(name: str, tensor: Tensor) -> dict[str, Tensor]:
    """One of the authors' weights under our name; CLIP's joint projection becomes three; empty if it has no rule."""
    plain = unprefixed(name)
    rule = next((rule for rule in RULES if re.match(rule[0], plain)), None)
    if rule is None:
        return {}
    plain = re.sub(rule[0], rule[1], plain, count=1)
    if "attn.in_proj_" in plain:  # CLIP's query, key and value are one matrix
        block, kind = plain.split("attn.in_proj_")
        parts = zip("qkv", tensor.chunk(3), strict=True)
        return {f"{block}self_attn.{part}_proj.{kind}": chunk for part, chunk in parts}
    for theirs, our in CLIP_PARTS.items():
        plain = plain.replace(f".{theirs}.", f".{our}.")
    return {plain: tensor}


def unprefixed(name: str) -> str:
    """`name` without the names of modules that wrap an encoder; the authors rename so before loading."""
    if ("fusion" in name or "bert" in name) and "decode" not in name:
        return name.replace("fusion.", "").replace("bert.", "")
    return name


def resize_positions(positions: Tensor, number: int) -> Tensor:
    """Positional embedding (1 + P, H), interpolated bilinearly for another image size: (number, H).

    The class token's row, the first, is kept. Nothing is changed unless both grids of patches are square.
    """
    grids = [round((count - 1) ** 0.5) for count in (len(positions), number)]
    if len(positions) == number or [1 + side**2 for side in grids] != [len(positions), number]:
        return positions
    grid = positions[1:].float().unflatten(0, (grids[0], grids[0])).permute(2, 0, 1)[None]
    resized = functional.interpolate(grid, size=(grids[1], grids[1]), mode="bilinear")
    return torch.cat([positions[:1].float(), resized[0].flatten(1).T])
