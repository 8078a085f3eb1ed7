"""Settings classes, declared once for Python, YAML files and the command line.

A field's default stands beside it, and the text under it is the help of its flag. Values are checked by the field's
type, so `Tuning(steps=0)` raises UserError; `checked` and `some_of` do the same for what a file holds.
"""

from collections.abc import Iterable, Mapping
from difflib import get_close_matches
from functools import partial, wraps
from json import dumps
from typing import Annotated, Any, TypeVar

from pydantic import (
    AfterValidator,
    BeforeValidator,
    ConfigDict,
    PositiveInt,
    TypeAdapter,
    ValidationError,
    model_validator,
)
from pydantic.dataclasses import dataclass
from pydantic_core import ArgsKwargs, ErrorDetails

from soft2hard.errors import UserError

T = TypeVar("T")

_CONFIG = ConfigDict(use_attribute_docstrings=True, extra="forbid", allow_inf_nan=False)
REMEDY = "Change these settings."
_IN_A_FILE = {"file": True}
"""The context of checking what a file holds, where a number is not written as a text; on the command line it is."""
_WANTED = {
    "int": "a whole number",
    "float": "a finite number",
    "finite": "a finite number",
    "bool": "true or false",
    "string": "a text",
    "tuple": "a list, such as [0, 1]",
    "list": "a list, such as [0, 1]",
    "dict": "a mapping of settings",
    "dataclass": "a mapping of settings",
    "greater_than": "a number above {gt}",
    "greater_than_equal": "a number from {ge}",
    "less_than": "a number below {lt}",
    "less_than_equal": "a number up to {le}",
    "too_short": "a list or text of at least {min_length}",
}
"""What a value must be, by the name of pydantic's error or the first word of it."""


def settings(cls: type[T]) -> type[T]:
    """Make a class of annotated fields a frozen dataclass of settings, checked by its annotations.

    Built directly it raises UserError; inside another settings class pydantic puts its errors in their place.
    """
    cls._known = model_validator(mode="before")(classmethod(_known))
    made = dataclass(frozen=True, config=_CONFIG)(cls)
    build = made.__init__

    @wraps(build)
    def init(self: T, *args: Any, **values: Any) -> None:
        try:
            build(self, *args, **values)
        except ValidationError as error:
            raise user_error(error, made) from error

    made.__init__ = init
    return made


def user_error(error: ValidationError, cls: type | None = None) -> UserError:
    """What pydantic finds wrong with settings, for people; `cls` names values that were given by position."""
    said = problems_of(error, cls)
    return UserError(f"{said[0].upper()}{said[1:]}." if said.startswith("there is") else f"{said}.", REMEDY)


def checked(cls: Any, values: Any, origin: str, remedy: str = REMEDY) -> Any:
    """An instance of a settings class, or of any type that pydantic knows, from plain values.

    Raises UserError with all problems in one line, which begins with `origin`.
    """
    try:
        return TypeAdapter(cls).validate_python(values, context=_IN_A_FILE)
    except ValidationError as error:
        raise UserError(f"{origin}: {problems_of(error)}.", remedy) from error


def some_of(cls: type) -> Any:
    """The type of a mapping with some of the fields of a settings class, checked as the class checks them."""
    return Annotated[dict[str, Any], AfterValidator(partial(fields_of, cls))]


def fields_of(cls: type, given: Mapping[str, Any]) -> dict[str, Any]:
    """Values of some fields, as the settings class makes them. Raises ValueError where it refuses them."""
    try:
        made = TypeAdapter(cls).validate_python(given, context=_IN_A_FILE)
    except ValidationError as error:
        raise ValueError(problems_of(error)) from error
    return {name: getattr(made, name) for name in given}


def chosen(given: Any) -> dict[str, Any]:
    """The values of a settings object that are not the defaults."""
    return {name: value for name, value in vars(given).items() if value != getattr(type(given), name)}


def problems_of(error: ValidationError, cls: type | None = None) -> str:
    """All that pydantic finds wrong, without a full stop; `cls` names values that were given by position."""
    return "; ".join(_problem(one, list(getattr(cls, "__dataclass_fields__", ()))) for one in error.errors())


def check_keys(given: Iterable[Any], known: Iterable[str]) -> None:
    """Raise ValueError for a setting that does not exist, naming the nearest that does."""
    known = list(known)
    for key in given:
        if key not in known:
            raise ValueError(f"there is no setting '{key}'{nearest(str(key), known)}")


def nearest(name: str, known: Iterable[str]) -> str:
    """The end of a sentence about a name that does not exist: the nearest that does, or all of them."""
    known = list(known)
    close = get_close_matches(name, known, n=1, cutoff=0.5)
    return f"; the nearest is '{close[0]}'" if close else f"; there are {', '.join(known)}"


def _split(given: Any) -> Any:
    texts = [given] if isinstance(given, str) else given
    if isinstance(texts, (list, tuple)) and all(isinstance(text, str) for text in texts):
        return [part for text in texts for part in text.split(",") if part.strip()]
    return given


Numbers = Annotated[tuple[PositiveInt, ...], BeforeValidator(_split)]
"""Whole numbers from 1: a list in a file, '20,50' on the command line."""


def _known(cls: type, given: Any, info: Any) -> Any:
    values = given.kwargs if isinstance(given, ArgsKwargs) else given
    if isinstance(values, Mapping):
        check_keys(values, cls.__dataclass_fields__)
    if isinstance(values, Mapping) and info.context is _IN_A_FILE:
        wrong = [_miswritten(name, value, str(cls.__dataclass_fields__[name].type)) for name, value in values.items()]
        if any(wrong):
            raise ValueError("; ".join(filter(None, wrong)))
    return given


def _miswritten(name: str, value: Any, kind: str) -> str | None:
    """What is wrong with a value in a file that pydantic would silently turn into a number."""
    whole = kind.startswith(("<class 'int'", "typing.Annotated[int"))
    if (isinstance(value, bool) and "bool" not in kind) or (isinstance(value, str) and value.isdigit() and whole):
        return f"{name} is {dumps(value)}, not {_WANTED['int' if whole else 'float']}"
    return None


def _problem(found: ErrorDetails, names: list[str]) -> str:
    location = list(found["loc"])
    if location and isinstance(location[0], int) and names:
        location[0] = names[location[0]]
    place, kind = ".".join(map(str, location)), found["type"]
    if kind == "value_error":
        return f"{place}: {found['msg'].removeprefix('Value error, ').rstrip('.')}".lstrip(": ")
    if kind in ("missing", "missing_argument"):
        return f"{place} is missing"
    if kind == "literal_error":
        return f"there is no {place} '{found['input']}'; there are {found['ctx']['expected']}"
    wanted = _WANTED.get(kind) or _WANTED.get(kind.partition("_")[0])
    wanted = wanted.format(**found.get("ctx", {})) if wanted else found["msg"].removeprefix("Input should be ")
    value = found["input"]
    shown = value if isinstance(value, str) and "than" in kind else dumps(value, ensure_ascii=False, default=str)
    return f"{place} is {shown}, not {wanted}"
