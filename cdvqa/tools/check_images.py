"""The folder of images that a config needs, where the backbone sees them and no features."""

import numpy as np

from cdvqa.data.datamodule import VQADataModule
from cdvqa.data.visual.images import ImageFolder
from cdvqa.data.visual.source import ImageFormat
from cdvqa.errors import InputError
from cdvqa.tools.check_features import Visual
from cdvqa.tools.findings import Finding, Item, Report, made_by, reason

SOURCE = "train2014 and val2014 of COCO, or your own images: a folder given with --data.images FOLDER"
SAMPLE = 8


def check_images(data: VQADataModule, image_format: ImageFormat) -> Visual:
    """Look at the folder of images of `data`, and into a few of them.

    Args:
        data: the config's data module; nothing has been read.
        image_format: what the backbone takes.
    """
    path = data.images_folder
    item = Item("images", str(path), made_by(data, SOURCE))
    report = Report([item], [])
    if not path.is_dir():
        return Visual(report, None, {})
    try:
        images = ImageFolder(path, image_format)
    except InputError as error:
        item.problem = reason(error, path)
        return Visual(report, None, {})
    fingerprint = images.fingerprint()
    item.size, item.digest = images.bytes, f"{fingerprint['ids_sha256']}*"
    item.holds = f"{len(images):,} {fingerprint['extractor']}; * SHA-256 of their ids"
    sample = images.image_id[np.unique(np.linspace(0, len(images) - 1, SAMPLE).astype(np.intp))]
    try:
        images.read(sample)
    except InputError as error:
        report.findings.append(Finding("WRONG", str(error)))
    else:
        report.findings.append(Finding("ok", f"{len(sample)} sampled images can be read"))
    return Visual(report, images, fingerprint)
