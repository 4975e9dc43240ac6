"""Folders of images: their files, the image ids in their names, and how an image is opened."""

import os
import re
import stat
from collections.abc import Iterator
from contextlib import contextmanager
from io import BytesIO
from pathlib import Path
from typing import NamedTuple

from PIL import Image, UnidentifiedImageError

from cdvqa.errors import InputError

_IMAGE_ID = re.compile(r"(?:\w+_)?(\d{1,18})|n([1-9]\d{0,17})")
SUFFIXES = (".jpg", ".jpeg", ".png", ".webp")
_ORIENTATION = 0x0112  # of EXIF
_TURN = Image.Transpose
_TURNS = {2: _TURN.FLIP_LEFT_RIGHT, 3: _TURN.ROTATE_180, 4: _TURN.FLIP_TOP_BOTTOM}
_TURNS |= {5: _TURN.TRANSPOSE, 6: _TURN.ROTATE_270, 7: _TURN.TRANSVERSE, 8: _TURN.ROTATE_90}  # swap width and height


class ImageFile(NamedTuple):
    """A file in a folder of images."""

    name: str
    """Relative to the folder."""
    bytes: int
    mtime_ns: int


def image_files(folder: Path) -> list[ImageFile]:
    """The images in a folder and the folders in it, in the order of their names.

    Names that begin with a dot are left out. Links are followed: COCO's folders often are some.

    Raises:
        InputError: a folder or a file cannot be read.
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
                if not stat.S_ISREG(status.st_mode):  # reading a pipe would wait for its writer
                    raise InputError(f"{path}: not a file; remove it")
                files.append(ImageFile(os.path.relpath(path, folder), status.st_size, status.st_mtime_ns))
    return sorted(files)


def image_number(name: str) -> int | None:
    """The id of an image by its name: a number, alone or at the end as in COCO_train2014_000000318556.

    GQA's n161313 is −161313: plain numbers are GQA's images of Visual Genome, of which 161313 would be another.

    Returns:
        The id, or None where the name has none.
    """
    match = _IMAGE_ID.fullmatch(name)
    if match is None:
        return None
    return int(match[1]) if match[1] else -int(match[2])


def by_image_id(folder: Path, files: list[ImageFile]) -> dict[int, ImageFile]:
    """Files by the id in their names (`image_number`), as 318556.jpg, in the order given.

    Raises:
        InputError: a name has no id, or two files have the same.
    """
    known: dict[int, ImageFile] = {}
    for file in files:
        number = image_number(Path(file.name).stem)
        if number is None:
            wanted = "a number, or such as COCO_train2014_000000318556 or n161313"
            raise InputError(f"{folder / file.name}: no image id; name the file by it: {wanted}")
        if number in known:
            raise InputError(f"{folder / file.name}: image {number} is {known[number].name} too; remove one")
        known[number] = file
    return known


def picture_paths(folder: Path) -> dict[int, Path]:
    """The images in a folder, which may be absent, by image id; InputError as `image_files` and `by_image_id`."""
    files = by_image_id(folder, image_files(folder)) if folder.is_dir() else {}
    return {number: folder / file.name for number, file in files.items()}


@contextmanager
def opened(source: Path | BytesIO) -> Iterator[Image.Image]:
    """An image, of a file or in memory, of which only the header has been read.

    Raises:
        InputError: it cannot be read, now or inside the context, or has more than 8 bits a pixel of grey.
    """
    file = isinstance(source, Path)
    name, remedy = (source, "fetch it again or remove it") if file else ("the picture", "choose another")
    try:
        with Image.open(source, formats=("JPEG", "PNG", "WEBP")) as image:
            if image.mode.startswith(("I", "F")):  # as RGB, all but its darkest parts would be white
                raise InputError(f"{name}: has more than 8 bits a pixel of grey; store it with 8")
            yield image
    except InputError:
        raise
    except Exception as error:  # decoders raise whatever damaged bytes lead to
        reason = "no JPEG, PNG or WebP" if isinstance(error, UnidentifiedImageError) else f"{error!s:.200}"
        raise InputError(f"{name}: not a readable image ({reason}); {remedy}") from None


def upright_size(image: Image.Image) -> tuple[int, int]:
    """Width and height once the image is turned as its EXIF orientation says; its pixels are not read."""
    return image.size[::-1] if _orientation(image) >= 5 else image.size


def upright(source: Path | BytesIO, most: int | None = None) -> Image.Image:
    """An image in RGB, turned as its EXIF orientation says.

    Args:
        source: its file, or its content.
        most: pixels; an image that has more is refused before it is decoded.

    Raises:
        InputError: see `opened`; the image has too many pixels.
    """
    with opened(source) as image:
        if most is not None and image.width * image.height > most:
            raise InputError(f"an image of {image.width} x {image.height} pixels; send one of at most {most:,}")
        turn = _TURNS.get(_orientation(image))
        return (image if turn is None else image.transpose(turn)).convert("RGB")


def _orientation(image: Image.Image) -> int:
    """1 to 8; 1, upright, where EXIF data are absent, damaged or of another type."""
    try:
        orientation = image.getexif().get(_ORIENTATION)
    except Exception:  # a damaged block of EXIF data says nothing of the pixels
        return 1
    return orientation if isinstance(orientation, int) and orientation in _TURNS else 1
