"""What a task family is made of: variants that draw parameters, word instructions and make examples."""

from collections.abc import Callable
from dataclasses import dataclass
from random import Random

from soft2hard.data_gen.dods.lexical.grammar import Values
from soft2hard.data_gen.dods.lexical.words import CATEGORIES, CATEGORY_OF
from soft2hard.data_gen.tasks import Example

_NAMES = tuple(CATEGORIES)
LIST_LENGTHS = (3, 4, 5)


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
