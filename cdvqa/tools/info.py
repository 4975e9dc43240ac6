"""`cdvqa info`: counts the matrices of a config's model and the parameters kept at each sparsity."""

import textwrap

from cdvqa.backbones import Backbone
from cdvqa.objectives import Objective
from cdvqa.runs.folder import percent
from cdvqa.sparsity import Sparsity

MEGA = 2**20  # the paper's "M"
KEPT = (0.1, 0.3, 0.5, 0.7, 0.9)


def run(args: list[str]) -> None:
    """Print the masked matrices by modality, the classifier, and the parameters kept at each sparsity."""
    from cdvqa.cli.inspect import ConfigInspector

    stage = ConfigInspector(args[1:], "cdvqa info").model
    print("\n".join(describe(stage.backbone, stage.sparsity, stage.objective)))


def describe(backbone: Backbone, sparsity: Sparsity | None, objective: Objective) -> list[str]:
    """The lines that `cdvqa info` prints."""
    shipped = sum(parameter.numel() for parameter in objective.shipped())
    beside = sum(parameter.numel() for parameter in objective.parameters()) - shipped
    everything = sum(parameter.numel() for parameter in backbone.parameters()) + shipped
    classifier = sum(parameter.numel() for parameter in backbone.classifier.parameters())
    branch = [row("of the objective", shipped)] if shipped else []
    groups, counts = backbone.matrices(), backbone.counts()
    masked, matrices = sum(counts.values()), sum(len(names) for names in groups.values())
    none = "no matrices to mask, so it is for stage 1 only"
    lines = [
        f"{backbone.name}: {f'{matrices} matrices can be masked' if matrices else none} (M = 2^20 parameters)",
        "",
        f"{'modality':<22}{'matrices':>9}{'weights':>15}{'M':>8}",
        *(row(modality, counts[modality], len(names)) for modality, names in groups.items()),
    ]
    if not matrices:
        return [*lines, row("classifier", classifier), *branch, row("everything", everything), *left_out(beside)]
    lines += [
        row("all masked", masked, matrices),
        row("classifier", classifier),
        *branch,
        row("with the classifier", masked + classifier + shipped),
        row("everything", everything),
    ]
    whole = classifier + shipped
    papers = ", ".join(f"{percent(kept)} % {(kept * masked + whole) / MEGA:.1f} M" for kept in KEPT)
    true = ", ".join(true_share(kept, masked, everything) for kept in KEPT)
    lines += ["", f"kept + classifier, as the paper counts: {papers}", f"kept of everything: {true}"]
    lines += textwrap.wrap(backbone.counting_note, 118)
    if sparsity is not None:
        rates = sparsity.rates(counts)
        zeros = ", ".join(f"{modality} {percent(rate)} %" for modality, rate in rates.items())
        lines.append(
            f"this config: {sparsity.method}, {sparsity.assignment}, {percent(sparsity.overall)} % zeros ({zeros})"
        )
    return [*lines, *left_out(beside), *describe_dead(backbone)]


def left_out(beside: int) -> list[str]:
    """A line on the parameters that the objective trains and no answer needs."""
    return [f"not counted: {beside:,} parameters of the objective, which no answer needs"] if beside else []


def true_share(kept: float, masked: int, everything: int) -> str:
    """What is left of all parameters if the share `kept` of the masked ones is kept: "50 % 203.1 M (61.3 %)"."""
    left = everything - (1 - kept) * masked
    return f"{percent(kept)} % {left / MEGA:.1f} M ({100 * left / everything:.1f} %)"


def describe_dead(backbone: Backbone) -> list[str]:
    """Masked matrices that cannot change the answer."""
    dead = backbone.dead()
    if not dead:
        return []
    weights = sum(backbone.get_parameter(name).numel() for name in dead)
    where = sorted({".".join(name.split(".")[:5]) for name in dead})
    return [
        "",
        f"dead: {len(dead)} matrices ({weights:,} weights) cannot reach the answer; they are counted, frozen,",
        f"and keep a magnitude mask: {', '.join(where)}",
    ]


def row(name: str, weights: int, matrices: int | None = None) -> str:
    """One line of the table; two decimals where one would hide the number."""
    mega = weights / MEGA
    figure = f"{mega:.2f}" if mega < 1 else f"{mega:.1f}"
    return f"{name:<22}{matrices if matrices is not None else '':>9}{weights:>15,}{figure:>8}"
