"""Extensions by name: the built-in ones by a short name, a user's own by `package.module.Class`."""

import inspect
from collections.abc import Collection, Mapping
from importlib import import_module
from types import NoneType, UnionType
from typing import Any, Literal, TypeVar, Union, get_args, get_origin, get_type_hints

from cdvqa.errors import InputError, nearest

T = TypeVar("T")
WORDS = {int: "a whole number", float: "a number", bool: "true or false", str: "text", dict: "a mapping"}


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
    check_options(option, name, found, given)
    try:
        return found(**given)
    except (TypeError, ValueError) as error:
        raise InputError(f"{option}_options: {name} cannot be built: {error}") from error


def check_options(
    option: str, name: str, found: type[Any], given: Mapping[str, Any], provided: Collection[str] = ()
) -> None:
    """Raise InputError for an option that a class does not take, or a value of another type than its annotation.

    Args:
        option, name: as in `find_class`.
        found: the class.
        given: the options.
        provided: parameters that are no options.
    """
    parameters = inspect.signature(found).parameters.values()
    known = [one.name for one in parameters if one.kind not in (one.VAR_POSITIONAL, one.VAR_KEYWORD)]
    known = [parameter for parameter in known if parameter not in provided]
    if unknown := sorted(given.keys() - {*known}):
        takes = f"(it takes: {', '.join(known) or 'none'}){nearest(unknown[0], known)}"
        raise InputError(f"{option}_options: {name} does not take {', '.join(unknown)} {takes}")
    try:
        kinds = get_type_hints(inspect.unwrap(found.__init__))
    except (NameError, TypeError):  # annotations that only a type checker can read
        return
    for key, value in given.items():
        if wanted := wanted_instead(value, kinds.get(key)):
            raise InputError(f"{option}_options.{key} {value}: expected {wanted}")


def wanted_instead(value: Any, kind: Any) -> str:
    """What an annotation asks for, in words; nothing where `value` is that, or `kind` is none that YAML knows."""
    origin = get_origin(kind)
    if origin in (Union, UnionType):
        wanted = [wanted_instead(value, one) for one in get_args(kind)]
        return "" if "" in wanted else " or ".join(one for one in wanted if one != "null")
    if origin is Literal:
        return "" if value in get_args(kind) else f"one of {', '.join(map(str, get_args(kind)))}"
    kind = origin or kind
    if kind is NoneType:
        return "" if value is None else "null"
    if kind not in WORDS:
        return ""
    fits = isinstance(value, int | float if kind is float else kind) and isinstance(value, bool) == (kind is bool)
    return "" if fits else WORDS[kind]
