"""Instruction phrasings that render and parse back.

A phrasing is a template such as ``"Answer {la} for {a:one} and {lb} for {b:one}."``. Each slot has a
*form* that says how its value is written; the same form, turned into a regular expression, reads it
back. So 'do two texts describe the same task?' is decided by parsing both.
"""

import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import cache

from soft2hard.data_gen.dods.lexical.words import CATEGORIES, LABELS, ORDINALS, PLURALS, RELATIONS, article

Values = Mapping[str, str | tuple[str, ...]]
"""Slot values of one task: a word, or a tuple of words for sets and sequences."""

_SINGULARS = {plural: name for name, plural in PLURALS.items()}


@dataclass(frozen=True)
class Form:
    """How the value of a slot is written, and read."""

    write: Callable[[str | tuple[str, ...]], str]
    pattern: str
    read: Callable[[str], str | tuple[str, ...]]


def _one_of(words: object) -> str:
    return "(?:" + "|".join(re.escape(word) for word in sorted(words, key=len, reverse=True)) + ")"


def _word_form(words: object) -> Form:
    return Form(str, _one_of(words), str)


def _list_form(item: Form, last: str) -> Form:
    """'x', 'x or y', 'x, y or z': a tuple of items."""
    glue = f" {last} "

    def write(values: tuple[str, ...]) -> str:
        items = [item.write(value) for value in values]
        return items[0] if len(items) == 1 else ", ".join(items[:-1]) + glue + items[-1]

    def read(text: str) -> tuple[str, ...]:
        return tuple(item.read(part) for part in re.split(f", |{glue}", text))

    return Form(write, f"{item.pattern}(?:(?:, {item.pattern})*{glue}{item.pattern})?", read)


_ONE = Form(article, _one_of(article(name) for name in CATEGORIES), lambda text: text.split(" ", 1)[1])
_MANY = Form(PLURALS.__getitem__, _one_of(_SINGULARS), _SINGULARS.__getitem__)
_BARE = _word_form(CATEGORIES)

FORMS: dict[str, Form] = {
    "one": _ONE,
    "many": _MANY,
    "label": _word_form(LABELS),
    "relation": _word_form(RELATIONS),
    "a_relation": Form(article, _one_of(article(noun) for noun in RELATIONS), lambda text: text.split(" ", 1)[1]),
    "ordinal": _word_form(ORDINALS),
    "bare_or": _list_form(_BARE, "or"),
    "one_or": _list_form(_ONE, "or"),
    "many_or": _list_form(_MANY, "or"),
    "many_and": _list_form(_MANY, "and"),
    "ordinals": _list_form(_word_form(ORDINALS), "and"),
}

_SLOT = re.compile(r"\{(\w+):(\w+)\}")


def render(phrasing: str, values: Values) -> str:
    """Write a phrasing with its slots filled in."""
    return _SLOT.sub(lambda slot: FORMS[slot[2]].write(values[slot[1]]), phrasing)


def slots(phrasing: str) -> set[str]:
    """The names of a phrasing's slots."""
    return {slot[1] for slot in _SLOT.finditer(phrasing)}


@cache
def _compiled(phrasing: str) -> re.Pattern[str]:
    parts, end = [], 0
    for slot in _SLOT.finditer(phrasing):
        parts += [re.escape(phrasing[end : slot.start()]), f"(?P<{slot[1]}>{FORMS[slot[2]].pattern})"]
        end = slot.end()
    return re.compile("".join([*parts, re.escape(phrasing[end:])]))


def read(phrasing: str, text: str) -> dict[str, str | tuple[str, ...]] | None:
    """Slot values if `text` is written in this phrasing, else None."""
    match = _compiled(phrasing).fullmatch(text)
    if match is None:
        return None
    forms = {slot[1]: FORMS[slot[2]] for slot in _SLOT.finditer(phrasing)}
    return {name: forms[name].read(value) for name, value in match.groupdict().items()}


def normalise(text: str) -> str:
    """Single spaces, no space before punctuation, a capital first, a closing full stop or question mark."""
    text = re.sub(r"\s+", " ", text).strip()
    text = re.sub(r" ([,.:?])", r"\1", text)
    if not text.endswith((".", "?")):
        text += "."
    return text[:1].upper() + text[1:]
