"""Models on the Hugging Face hub: in its local cache, or to be fetched."""

from pathlib import Path

from huggingface_hub import HfApi, constants, try_to_load_from_cache

from cdvqa.errors import InputError

VOCABULARIES = ("vocab.txt", "tokenizer.json")
WEIGHTS = ("model.safetensors", "pytorch_model.bin")
PATIENCE = 10  # seconds for the hub's first answer


def find_locally(source: str, names: tuple[str, ...]) -> Path | None:
    """The path of `source` on this machine: a file as it is, else the first of `names` in it. No network is used.

    Args:
        source: a file, a folder, or a model on the hub, which is looked for in the local cache.
        names: file names, any of which is enough.
    """
    path = Path(source)
    if path.is_file():
        return path
    if path.is_dir():
        return next((path / name for name in names if (path / name).is_file()), path / names[0])
    for name in names:
        try:
            cached = try_to_load_from_cache(source, name)
        except ValueError:  # not the name of a model, so a path that does not exist
            return path
        if isinstance(cached, str):
            return Path(cached)
    return None


def is_local(source: str, names: tuple[str, ...], remedy: str) -> bool:
    """Whether `source` can be read without the network; True keeps the hub from being asked for a newer version.

    Raises:
        InputError: it is not here, and the hub has no such model or does not answer; transformers tries for minutes.
    """
    if find_locally(source, names) is not None:
        return True
    if constants.HF_HUB_OFFLINE:
        raise InputError(f"{source}: not in the Hugging Face cache, and HF_HUB_OFFLINE is set; {remedy}")
    try:
        HfApi().model_info(source, timeout=PATIENCE)
    except Exception as error:  # whatever the transport below raises
        reason = next(iter(str(error).splitlines()), "") or type(error).__name__
        raise InputError(f"{source}: not in the Hugging Face cache, nor to be fetched ({reason}); {remedy}") from error
    return False
