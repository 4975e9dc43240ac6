"""Folders of images: which files are in them, what their names say, and how one is opened."""

import os
import re
import struct
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import NamedTuple

from PIL import Image, ImageOps, UnidentifiedImageError

from cdvqa.errors import InputError

IMAGE_ID = r"(?:\w+_)?(\d{1,18})"
"""A name or field that tells an image: its number, alone or at the end as in COCO_train2014_000000318556."""
SUFFIXES = (".jpg", ".jpeg", ".png", ".webp")
_ORIENTATION = 0x0112  # of EXIF; from 5 on, width and height are swapped


class ImageFile(NamedTuple):
    name: str
    """Relative to the folder."""
    bytes: int
    mtime_ns: int


def image_files(folder: Path) -> list[ImageFile]:
    """The images in a folder and the folders in it, in the order of their names.

    Names that begin with a dot are left out. Links are followed: COCO's folders often are some.

    Raises:
        InputError: a folder or a file cannot be looked at.
    """

    def refuse(error: OSError) -> None:
        raise InputError(f"{error.filename}: {error.strerror}; remove it or make it readable")

    files = []
    for parent, folders, names in os.walk(folder, onerror=refuse, followlinks=True):
        folders[:] = [name for name in folders if not name.startswith(".")]
        for name in names:
            if name.lower().endswith(SUFFIXES) and not name.startswith("."):
                path = os.path.join(parent, name)
                try:
                    status = os.stat(path)
                except OSError as error:
                    refuse(error)
                files.append(ImageFile(os.path.relpath(path, folder), status.st_size, status.st_mtime_ns))
    return sorted(files)


def by_image_id(folder: Path, files: list[ImageFile]) -> dict[int, ImageFile]:
    """Files by the id in their names, as 318556.jpg or COCO_train2014_000000318556.jpg, in the order given.

    Raises:
        InputError: a name has no id, or two files have the same.
    """
    known: dict[int, ImageFile] = {}
    for file in files:
        match = re.fullmatch(IMAGE_ID, Path(file.name).stem)
        if not match:
            wanted = "a number, or such as COCO_train2014_000000318556"
            raise InputError(f"{folder / file.name}: no image id; name the file by it: {wanted}")
        number = int(match[1])
        if number in known:
            raise InputError(f"{folder / file.name}: image {number} is {known[number].name} too; remove one")
        known[number] = file
    return known


@contextmanager
def opened(path: Path) -> Iterator[Image.Image]:
    """An image whose head has been read.

    Raises:
        InputError: it cannot be read, now or inside the context, or has more than 8 bits a pixel of grey.
    """
    try:
        with Image.open(path, formats=("JPEG", "PNG", "WEBP")) as image:
            if image.mode.startswith(("I", "F")):  # as RGB, all but its darkest parts would be white
                raise InputError(f"{path}: has more than 8 bits a pixel of grey; store it with 8")
            yield image
    except (OSError, ValueError, SyntaxError, EOFError, struct.error, Image.DecompressionBombError) as error:
        reason = "no JPEG, PNG or WebP" if isinstance(error, UnidentifiedImageError) else str(error)
        raise InputError(f"{path}: not a readable image ({reason}); fetch it again or remove it") from None


def upright_size(image: Image.Image) -> tuple[int, int]:
    """Width and height once the image is turned as its EXIF orientation says; its pixels are not read."""
    swapped = image.getexif().get(_ORIENTATION, 1) >= 5
    return image.size[::-1] if swapped else image.size


def upright(path: Path) -> Image.Image:
    """An image in RGB, turned as its EXIF orientation says.

    Raises:
        InputError: see `opened`.
    """
    with opened(path) as image:
        return ImageOps.exif_transpose(image).convert("RGB")
