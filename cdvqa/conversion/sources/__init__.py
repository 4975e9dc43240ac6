"""Published formats of region features, and which source reads which."""

from importlib import import_module
from pathlib import Path
from typing import get_args

from cdvqa.conversion.sources.source import FeatureFormat, FeatureSource
from cdvqa.errors import InputError

# format: (module, class); `auto` tries them in this order: those with a magic number or a file ending first
SOURCES: dict[FeatureFormat, tuple[str, str]] = {
    "hdf5": ("hdf5", "Hdf5Features"),
    "lmdb": ("lmdb", "LmdbFeatures"),
    "arrays": ("arrays", "ArrayFolder"),
    "bottom-up": ("tsv", "BottomUpTsv"),
    "lxmert": ("tsv", "LxmertTsv"),
}


def open_features(path: str | Path, format: FeatureFormat = "auto") -> FeatureSource:
    """Open an input of region features; `auto` takes the first format that recognises it.

    Raises:
        InputError: there is no such input, no format recognises it, or it is wrong at first sight.
    """
    path = Path(path)
    if not path.exists():
        raise InputError(f"{path}: no such file or folder; --input is a published set of region features")
    if path.suffix in (".pkl", ".pickle"):
        raise InputError(f"{path}: pickled features are not read; convert the TSV that they were made from")
    if format != "auto":
        return source_class(format)(path)
    for name in SOURCES:
        if (source := source_class(name)).recognises(path):
            return source(path)
    formats = ", ".join(name for name in get_args(FeatureFormat) if name != "auto")
    raise InputError(f"{path}: looks like none of {formats}; --format NAME says what is wrong with it as that")


def source_class(format: FeatureFormat) -> type[FeatureSource]:
    """The class that reads a format, imported only now: some formats need optional packages."""
    module, name = SOURCES[format]
    source: type[FeatureSource] = getattr(import_module(f"cdvqa.conversion.sources.{module}"), name)
    return source
