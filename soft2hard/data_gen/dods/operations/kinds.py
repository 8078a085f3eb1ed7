"""What a kind of made task is, and what its examples are drawn from."""

import datetime
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from random import Random
from typing import Any

from soft2hard.data_gen.dods.lexical.words import CATEGORIES

Values = Mapping[str, Any]
"""One choice of a kind's parameters, which are texts or tuples of texts."""
Answer = Callable[[Random, Values], tuple[str, str]]
"""Draws an input with its output."""


@dataclass(frozen=True)
class Kind:
    """A kind of task, by what its parameters can be and what draws its examples."""

    name: str
    parameters: Mapping[str, Sequence[Any]]
    example: Answer


class Kinds(dict[str, Kind]):
    """Kinds by name, in the order in which they were made."""

    def of(self, **parameters: Sequence[Any]) -> Callable[[Answer], Answer]:
        """Makes a kind, named as the function that draws its examples."""

        def register(answer: Answer) -> Answer:
            name = answer.__name__.removeprefix("_")
            self[name] = Kind(name, parameters, answer)
            return answer

        return register


WORDS = tuple(word for name, words in CATEGORIES.items() if name not in ("number", "city", "country") for word in words)
LABELS = (("yes", "no"), ("true", "false"), ("A", "B"), ("X", "Y"), ("1", "0"), ("plus", "minus"), ("red", "blue"))
ORDINALS = ("first", "second", "third", "fourth", "last")
SMALL = ("two", "three", "four", "five", "six", "seven", "eight", "nine", "ten")
SIGNS = {"hyphens": "-", "slashes": "/", "commas": ", ", "dots": ".", "plus signs": " + ", "arrows": " -> "}
LETTERS = tuple("aeiorstln")
"""The commonest."""
_FIRST = {
    "he": "Adam Ben Carl David Eric Frank George Henry Ivan Jack Kevin Leo Mark Noah Oscar Paul Robert Sam Tom Victor",
    "she": "Anna Bella Clara Diana Emma Fiona Grace Helen Irene Julia Kate Laura Maria Nina Paula Rosa Sarah Tina Vera",
}
_BY_PRONOUN = {pronoun: tuple(names.split()) for pronoun, names in _FIRST.items()}
LAST_NAMES = tuple(
    "Adams Baker Clark Davis Evans Fisher Green Hill Irving Jones King Lewis Moore Nelson Owens Parker Quinn Reed Scott"
    " Turner Underwood Vance Walker Young".split()
)
MONTHS = tuple("January February March April May June July August September October November December".split())
DAYS = tuple("Monday Tuesday Wednesday Thursday Friday Saturday Sunday".split())
DOMAINS = ("mail.com", "example.org", "post.net", "company.com", "school.edu", "web.de")
THINGS = tuple(w for name in ("fruit", "vegetable", "drink", "tool", "garment", "instrument") for w in CATEGORIES[name])


def any_word(rng: Random) -> str:
    return rng.choice(WORDS)


def some_words(rng: Random, low: int = 3, high: int = 5) -> list[str]:
    return rng.sample(WORDS, rng.randint(low, high))


def commas(words: Iterable[object]) -> str:
    return ", ".join(map(str, words))


def first_name(rng: Random) -> tuple[str, str]:
    """With its pronoun."""
    pronoun = rng.choice(tuple(_BY_PRONOUN))
    return rng.choice(_BY_PRONOUN[pronoun]), pronoun


def full_name(rng: Random) -> tuple[str, str]:
    return first_name(rng)[0], rng.choice(LAST_NAMES)


def any_date(rng: Random) -> datetime.date:
    return datetime.date(1950, 1, 1) + datetime.timedelta(days=rng.randrange(27000))


def spoken(date: datetime.date) -> str:
    """As people write it, such as 3 May 1998."""
    return f"{date.day} {MONTHS[date.month - 1]} {date.year}"


def place_of(items: Sequence[str], ordinal: str) -> int:
    """Index of the first, second ... or last of the items."""
    return len(items) - 1 if ordinal == "last" else ORDINALS.index(ordinal)


def number_of(word: str) -> int:
    """Of two to ten."""
    return SMALL.index(word) + 2


def yes_or_no(values: Values, holds: bool) -> str:
    """Of a task's two labels the one for what holds, or for what does not."""
    return values["labels"][0 if holds else 1]
