"""Finding the configs that travel with cdvqa."""

from pathlib import Path

from cdvqa.errors import InputError

PACKAGE = Path(__file__).parent.parent


def shipped() -> Path:
    """The folder of shipped configs: inside an installed package, beside it in a checkout."""
    installed = PACKAGE / "configs"
    return installed if installed.is_dir() else PACKAGE.parent / "configs"


def find_config(name: str) -> str:
    """A path as it is; a bare name that is no file, from the shipped configs.

    Raises:
        InputError: no shipped config has this name, or several have.
    """
    if Path(name).is_file() or Path(name).name != name:
        return name
    found = sorted(path for path in shipped().rglob("*.yaml") if path.name == name)
    if len(found) > 1:
        raise InputError(f"--config {name}: several shipped configs have this name: {', '.join(map(str, found))}")
    if not found:
        known = ", ".join(sorted(path.name for path in shipped().rglob("*.yaml")))
        raise InputError(f"--config {name}: no such file, and no shipped config of this name; shipped are {known}")
    return str(found[0])


def resolve_configs(args: list[str]) -> list[str]:
    """Command-line arguments with every `--config` value looked up."""
    resolved = list(args)
    for i, arg in enumerate(args):
        if arg in ("--config", "-c") and i + 1 < len(args):
            resolved[i + 1] = find_config(args[i + 1])
        elif arg.startswith("--config="):
            resolved[i] = f"--config={find_config(arg.removeprefix('--config='))}"
    return resolved
