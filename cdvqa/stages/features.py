"""Whether the region features are of the kind that a network was trained on."""

from collections.abc import Iterator, Mapping
from math import sqrt
from pathlib import Path
from typing import Any

from pytorch_lightning.utilities import rank_zero_warn

# Largest difference between the features of one extractor for different photographs. For samples of n images 1/√n is
# added, because few images vary more: 64 images allow 0.275. Boxes in pixels, vectors scaled to one length and sorted
# regions differ by at least 0.5; regions in the rows of a grid, from regions in no order, by 0.33.
SAME_KIND = 0.15


def warn_of_other_features(
    network: Path, theirs: Mapping[str, Any] | None, file: Path, ours: Mapping[str, Any]
) -> None:
    """Warn, in one line, if `file` holds features of another kind than those the network was trained on.

    Args:
        network: the network's file.
        theirs: fingerprint of the features it was trained on (`RegionFeatures.fingerprint`); None if it has none.
        file: the feature file in use.
        ours: its fingerprint.
    """
    found = [f"{what} {there} there and {here} here" for what, there, here in differences(theirs or {}, ours)]
    if found:
        rank_zero_warn(
            f"{network}: was trained on other region features than those in {file}: {', '.join(found)}; "
            "its answers will suffer: point --data.features at features made as the network's were"
        )


def differences(theirs: Mapping[str, Any], ours: Mapping[str, Any]) -> Iterator[tuple[str, Any, Any]]:
    """Name and two values of what clearly differs: extractor, mean norm, range of boxes, order of regions.

    What is missing in one of the two fingerprints is skipped. Digest, type and number of images may differ.
    """
    there, here = theirs.get("extractor"), ours.get("extractor")
    if there and here and there != here:
        yield "extractor", repr(there), repr(here)
    if "images" not in theirs or "images" not in ours:
        return
    tolerance = SAME_KIND + 1 / sqrt(min(theirs["images"], ours["images"]))
    there, here = theirs["norm"]["mean"], ours["norm"]["mean"]
    if max(there, here) > (1 + tolerance) * min(there, here):
        yield "mean norm", f"{there:g}", f"{here:g}"
    for group, label in (("boxes", "boxes: {}"), ("order", "order of regions: share where {}")):
        for name, there in theirs[group].items():
            here = ours[group].get(name)
            if there is not None and here is not None and abs(there - here) > tolerance:
                yield label.format(name.replace("_", " ")), f"{there:g}", f"{here:g}"
