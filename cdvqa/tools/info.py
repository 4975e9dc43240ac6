"""`cdvqa info`: what a config's model is made of, and what is left of it at each sparsity."""

from torch import nn

from cdvqa.backbones import Backbone
from cdvqa.runs import percent
from cdvqa.sparsity import Sparsity

MEGA = 2**20  # the paper's "M"
KEPT = (0.1, 0.3, 0.5, 0.7, 0.9)


def run(args: list[str]) -> None:
    """Print the masked matrices by modality, the classifier, and the parameters kept at each sparsity."""
    from cdvqa.tools.inspect import ConfigInspector

    stage = ConfigInspector(args[1:], "cdvqa info").model
    print("\n".join(describe(stage.backbone, stage.sparsity)))


def describe(backbone: Backbone, sparsity: Sparsity | None) -> list[str]:
    """The lines that `cdvqa info` prints."""
    parameters: dict[str, nn.Parameter] = dict(backbone.named_parameters())
    groups = backbone.matrices()
    counts = backbone.counts()
    masked, classifier = sum(counts.values()), sum(p.numel() for p in backbone.classifier.parameters())
    matrices = sum(len(names) for names in groups.values())
    lines = [
        f"{backbone.name}: {matrices} matrices can be masked (M = 2^20 parameters)",
        "",
        f"{'modality':<22}{'matrices':>9}{'weights':>15}{'M':>8}",
        *(row(modality, counts[modality], len(names)) for modality, names in groups.items()),
        row("all masked", masked, matrices),
        row("classifier", classifier),
        row("with the classifier", masked + classifier),
        row("everything", sum(p.numel() for p in parameters.values())),
        "",
        "kept + classifier: "
        + ", ".join(f"{percent(kept)} % {(kept * masked + classifier) / MEGA:.1f} M" for kept in KEPT),
    ]
    if sparsity is not None:
        rates = sparsity.rates(counts)
        zeros = ", ".join(f"{modality} {percent(rate)} %" for modality, rate in rates.items())
        lines.append(
            f"this config: {sparsity.method}, {sparsity.assignment}, {percent(sparsity.overall)} % zeros ({zeros})"
        )
    if dead := backbone.dead():
        weights = sum(parameters[name].numel() for name in dead)
        where = sorted({".".join(name.split(".")[:5]) for name in dead})
        lines += [
            "",
            f"dead: {len(dead)} matrices ({weights:,} weights) cannot reach the answer; they are counted, frozen,",
            f"and keep a magnitude mask: {', '.join(where)}",
        ]
    return lines


def row(name: str, weights: int, matrices: int | None = None) -> str:
    """One line of the table; two decimals where one would hide the number."""
    mega = weights / MEGA
    figure = f"{mega:.2f}" if mega < 1 else f"{mega:.1f}"
    return f"{name:<22}{matrices if matrices is not None else '':>9}{weights:>15,}{figure:>8}"
