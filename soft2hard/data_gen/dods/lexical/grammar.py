"""What a task family is made of: phrasings that render and parse back, and variants that draw parameters and examples.

A phrasing is a template such as ``"Answer {la} for {a:one} and {lb} for {b:one}."``. Each slot has a
*form* that says how its value is written; the same form, turned into a regular expression, reads it
back. So 'do two texts describe the same task?' is decided by parsing both.
"""

import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import cache
from random import Random

from soft2hard.data_gen.dods.lexical.words import CATEGORIES, CATEGORY_OF, LABELS, ORDINALS, PLURALS, RELATIONS, article
from soft2hard.data_gen.tasks import Example

Values = Mapping[str, str | tuple[str, ...]]
"""Slot values of one task: a word, or a tuple of words for sets and sequences."""

LIST_LENGTHS = (3, 4, 5)
_NAMES = tuple(CATEGORIES)
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


@dataclass(frozen=True)
class Variant:
    """One shape of instruction within a family."""

    name: str
    phrasings: tuple[str, ...]
    draw: Callable[[Random], Values]
    """Draws parameters."""
    example: Callable[[Values, Random], Example]
    """Draws one example of the task with these parameters."""
    sets: tuple[str, ...] = ()
    """Slots whose value is a set: order does not change the task."""
    swap: tuple[tuple[str, ...], tuple[str, ...]] | None = None
    """Two groups of slots that may change places without changing the task."""
    labels: Callable[[Values], tuple[str, ...]] | None = None
    """All possible outputs, where they form a small closed set."""

    def canonical(self, values: Values) -> dict[str, str | tuple[str, ...]]:
        """The one way of writing equal parameters: sets sorted, exchangeable groups in order."""
        result = {name: tuple(sorted(v)) if name in self.sets else v for name, v in sorted(values.items())}
        if self.swap:
            left, right = self.swap
            if [result[name] for name in left] > [result[name] for name in right]:
                for a, b in zip(left, right, strict=True):
                    result[a], result[b] = result[b], result[a]
        return result


# --- drawing parameters and words -------------------------------------------------------------


def draw_category(rng: Random) -> str:
    return rng.choice(_NAMES)


def draw_categories(rng: Random, low: int, high: int) -> tuple[str, ...]:
    return tuple(sorted(rng.sample(_NAMES, rng.randint(low, high))))


def word_in(rng: Random, categories: tuple[str, ...]) -> str:
    return rng.choice(CATEGORIES[rng.choice(categories)])


def word_outside(rng: Random, categories: tuple[str, ...]) -> str:
    while (name := rng.choice(_NAMES)) in categories:
        pass
    return rng.choice(CATEGORIES[name])


def any_word(rng: Random) -> str:
    return rng.choice(CATEGORIES[rng.choice(_NAMES)])


def word_list(rng: Random, categories: tuple[str, ...], n_inside: int, length: int) -> list[str]:
    """`length` words of which `n_inside` belong to the categories, in random order."""
    words = [word_in(rng, categories) for _ in range(n_inside)]
    words += [word_outside(rng, categories) for _ in range(length - n_inside)]
    rng.shuffle(words)
    return words


def belongs(word: str, categories: tuple[str, ...]) -> bool:
    return CATEGORY_OF[word] in categories


def joined(words: list[str]) -> str:
    """An output list; an empty one is written 'none'."""
    return " ".join(words) or "none"
