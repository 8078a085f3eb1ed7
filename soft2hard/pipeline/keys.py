"""Names in a recipe: those that there are, and the nearest to one that there is not."""

from collections.abc import Iterable, Mapping
from difflib import get_close_matches
from typing import Any

from soft2hard.eval.config import built, checked_fields


def checked_settings(cls: type, given: Mapping[str, Any], origin: str = "") -> dict[str, Any]:
    """Values for fields of a settings dataclass, checked by its annotations and by itself.

    Raises ValueError, beginning with `origin`, where there is no such field, or a value will not do.
    """
    check_keys(given, cls.__dataclass_fields__, origin)
    try:
        checked = checked_fields(cls, given, "there is no setting")
        built(cls, checked)
    except ValueError as error:
        raise ValueError(f"{origin}{str(error).rstrip('.')}") from error
    return checked


def check_keys(given: Mapping[Any, Any], known: Iterable[str], origin: str = "") -> None:
    """Raise ValueError for a key that there is not, naming the nearest that there is."""
    known = list(known)
    for key in given:
        if key not in known:
            raise ValueError(f"{origin}there is no setting '{key}'{nearest(str(key), known)}")


def nearest(name: str, known: Iterable[str]) -> str:
    """The end of a sentence about a name that there is not: the nearest that there is, or all."""
    known = list(known)
    close = get_close_matches(name, known, n=1, cutoff=0.5)
    return f"; the nearest is '{close[0]}'" if close else f"; there are {', '.join(known)}"
