"""What stands for weights in a run's identity: a hub name and revision, or digests of files; never a path."""

import hashlib
from contextlib import suppress
from pathlib import Path

import torch

from cdvqa.errors import Stopped
from cdvqa.files import read_json, write_json
from cdvqa.hub import find_locally
from cdvqa.sparsity import Subnetwork

WEIGHT_FILES = ("*.safetensors", "pytorch_model*.bin")


def weights_identity(source: str, patterns: tuple[str, ...] = WEIGHT_FILES) -> str | None:
    """What `source` holds: `hub NAME@REVISION`, or `sha256 …` of a file or of a folder's files, the first kind it has.

    None where there is no such file: whatever reads it will say so.
    """
    path = Path(source)
    if path.is_file():
        return f"sha256 {file_digest(path)}"
    if path.is_dir():
        files = next((found for pattern in patterns if (found := sorted(path.glob(pattern)))), [])
        files += sorted(path.glob("config.json"))
        parts = "".join(f"{file.name} {file_digest(file)}\n" for file in files)
        return f"sha256 {hashlib.sha256(parts.encode()).hexdigest()}" if files else None
    cached = find_locally(source, ("config.json",))
    if cached == path:  # not the name of a model, so a path that does not exist
        return None
    return f"hub {source}@{cached.parent.name}" if cached else f"hub {source}"


def file_digest(path: Path) -> str:
    """SHA-256 of a file; kept beside a large one, where that can be written, until the file changes."""
    stat = path.stat()
    stamp = [stat.st_size, stat.st_mtime_ns]
    kept = path.with_name(f".{path.name}.sha256.json")
    with suppress(OSError, ValueError, KeyError, TypeError):
        known = read_json(kept)
        if known["stamp"] == stamp:
            return str(known["sha256"])
    with path.open("rb") as file:
        digest = hashlib.file_digest(file, "sha256").hexdigest()
    if stat.st_size > 2**24:
        with suppress(OSError, Stopped):
            write_json(kept, {"stamp": stamp, "sha256": digest})
    return digest


def tensors_digest(path: Path) -> str:
    """SHA-256 of the tensors and masks of a network file, whatever else it says."""
    network = Subnetwork.load(path)
    digest = hashlib.sha256()
    for part in (network.state, network.masks):
        for name in sorted(part):
            tensor = part[name].contiguous()
            digest.update(f"{name} {tensor.dtype} {tuple(tensor.shape)}\n".encode())
            digest.update(tensor.reshape(-1).view(torch.uint8).numpy().tobytes())
    return digest.hexdigest()
