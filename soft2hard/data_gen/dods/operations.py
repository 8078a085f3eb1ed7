"""Made tasks of many kinds: spelling, lists, numbers, times, records and sentences, in splits fixed by a hash.

Their outputs are computed, so there is no end of examples, and a translator can learn from them, at the price of
reading, what many kinds of instruction look like. How each kind is asked for stands in operations.yaml. No kind is one
of the tasks of instruction induction or of the other test tasks of `real-tasks` under another name.
"""

import datetime
import hashlib
import json
from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cache
from itertools import product
from pathlib import Path
from random import Random
from typing import Any

from soft2hard.data_gen.dods.drawing_examples import Sizes, draw, labels_where_few, usable
from soft2hard.data_gen.dods.lexical.words import CATEGORIES, article
from soft2hard.data_gen.tasks import Example, Split, Task
from soft2hard.errors import UserError
from soft2hard.storage.yaml_files import read_yaml

TEST_SHARE, VALIDATION_SHARE = 0.10, 0.05
_DRAWS = 3  # for each example that is wanted, since some inputs come up twice

Values = Mapping[str, Any]
Answer = Callable[[Random, Values], tuple[str, str]]
"""Draws an input with its output, for one choice of a kind's parameters."""


@dataclass(frozen=True)
class Kind:
    """A kind of task, by what its parameters can be and what draws its examples."""

    name: str
    parameters: Mapping[str, Sequence[Any]]
    example: Answer

    def tasks(self) -> list["OperationTask"]:
        """One for each choice of parameters."""
        return [
            OperationTask(self, dict(zip(self.parameters, chosen, strict=True)))
            for chosen in product(*self.parameters.values())
        ]


@dataclass(frozen=True)
class OperationTask:
    """A kind with its parameters chosen."""

    kind: Kind
    values: Values

    @property
    def key(self) -> str:
        """The canonical name."""
        written = ", ".join(f"{k}={v if isinstance(v, str) else '+'.join(v)}" for k, v in self.values.items())
        return f"operations.{self.kind.name}({written})"

    @property
    def split(self) -> Split:
        """Where the task always belongs, by a hash of its name."""
        point = int.from_bytes(hashlib.sha256(self.key.encode()).digest()[:8], "big") / 2**64
        if point < TEST_SHARE:
            return "test"
        return "validation" if point < TEST_SHARE + VALIDATION_SHARE else "train"

    def record(self, seed: int, sizes: Sizes) -> Task:
        """The task with examples drawn, which share no input."""
        rng = Random(f"{self.key}/{seed}")
        n = _DRAWS * (sizes.train + sizes.validation + sizes.test)
        drawn = [Example(*self.kind.example(rng, self.values)) for _ in range(n)]
        examples = usable(drawn, Counter())
        slots = dict(self.values) | {f"{k}_or": _or(v) for k, v in self.values.items() if not isinstance(v, str)}
        first, *others = (phrasing.format(**slots) for phrasing in _phrasings()[self.kind.name])
        more = {"paraphrases": tuple(others), "labels": labels_where_few(examples)}
        return draw(examples, sizes, rng).task(self.key, self.kind.name, first, **more)


@dataclass
class Operations:
    """The tasks of all kinds, kinds in turn.

    Raises UserError, as tasks are read, where a folder is given.
    """

    folder: Path | None = None
    sizes: Sizes = Sizes(test=16)
    families: tuple[str, ...] = ()
    """Kinds, all by default."""
    dropped: Counter[str] = field(default_factory=Counter)
    """Nothing: what is made has no faults to leave out."""

    name = "operations"
    licence = "Apache-2.0"
    source = "made by soft2hard"

    def tasks(self, split: Split, n: int | None = None, seed: int = 0) -> Iterator[Task]:
        """Tasks of a split in an order that `seed` draws, as their examples; a kind that has run out drops out."""
        if self.folder is not None:
            raise UserError("'operations' are made, not read.", "Leave out --dod-folder.")
        if unknown := set(self.families) - set(KINDS):
            raise UserError(f"'operations' has no kind '{min(unknown)}'.", f"There are {', '.join(KINDS)}.")
        rng = Random(f"{self.name}/{split}/{seed}")
        kinds = [KINDS[name] for name in self.families or KINDS]
        of_kind = [[task for task in kind.tasks() if task.split == split] for kind in kinds]
        of_kind = [rng.sample(tasks, len(tasks)) for tasks in of_kind]
        longest = max(map(len, of_kind), default=0)
        in_turn = [tasks[i] for i in range(longest) for tasks in of_kind if i < len(tasks)]
        for task in in_turn[:n]:
            yield task.record(seed, self.sizes)


def _or(items: Sequence[str]) -> str:
    return f"{', '.join(items[:-1])} or {items[-1]}"


@cache
def _phrasings() -> dict[str, list[str]]:
    return read_yaml(Path(__file__).with_name("operations.yaml"), "the phrasings of operations")


KINDS: dict[str, Kind] = {}


def _kind(**parameters: Sequence[Any]) -> Callable[[Answer], Answer]:
    def register(answer: Answer) -> Answer:
        name = answer.__name__.removeprefix("_")
        KINDS[name] = Kind(name, parameters, answer)
        return answer

    return register


# --- what is drawn ----------------------------------------------------------------------------------

_WORDS = tuple(
    word for name, words in CATEGORIES.items() if name not in ("number", "city", "country") for word in words
)
_LABELS = (("yes", "no"), ("true", "false"), ("A", "B"), ("X", "Y"), ("1", "0"), ("plus", "minus"), ("red", "blue"))
_ORDINALS = ("first", "second", "third", "fourth", "last")
_SMALL = ("two", "three", "four", "five", "six", "seven", "eight", "nine", "ten")
_SIGNS = {"hyphens": "-", "slashes": "/", "commas": ", ", "dots": ".", "plus signs": " + ", "arrows": " -> "}
_LETTERS = tuple("aeiorstln")
_FIRST = {
    "he": "Adam Ben Carl David Eric Frank George Henry Ivan Jack Kevin Leo Mark Noah Oscar Paul Robert Sam Tom Victor",
    "she": "Anna Bella Clara Diana Emma Fiona Grace Helen Irene Julia Kate Laura Maria Nina Paula Rosa Sarah Tina Vera",
}
_BY_PRONOUN = {pronoun: tuple(names.split()) for pronoun, names in _FIRST.items()}
_LAST = tuple(
    "Adams Baker Clark Davis Evans Fisher Green Hill Irving Jones King Lewis Moore Nelson Owens Parker Quinn Reed Scott"
    " Turner Underwood Vance Walker Young".split()
)
_MONTHS = tuple("January February March April May June July August September October November December".split())
_DAYS = tuple("Monday Tuesday Wednesday Thursday Friday Saturday Sunday".split())
_DOMAINS = ("mail.com", "example.org", "post.net", "company.com", "school.edu", "web.de")
_THINGS = tuple(
    w for name in ("fruit", "vegetable", "drink", "tool", "garment", "instrument") for w in CATEGORIES[name]
)


def _word(rng: Random) -> str:
    return rng.choice(_WORDS)


def _list(rng: Random, low: int = 3, high: int = 5) -> list[str]:
    return rng.sample(_WORDS, rng.randint(low, high))


def _commas(words: Sequence[object]) -> str:
    return ", ".join(map(str, words))


def _first_name(rng: Random) -> tuple[str, str]:
    """With its pronoun."""
    pronoun = rng.choice(tuple(_BY_PRONOUN))
    return rng.choice(_BY_PRONOUN[pronoun]), pronoun


def _full_name(rng: Random) -> tuple[str, str]:
    return _first_name(rng)[0], rng.choice(_LAST)


def _date(rng: Random) -> datetime.date:
    return datetime.date(1950, 1, 1) + datetime.timedelta(days=rng.randrange(27000))


def _spoken(date: datetime.date) -> str:
    return f"{date.day} {_MONTHS[date.month - 1]} {date.year}"


def _at(items: Sequence[str], ordinal: str) -> int:
    return len(items) - 1 if ordinal == "last" else _ORDINALS.index(ordinal)


def _n(word: str) -> int:
    return _SMALL.index(word) + 2


def _yes(values: Values, holds: bool) -> str:
    return values["labels"][0 if holds else 1]


# --- spelling ---------------------------------------------------------------------------------------


@_kind()
def _capital_letters(rng: Random, v: Values) -> tuple[str, str]:
    word = _word(rng)
    return word, word.upper()


@_kind()
def _backwards(rng: Random, v: Values) -> tuple[str, str]:
    word = _word(rng)
    return word, word[::-1]


@_kind(n=("two", "three", "four"))
def _last_letters(rng: Random, v: Values) -> tuple[str, str]:
    word = _word(rng)
    return word, word[-_n(v["n"]) :]


@_kind(end=("first", "last"))
def _without_end(rng: Random, v: Values) -> tuple[str, str]:
    word = _word(rng)
    return word, word[1:] if v["end"] == "first" else word[:-1]


@_kind()
def _without_vowels(rng: Random, v: Values) -> tuple[str, str]:
    word = _word(rng)
    return word, "".join(c for c in word if c not in "aeiouAEIOU")


@_kind()
def _count_vowels(rng: Random, v: Values) -> tuple[str, str]:
    word = _word(rng)
    return word, str(sum(c in "aeiou" for c in word))


@_kind(n=("two", "three"), sign=("spaces", "hyphens", "commas"))
def _repeat(rng: Random, v: Values) -> tuple[str, str]:
    word = _word(rng)
    return word, ({"spaces": " "} | _SIGNS)[v["sign"]].join([word] * _n(v["n"]))


@_kind(
    mark=(
        ("round brackets", "(", ")"),
        ("square brackets", "[", "]"),
        ("quotation marks", '"', '"'),
        ("stars", "*", "*"),
    )
)
def _wrapped(rng: Random, v: Values) -> tuple[str, str]:
    word = _word(rng)
    return word, f"{v['mark'][1]}{word}{v['mark'][2]}"


@_kind(part=("ing", "ness", "less", "ful", "man", "ish"))
def _ending_added(rng: Random, v: Values) -> tuple[str, str]:
    word = _word(rng)
    return word, word + v["part"]


@_kind(part=("the", "my", "old", "no", "very", "our", "some"))
def _word_before(rng: Random, v: Values) -> tuple[str, str]:
    word = _word(rng)
    return word, f"{v['part']} {word}"


@_kind(letter=_LETTERS, labels=_LABELS)
def _has_letter(rng: Random, v: Values) -> tuple[str, str]:
    wanted = rng.random() < 0.5
    word = next(w for w in iter(lambda: _word(rng), None) if (v["letter"] in w.lower()) == wanted)
    return word, _yes(v, wanted)


@_kind(letter=_LETTERS)
def _count_letter(rng: Random, v: Values) -> tuple[str, str]:
    word = _word(rng)
    return word, str(word.lower().count(v["letter"]))


@_kind(labels=_LABELS)
def _starts_with_vowel(rng: Random, v: Values) -> tuple[str, str]:
    wanted = rng.random() < 0.5
    word = next(w for w in iter(lambda: _word(rng), None) if (w[0].lower() in "aeiou") == wanted)
    return word, _yes(v, wanted)


@_kind(n=("four", "five", "six"), labels=_LABELS)
def _longer_word(rng: Random, v: Values) -> tuple[str, str]:
    word = _word(rng)
    return word, _yes(v, len(word) > _n(v["n"]))


@_kind(old=tuple("aeio"), new=("u", "x", "*", "-"))
def _letter_replaced(rng: Random, v: Values) -> tuple[str, str]:
    word = next(w for w in iter(lambda: _word(rng), None) if v["old"] in w)
    return word, word.replace(v["old"], v["new"])


@_kind()
def _with_article(rng: Random, v: Values) -> tuple[str, str]:
    word = rng.choice(_THINGS)
    return word, article(word)


# --- lists ------------------------------------------------------------------------------------------


@_kind(end=("shortest", "longest"))
def _by_length(rng: Random, v: Values) -> tuple[str, str]:
    words = list({len(w): w for w in rng.sample(_WORDS, 8)}.values())[:4]
    return _commas(words), _commas(sorted(words, key=len, reverse=v["end"] == "longest"))


@_kind(which=("shortest", "longest"))
def _extreme_word(rng: Random, v: Values) -> tuple[str, str]:
    words = list({len(w): w for w in rng.sample(_WORDS, 8)}.values())[:4]
    return _commas(words), min(words, key=len) if v["which"] == "shortest" else max(words, key=len)


@_kind()
def _count_items(rng: Random, v: Values) -> tuple[str, str]:
    words = _list(rng, 2, 8)
    return _commas(words), str(len(words))


@_kind(sign=tuple(_SIGNS))
def _joined(rng: Random, v: Values) -> tuple[str, str]:
    words = _list(rng)
    return " ".join(words), _SIGNS[v["sign"]].join(words)


@_kind(word=("and", "or", "then", "not"))
def _sentence_list(rng: Random, v: Values) -> tuple[str, str]:
    words = _list(rng)
    return _commas(words), f"{_commas(words[:-1])} {v['word']} {words[-1]}"


@_kind()
def _repeated_item(rng: Random, v: Values) -> tuple[str, str]:
    words = _list(rng)
    twice = rng.choice(words)
    words.insert(rng.randint(0, len(words)), twice)
    return _commas(words), twice


@_kind()
def _without_repeats(rng: Random, v: Values) -> tuple[str, str]:
    words = _list(rng)
    words.insert(rng.randint(0, len(words)), rng.choice(words))
    return _commas(words), _commas(dict.fromkeys(words))


@_kind(place=_ORDINALS[:3] + ("last",))
def _item_dropped(rng: Random, v: Values) -> tuple[str, str]:
    words = _list(rng)
    place = _at(words, v["place"])
    return _commas(words), _commas([*words[:place], *words[place + 1 :]])


@_kind()
def _ends_swapped(rng: Random, v: Values) -> tuple[str, str]:
    words = _list(rng)
    return _commas(words), _commas([words[-1], *words[1:-1], words[0]])


@_kind(word=("home", "end", "stop", "other"), place=("start", "end"))
def _item_added(rng: Random, v: Values) -> tuple[str, str]:
    words = _list(rng)
    return _commas(words), _commas([v["word"], *words] if v["place"] == "start" else [*words, v["word"]])


@_kind()
def _numbered(rng: Random, v: Values) -> tuple[str, str]:
    words = _list(rng)
    return _commas(words), " ".join(f"{i}. {word}" for i, word in enumerate(words, 1))


@_kind(place=_ORDINALS[:3] + ("last",))
def _item_in_capitals(rng: Random, v: Values) -> tuple[str, str]:
    words = _list(rng)
    place = _at(words, v["place"])
    return " ".join(words), " ".join(w.upper() if i == place else w for i, w in enumerate(words))


@_kind(letter=_LETTERS[:6])
def _items_with_letter(rng: Random, v: Values) -> tuple[str, str]:
    words = _list(rng, 4, 6)
    return _commas(words), _commas([w for w in words if v["letter"] in w]) or "none"


@_kind(separator=((";", "semicolons"), ("|", "bars"), ("/", "slashes")), place=_ORDINALS[:4])
def _field(rng: Random, v: Values) -> tuple[str, str]:
    words = _list(rng, 4, 5)
    return v["separator"][0].join(words), words[_at(words, v["place"])]


# --- numbers ----------------------------------------------------------------------------------------


@_kind(n=_SMALL)
def _times(rng: Random, v: Values) -> tuple[str, str]:
    number = rng.randint(1, 60)
    return str(number), str(number * _n(v["n"]))


@_kind()
def _half(rng: Random, v: Values) -> tuple[str, str]:
    number = rng.randint(1, 200)
    return str(2 * number), str(number)


@_kind(labels=(("even", "odd"), *_LABELS))
def _even(rng: Random, v: Values) -> tuple[str, str]:
    number = rng.randint(1, 999)
    return str(number), _yes(v, number % 2 == 0)


@_kind(which=("larger", "smaller"))
def _of_two(rng: Random, v: Values) -> tuple[str, str]:
    a, b = rng.sample(range(1, 500), 2)
    return f"{a}, {b}", str(max(a, b) if v["which"] == "larger" else min(a, b))


@_kind(which=("largest", "smallest"))
def _of_many(rng: Random, v: Values) -> tuple[str, str]:
    numbers = rng.sample(range(1, 300), rng.randint(3, 5))
    return _commas(numbers), str(max(numbers) if v["which"] == "largest" else min(numbers))


@_kind(order=("ascending", "descending"))
def _sorted_numbers(rng: Random, v: Values) -> tuple[str, str]:
    numbers = rng.sample(range(1, 300), rng.randint(3, 5))
    return _commas(numbers), _commas(sorted(numbers, reverse=v["order"] == "descending"))


@_kind(limit=("50", "100", "200", "500"), labels=(("high", "low"), ("big", "small"), ("above", "below"), *_LABELS))
def _above(rng: Random, v: Values) -> tuple[str, str]:
    number = rng.randint(1, 2 * int(v["limit"]))
    return str(number), _yes(v, number > int(v["limit"]))


@_kind(n=("three", "five", "ten"), labels=_LABELS)
def _divisible(rng: Random, v: Values) -> tuple[str, str]:
    wanted, n = rng.random() < 0.5, _n(v["n"])
    number = next(x for x in iter(lambda: rng.randint(1, 400), None) if (x % n == 0) == wanted)
    return str(number), _yes(v, wanted)


@_kind(which=("first", "last"))
def _digit(rng: Random, v: Values) -> tuple[str, str]:
    number = str(rng.randint(10, 99999))
    return number, number[0 if v["which"] == "first" else -1]


@_kind()
def _count_digits(rng: Random, v: Values) -> tuple[str, str]:
    number = str(rng.randint(1, 10 ** rng.randint(1, 7)))
    return number, str(len(number))


@_kind()
def _digits_added(rng: Random, v: Values) -> tuple[str, str]:
    number = str(rng.randint(10, 999))
    return number, str(sum(map(int, number)))


@_kind()
def _ordinal_number(rng: Random, v: Values) -> tuple[str, str]:
    number = rng.randint(1, 199)
    teens = number % 100 in (11, 12, 13)
    return str(number), f"{number}{'th' if teens else {1: 'st', 2: 'nd', 3: 'rd'}.get(number % 10, 'th')}"


@_kind()
def _roman(rng: Random, v: Values) -> tuple[str, str]:
    number = left = rng.randint(1, 120)
    parts = []
    for size, sign in (
        (100, "C"),
        (90, "XC"),
        (50, "L"),
        (40, "XL"),
        (10, "X"),
        (9, "IX"),
        (5, "V"),
        (4, "IV"),
        (1, "I"),
    ):
        parts.append(sign * (left // size))
        left %= size
    return str(number), "".join(parts)


@_kind(step=("ten", "hundred"))
def _rounded(rng: Random, v: Values) -> tuple[str, str]:
    step = 10 if v["step"] == "ten" else 100
    number = next(x for x in iter(lambda: rng.randint(1, 2000), None) if x % step != step // 2)
    return str(number), str((number + step // 2) // step * step)


@_kind(
    form=(
        ("a price in dollars", "${}"),
        ("a percentage", "{}%"),
        ("a temperature in degrees", "{}°"),
        ("a page number", "p. {}"),
    )
)
def _number_written(rng: Random, v: Values) -> tuple[str, str]:
    number = str(rng.randint(1, 999))
    return number, v["form"][1].format(number)


@_kind()
def _thousands(rng: Random, v: Values) -> tuple[str, str]:
    number = rng.randint(1000, 10 ** rng.randint(4, 8))
    return str(number), f"{number:,}"


@_kind(
    units=(
        ("metres", "centimetres", "100"),
        ("kilometres", "metres", "1000"),
        ("kilograms", "grams", "1000"),
        ("hours", "minutes", "60"),
        ("minutes", "seconds", "60"),
        ("days", "hours", "24"),
        ("weeks", "days", "7"),
        ("years", "months", "12"),
        ("dozens", "pieces", "12"),
        ("feet", "inches", "12"),
        ("dollars", "cents", "100"),
        ("centuries", "years", "100"),
    )
)
def _converted(rng: Random, v: Values) -> tuple[str, str]:
    number = rng.randint(1, 40)
    return f"{number} {v['units'][0]}", f"{number * int(v['units'][2])} {v['units'][1]}"


@_kind(labels=(("right", "wrong"), ("true", "false"), ("correct", "incorrect"), ("yes", "no")))
def _product_is_right(rng: Random, v: Values) -> tuple[str, str]:
    a, b, right = rng.randint(1, 50), rng.randint(2, 9), rng.random() < 0.5
    return f"{a} x {b} = {a * b + (0 if right else rng.choice((-2, -1, 1, 2)))}", _yes(v, right)


# --- times ------------------------------------------------------------------------------------------


@_kind(part=("day", "month", "year"))
def _part_of_date(rng: Random, v: Values) -> tuple[str, str]:
    date = _date(rng)
    return _spoken(date), {"day": str(date.day), "month": _MONTHS[date.month - 1], "year": str(date.year)}[v["part"]]


@_kind(
    form=(
        ("year-month-day", "%Y-%m-%d"),
        ("day/month/year", "%d/%m/%Y"),
        ("month/day/year", "%m/%d/%Y"),
        ("day.month.year", "%d.%m.%Y"),
    )
)
def _date_written(rng: Random, v: Values) -> tuple[str, str]:
    date = _date(rng)
    return _spoken(date), date.strftime(v["form"][1])


@_kind()
def _month_of_numbers(rng: Random, v: Values) -> tuple[str, str]:
    date = _date(rng)
    return date.isoformat(), _MONTHS[date.month - 1]


@_kind()
def _month_number(rng: Random, v: Values) -> tuple[str, str]:
    date = _date(rng)
    return f"{_MONTHS[date.month - 1]} {date.year}", str(date.month)


@_kind(labels=(("weekday", "weekend"), ("work", "rest"), *_LABELS[:3]))
def _weekday(rng: Random, v: Values) -> tuple[str, str]:
    day = rng.choice(_DAYS) if rng.random() < 0.5 else rng.choice(_DAYS[5:])
    return f"{day}, {rng.randint(1, 12)} o'clock", _yes(v, day not in _DAYS[5:])


@_kind(style=("summer", "winter", "spring", "autumn"), labels=_LABELS)
def _season(rng: Random, v: Values) -> tuple[str, str]:
    seasons = {"winter": (12, 1, 2), "spring": (3, 4, 5), "summer": (6, 7, 8), "autumn": (9, 10, 11)}
    wanted, date = rng.random() < 0.5, _date(rng)
    while (date.month in seasons[v["style"]]) != wanted:
        date = _date(rng)
    return f"{date.day} {_MONTHS[date.month - 1]}", _yes(v, wanted)


@_kind()
def _twelve_hours(rng: Random, v: Values) -> tuple[str, str]:
    hour, minute = rng.randrange(24), rng.randrange(60)
    return f"{hour:02}:{minute:02}", f"{(hour - 1) % 12 + 1}:{minute:02} {'am' if hour < 12 else 'pm'}"


@_kind(part=("hour", "minute"))
def _part_of_time(rng: Random, v: Values) -> tuple[str, str]:
    hour, minute = rng.randint(1, 23), rng.randint(1, 59)
    return f"{hour}:{minute:02}", str(hour) if v["part"] == "hour" else f"{minute:02}"


@_kind(labels=(("morning", "evening"), ("early", "late"), ("am", "pm"), *_LABELS[:3]))
def _before_noon(rng: Random, v: Values) -> tuple[str, str]:
    hour, minute = rng.randrange(24), rng.randrange(60)
    return f"{hour:02}:{minute:02}", _yes(v, hour < 12)


@_kind(span=("century", "decade"))
def _span_of_year(rng: Random, v: Values) -> tuple[str, str]:
    year = rng.randint(1101, 1999)
    return str(year), f"{year // 10 * 10}s" if v["span"] == "decade" else f"{(year - 1) // 100 + 1}th century"


@_kind(labels=_LABELS)
def _leap_year(rng: Random, v: Values) -> tuple[str, str]:
    wanted = rng.random() < 0.5
    year = next(y for y in iter(lambda: rng.randint(1901, 2099), None) if (y % 4 == 0) == wanted)
    return str(year), _yes(v, wanted)


# --- names and records ------------------------------------------------------------------------------


@_kind(which=("first", "last"))
def _name_part(rng: Random, v: Values) -> tuple[str, str]:
    name = _full_name(rng)
    return " ".join(name), name[0 if v["which"] == "first" else 1]


@_kind()
def _initials(rng: Random, v: Values) -> tuple[str, str]:
    first, last = _full_name(rng)
    return f"{first} {last}", f"{first[0]}. {last[0]}."


@_kind()
def _last_name_first(rng: Random, v: Values) -> tuple[str, str]:
    first, last = _full_name(rng)
    return f"{first} {last}", f"{last}, {first}"


@_kind(greeting=("Dear", "Hello", "Good morning", "Thank you", "Goodbye"))
def _greeted(rng: Random, v: Values) -> tuple[str, str]:
    first, last = _full_name(rng)
    return f"{first} {last}", f"{v['greeting']} {first}!"


@_kind(title=("Dr", "Professor", "Captain", "Judge"))
def _titled(rng: Random, v: Values) -> tuple[str, str]:
    first, last = _full_name(rng)
    return f"{first} {last}", f"{v['title']} {last}"


@_kind(domain=_DOMAINS)
def _address_made(rng: Random, v: Values) -> tuple[str, str]:
    first, last = _full_name(rng)
    return f"{first} {last}", f"{first}.{last}@{v['domain']}".lower()


@_kind(part=("name before the at sign", "domain after the at sign"))
def _part_of_address(rng: Random, v: Values) -> tuple[str, str]:
    first, last = _full_name(rng)
    user, domain = f"{first}.{last}".lower(), rng.choice(_DOMAINS)
    return f"{user}@{domain}", user if v["part"].startswith("name") else domain


@_kind(part=("extension", "name without the extension"))
def _part_of_file(rng: Random, v: Values) -> tuple[str, str]:
    stem, ending = f"{_word(rng)}_{rng.randint(1, 99)}", rng.choice(("txt", "pdf", "jpg", "csv", "doc", "mp3", "zip"))
    return f"{stem}.{ending}", ending if v["part"] == "extension" else stem


@_kind(ending=("txt", "pdf", "jpg", "csv", "html"))
def _file_renamed(rng: Random, v: Values) -> tuple[str, str]:
    stem = f"{_word(rng)}_{rng.randint(1, 99)}"
    return f"{stem}.{rng.choice(('doc', 'mp3', 'zip', 'png'))}", f"{stem}.{v['ending']}"


@_kind(n=("three", "four"))
def _end_of_phone_number(rng: Random, v: Values) -> tuple[str, str]:
    number = f"{rng.randint(200, 999)}-{rng.randint(100, 999)}-{rng.randint(1000, 9999)}"
    return number, number[-_n(v["n"]) :]


@_kind(part=("thing", "price", "shop"))
def _part_of_purchase(rng: Random, v: Values) -> tuple[str, str]:
    thing, price, shop = rng.choice(_THINGS), f"${rng.randint(1, 90)}", f"{rng.choice(_LAST)}'s"
    input = rng.choice(("{0}, {1}, from {2}", "At {2}: {0} for {1}", "{1} for {0} at {2}")).format(thing, price, shop)
    return input, {"thing": thing, "price": price, "shop": shop}[v["part"]]


@_kind(key=("name", "age", "city"))
def _value_in_json(rng: Random, v: Values) -> tuple[str, str]:
    record = {"name": _first_name(rng)[0], "age": rng.randint(5, 90), "city": rng.choice(CATEGORIES["city"])}
    shuffled = dict(rng.sample(list(record.items()), 3))
    return json.dumps(shuffled), str(record[v["key"]])


@_kind(key=("word", "text", "item", "name"))
def _as_json(rng: Random, v: Values) -> tuple[str, str]:
    word = _word(rng)
    return word, json.dumps({v["key"]: word})


@_kind(style=(("snake case", "_"), ("kebab case", "-"), ("camel case", "")))
def _as_identifier(rng: Random, v: Values) -> tuple[str, str]:
    words = [w.lower() for w in _list(rng, 2, 3)]
    if v["style"][1]:
        return " ".join(words), v["style"][1].join(words)
    return " ".join(words), words[0] + "".join(map(str.capitalize, words[1:]))


@_kind(tag=("b", "i", "p", "h1", "li"))
def _in_tags(rng: Random, v: Values) -> tuple[str, str]:
    words = " ".join(_list(rng, 1, 3))
    return words, f"<{v['tag']}>{words}</{v['tag']}>"


@_kind()
def _without_tags(rng: Random, v: Values) -> tuple[str, str]:
    words, tag = " ".join(_list(rng, 1, 3)), rng.choice(("b", "i", "p", "h1", "li"))
    return f"<{tag}>{words}</{tag}>", words


# --- sentences --------------------------------------------------------------------------------------


@dataclass(frozen=True)
class _Scene:
    """A sentence, and what stands in it by kind."""

    text: str
    found: Mapping[str, str]


_SCENES = (
    "{person} works in {city} as a {job}.",
    "{person}, a {job} from {city}, fed the {animal} {number} times.",
    "In {city} {person} bought the {colour} {thing} of a {job}.",
    "Yesterday {person} saw the {animal} {number} times near {city}.",
    "The {job} gave {person} the {colour} {thing} in {city}.",
    "{person} drove to {city} with the {job} and the {animal}.",
    "Every {day} {person} plays {sport} with a {job}.",
    "On {day} the {job} from {city} will teach {person} {sport}.",
    "{person} likes {sport}, {drink} and the {animal} of the {job}.",
    "The {colour} {animal} followed {person} home from {city} on {day}.",
)
_ASKED = {
    "person": "the name of the person",
    "city": "the city",
    "job": "the job",
    "animal": "the animal",
    "colour": "the colour",
    "sport": "the sport",
    "day": "the day of the week",
    "number": "the number",
}


def _scene(rng: Random, holds: str | None = None) -> _Scene:
    """One in which a `holds` stands, if asked for."""
    template = rng.choice([one for one in _SCENES if holds is None or f"{{{holds}}}" in one])
    found = {
        "person": _first_name(rng)[0],
        "thing": rng.choice(_THINGS),
        "day": rng.choice(_DAYS),
        "number": rng.choice(_SMALL),
    } | {name: rng.choice(CATEGORIES[name]) for name in ("city", "job", "animal", "colour", "sport", "drink")}
    return _Scene(template.format(**found), {name: word for name, word in found.items() if f"{{{name}}}" in template})


@_kind(what=tuple(_ASKED.items()))
def _extracted(rng: Random, v: Values) -> tuple[str, str]:
    scene = _scene(rng, v["what"][0])
    return scene.text, scene.found[v["what"][0]]


@_kind(what=tuple((name, article(name)) for name in ("city", "animal", "colour", "sport", "job")), labels=_LABELS)
def _mentions(rng: Random, v: Values) -> tuple[str, str]:
    what, wanted = v["what"][0], rng.random() < 0.5
    scene = next(s for s in iter(lambda: _scene(rng), None) if (what in s.found) == wanted)
    return scene.text, _yes(v, wanted)


@_kind()
def _count_words(rng: Random, v: Values) -> tuple[str, str]:
    text = _scene(rng).text
    return text, str(len(text.split()))


@_kind(which=("first", "second", "last"))
def _word_of_sentence(rng: Random, v: Values) -> tuple[str, str]:
    words = _scene(rng).text.rstrip(".").replace(",", "").split()
    return " ".join(words) + ".", words[_at(words, v["which"])]


@_kind(mark=("!", "?", "...", ";"))
def _end_mark(rng: Random, v: Values) -> tuple[str, str]:
    text = _scene(rng).text
    return text, text[:-1] + v["mark"]


@_kind(place=("start", "end"), text=("Listen:", "In short,", "Amen.", "Over.", "Note:"))
def _with_words(rng: Random, v: Values) -> tuple[str, str]:
    text = _scene(rng).text
    return text, f"{v['text']} {text}" if v["place"] == "start" else f"{text} {v['text']}"


@_kind()
def _pronoun(rng: Random, v: Values) -> tuple[str, str]:
    name, pronoun = _first_name(rng)
    rest = f"{rng.choice(('likes', 'plays', 'needs', 'sees'))} the {rng.choice(_THINGS)}."
    return f"{name} {rest}", f"{pronoun.capitalize()} {rest}"


@_kind()
def _to_question(rng: Random, v: Values) -> tuple[str, str]:
    name, verb, thing = _first_name(rng)[0], rng.choice(("like", "need", "want", "see")), rng.choice(_THINGS)
    return f"{name} {verb}s the {thing}.", f"Does {name} {verb} the {thing}?"


@_kind()
def _first_person(rng: Random, v: Values) -> tuple[str, str]:
    verb, thing = rng.choice(("like", "need", "want", "see", "sell", "buy")), rng.choice(_THINGS)
    name, pronoun = _first_name(rng)
    return f"{name} {verb}s the {thing}.", f"I {verb} the {thing}."


@_kind(labels=(("question", "statement"), ("asks", "tells"), *_LABELS[:3]))
def _is_question(rng: Random, v: Values) -> tuple[str, str]:
    name, verb, thing, asked = (
        _first_name(rng)[0],
        rng.choice(("like", "need", "want")),
        rng.choice(_THINGS),
        rng.random() < 0.5,
    )
    return f"does {name} {verb} the {thing}" if asked else f"{name} {verb}s the {thing}", _yes(v, asked)


@_kind(
    names=(
        ("past", "present", "future"),
        ("before", "now", "later"),
        ("yesterday", "today", "tomorrow"),
        ("P", "N", "F"),
    )
)
def _tense(rng: Random, v: Values) -> tuple[str, str]:
    name, place, when = _first_name(rng)[0], rng.choice(CATEGORIES["building"]), rng.randrange(3)
    verbs = rng.choice(
        (("walked", "walks", "will walk"), ("went", "goes", "will go"), ("drove", "drives", "will drive"))
    )
    return f"{name} {verbs[when]} to the {place}.", v["names"][when]


@_kind(which=(("taller", "tall"), ("older", "old"), ("faster", "fast"), ("richer", "rich"), ("louder", "loud")))
def _compared(rng: Random, v: Values) -> tuple[str, str]:
    a, b = (_first_name(rng)[0] for _ in range(2))
    while a == b:
        b = _first_name(rng)[0]
    more, plain = v["which"]
    return rng.choice((f"{a} is {more} than {b}.", f"{b} is not as {plain} as {a}.")), a


_ABOUT = {
    "sport": (
        "{p} scored twice in the match.",
        "The team of {p} lost the final.",
        "{p} trains for the race in {c}.",
        "The coach praised {p} after the game.",
        "{p} won a medal in {c}.",
    ),
    "food": (
        "{p} cooked soup with {t}.",
        "The restaurant in {c} serves fresh bread.",
        "{p} baked a cake for dinner.",
        "{p} ate too much at lunch.",
        "The recipe of {p} needs salt and butter.",
    ),
    "travel": (
        "{p} missed the train to {c}.",
        "The flight to {c} takes three hours.",
        "{p} booked a hotel in {c}.",
        "{p} packed a suitcase for the holiday.",
        "{p} lost the passport at the border.",
    ),
    "music": (
        "{p} sings in a choir in {c}.",
        "The band played the new song for {p}.",
        "{p} practises the violin every day.",
        "The concert in {c} was sold out.",
        "{p} wrote the melody of the opera.",
    ),
    "money": (
        "{p} paid back the loan to the bank.",
        "The shop of {p} raised its prices.",
        "{p} saves half of the salary.",
        "The tax in {c} went up.",
        "{p} invested in the company.",
    ),
    "weather": (
        "It rained all day in {c}.",
        "A storm is coming, says {p}.",
        "{p} waited for the snow to melt.",
        "The sun burned hot over {c}.",
        "Thick fog covered the streets of {c}.",
    ),
    "health": (
        "{p} has a fever and a cough.",
        "The doctor in {c} gave {p} pills.",
        "{p} broke a leg and went to hospital.",
        "A vaccine arrived in {c}.",
        "{p} feels dizzy since the operation.",
    ),
    "school": (
        "{p} failed the exam in maths.",
        "The pupils of {p} wrote an essay.",
        "{p} teaches a class in {c}.",
        "The university of {c} opens in autumn.",
        "{p} forgot the homework again.",
    ),
}
_TOPICS = tuple(tuple(sorted(Random(f"topics/{i}").sample(sorted(_ABOUT), 2 + i % 3))) for i in range(60))


def _sentence_about(rng: Random, topic: str) -> str:
    values = {"p": _first_name(rng)[0], "c": rng.choice(CATEGORIES["city"]), "t": rng.choice(CATEGORIES["vegetable"])}
    return rng.choice(_ABOUT[topic]).format(**values)


@_kind(topics=tuple(dict.fromkeys(_TOPICS)))
def _topic(rng: Random, v: Values) -> tuple[str, str]:
    topic = rng.choice(v["topics"])
    return _sentence_about(rng, topic), topic


@_kind(topic=tuple(_ABOUT), labels=_LABELS)
def _is_about(rng: Random, v: Values) -> tuple[str, str]:
    wanted = rng.random() < 0.5
    topic = v["topic"] if wanted else rng.choice([one for one in _ABOUT if one != v["topic"]])
    return _sentence_about(rng, topic), _yes(v, wanted)


_MEANT = {
    "request": (
        "Could you bring me the {t}, {p}?",
        "Please send {p} the {t}.",
        "Can I have a {t} by {d}?",
        "Would you help {p} on {d}?",
    ),
    "complaint": (
        "The {t} that {p} sold me is broken.",
        "I have waited for {p} since {d}.",
        "This {t} is much too small, {p}.",
        "Nobody answers when {p} calls on {d}.",
    ),
    "offer": (
        "I can lend {p} my {t}.",
        "Take a {t} for free, {p}.",
        "Shall I drive {p} home on {d}?",
        "We would gladly repair the {t} for {p}.",
    ),
    "thanks": (
        "Many thanks for the {t}, {p}.",
        "How kind of {p} to help on {d}!",
        "{p} made my {d}, thank you.",
        "I am grateful for the {t}.",
    ),
    "apology": (
        "Sorry that I broke the {t}, {p}.",
        "Forgive me for {d}, {p}.",
        "I regret that the {t} came late.",
        "My fault, {p}, it will not happen again on {d}.",
    ),
    "invitation": (
        "Come to my party on {d}, {p}!",
        "{p}, join us for dinner on {d}.",
        "You are welcome to stay with {p} on {d}.",
        "We would love to see {p} on {d}.",
    ),
}
_INTENTS = tuple(tuple(sorted(Random(f"intents/{i}").sample(sorted(_MEANT), 2 + i % 3))) for i in range(40))


@_kind(intents=tuple(dict.fromkeys(_INTENTS)))
def _intent(rng: Random, v: Values) -> tuple[str, str]:
    intent = rng.choice(v["intents"])
    values = {"p": _first_name(rng)[0], "t": rng.choice(_THINGS), "d": rng.choice(_DAYS)}
    return rng.choice(_MEANT[intent]).format(**values), intent
