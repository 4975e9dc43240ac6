"""Load a stage's model from a network, and save it as one: backbone, objective's head, objective's parameters."""

from collections.abc import Mapping
from typing import Any, cast

from torch import Tensor, nn

from cdvqa.backbones import Backbone
from cdvqa.errors import InputError
from cdvqa.objectives import Objective, make_objective
from cdvqa.objectives.state import class_path
from cdvqa.sparsity import NetworkFile, Subnetwork
from cdvqa.sparsity.shrink import shrink

OWN = "objective."  # prefix of the names of an objective's tensors in a network file


def objective_for(backbone: Backbone, name: str, options: Mapping[str, Any]) -> Objective:
    """The objective called `name`, with the sizes that it takes from the backbone."""
    # Only the finished objective knows what it needs, so a width of 1 stands for what the backbone does not provide.
    sizes = {f"{output}_size": backbone.provides.get(output, 1) for output in ("question", "vision")}
    return make_objective(name, backbone.hidden_size, num_answers=backbone.num_answers, **sizes, **options)


def prepare_backbone(backbone: Backbone, objective: Objective) -> str | None:
    """Make the backbone compute what the objective needs, and take its head; return the head's class path, or None."""
    backbone.asked = objective.needs & backbone.provides.keys()
    backbone.trains_question = objective.trains_question
    return replace_head(backbone, objective)


def replace_head(backbone: Backbone, objective: Objective) -> str | None:
    """Put the objective's head in place of the classifier's last Linear; return its class path, None without one."""
    if backbone.generates:
        return None
    classifier = cast(nn.Sequential, backbone.classifier)
    last = cast(nn.Linear, classifier[-1])
    head = objective.head(last.in_features, last.out_features)
    if head is None:
        return None
    classifier[-1] = head
    return class_path(head)


def take_network(backbone: Backbone, objective: Objective, metadata: dict[str, Any]) -> Subnetwork:
    """The network as it is now, with its masks and the objective's parameters that belong to it."""
    network = Subnetwork.from_model(backbone, metadata)
    network.state |= part_of_network(objective)
    return network


def part_of_network(objective: Objective) -> dict[str, Tensor]:
    """Those of the objective's tensors that belong to the network, by their names in its file."""
    return {f"{OWN}{name}": value for name, value in objective.state_dict().items() if objective.ships(name)}


def fill_network(
    backbone: Backbone, objective: Objective, network: NetworkFile, ours: dict[str, Any], evaluates: bool
) -> list[str]:
    """Fill backbone and objective from a network.

    A head of another kind starts fresh, and so do the parameters of another objective. Parts that were removed from
    the network are removed from the backbone too.

    Args:
        backbone, objective: what to fill.
        network: what to fill them from.
        ours: metadata of this model.
        evaluates: whether the network is evaluated as it is, so that nothing may start fresh.

    Returns:
        What starts fresh, as words for a message.

    Raises:
        InputError: nothing may start fresh, and something would; or a tensor is missing, damaged or of another shape.
    """
    theirs = network.metadata
    left, reduced = theirs.get("left"), theirs.get("reduced")
    if (left or reduced) and not evaluates:
        raise InputError(f"{network.path}: parts that no answer needs were taken out; a training starts from its run")
    if left:
        shrink(backbone, backbone.structures(), left)
    targets = backbone.state_dict()
    if reduced:
        gone = tuple(backbone.unused())
        targets = {name: value for name, value in targets.items() if not name.startswith(gone)}
    unused = {name for name in network.names if not name.startswith(OWN)} - targets.keys()
    fresh = []
    if theirs.get("head") != ours["head"]:
        fresh.append(f"the head ({ours['head'] or 'linear'})")
        last = f"classifier.{len(cast(nn.Sequential, backbone.classifier)) - 1}."
        targets = {name: value for name, value in targets.items() if not name.startswith(last)}
        unused = {name for name in unused if not name.startswith(last)}
    if objective.in_network and theirs.get("objective") != ours["objective"]:
        fresh.append(f"{ours['objective']}'s part")
    elif objective.in_network:
        targets |= part_of_network(objective)
    if fresh and evaluates:
        raise InputError(
            f"{network.path}: holds no {' and no '.join(fresh)} of --model.objective {ours['objective']}; "
            f"evaluate it with the objective that trained it ({theirs.get('objective')})"
        )
    if unused:
        raise InputError(f"{network.path}: the model here has no {min(unused)}; it seems to be of another model")
    network.fill(targets)
    return fresh
