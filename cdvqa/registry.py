"""Extensions by name: the built-in ones by a short name, a user's own by `package.module.Class`."""

import inspect
from collections.abc import Mapping
from importlib import import_module
from typing import Any, TypeVar

from cdvqa.errors import InputError, nearest

T = TypeVar("T")


def find_class(option: str, name: str, known: Mapping[str, type[T]], base: type[Any]) -> type[T]:
    """The class that `name` stands for.

    Args:
        option: the option that gave the name, such as `data.layout`; errors begin with it.
        name: one of `known`, or `package.module.Class`.
        known: built-in classes by short name.
        base: the class that every extension derives from.

    Raises:
        InputError: the name is unknown, cannot be imported, or is no complete subclass of `base`.
    """
    if name in known:
        return known[name]
    module, _, attribute = name.rpartition(".")
    if not module:
        use = f"use one of {', '.join(known)}, or package.module.Class{nearest(name, known)}"
        raise InputError(f"{option} {name!r} is unknown; {use}")
    try:
        found = getattr(import_module(module), attribute)
    except (ImportError, AttributeError) as error:
        raise InputError(f"{option} {name}: cannot be imported ({error}); put its folder on PYTHONPATH") from error
    if not (isinstance(found, type) and issubclass(found, base)):
        raise InputError(f"{option} {name}: not a subclass of {base.__module__}.{base.__name__}")
    if inspect.isabstract(found):
        lacking = getattr(found, "__abstractmethods__", ())
        raise InputError(f"{option} {name}: does not define {', '.join(sorted(lacking))}")
    return found


def make(
    option: str, name: str, known: Mapping[str, type[T]], base: type[Any], options: Mapping[str, Any] | None = None
) -> T:
    """An instance of the class that `name` stands for, built with `options`; arguments as in `find_class`.

    Raises:
        InputError: as `find_class`, or an option that the class does not take or refuses.
    """
    found, given = find_class(option, name, known, base), dict(options or {})
    accepted = inspect.signature(found).parameters
    if unknown := sorted(given.keys() - accepted.keys()):
        takes = f"(it takes: {', '.join(accepted) or 'none'}){nearest(unknown[0], accepted)}"
        raise InputError(f"{option}_options: {name} does not take {', '.join(unknown)} {takes}")
    try:
        return found(**given)
    except (TypeError, ValueError) as error:
        raise InputError(f"{option}_options: {name} cannot be built: {error}") from error
