"""What a teacher is asked for keyword-classification tasks, word for word."""

from dataclasses import dataclass

from soft2hard.api.requests import Request
from soft2hard.data_gen.dods.keyword_classification import N_CLASSES
from soft2hard.data_gen.teacher import Questions

PER_ANSWER = 10
"""Categories asked for at once."""
FEWEST_WORDS, MOST_WORDS = 4, 40
"""Of a sentence."""
_TOKENS_OF_CATEGORY = 80
_TOKENS_OF_SENTENCE = 64
"""Room in an answer for one, with its JSON."""
_SPARE = 1.2
"""Sentences asked for, as a multiple of those wanted: some will be rejected."""

DOMAINS = (
    "everyday life", "nature and animals", "food and cooking", "science", "sport and games", "work and jobs",
    "travel and places", "arts and culture", "technology", "health and medicine", "history", "economics and trade",
    "language and books", "weather and landscape", "transport", "household and tools", "music and dance",
    "law and politics", "school and learning", "feelings and character", "clothing and fashion", "buildings",
    "plants and gardening", "materials and crafts", "space and astronomy", "the sea", "family and society",
    "mathematics and logic", "religion and myth", "media and communication", "energy and environment",
    "engineering and machines", "the human body", "holidays and customs", "crime and safety", "toys and hobbies",
)  # fmt: skip

CATEGORIES_PROMPT = """Propose {n} categories of things to do with {domain}, each with exactly {n_classes} classes.

- A category is a noun phrase in the singular without an article, such as "musical instrument" or "kind of weather".
- Its classes are things of that category, each a name of one to three words in plain letters. They exclude each other.
- One can write a sentence that is clearly about a class without naming it.
- No two categories share classes or mean the same.{variation}

Reply with JSON alone: {{"categories": [{{"category": "...", "classes": [{blanks}]}}]}}"""

SENTENCES_PROMPT = """Write {n} different English sentences about this {category}: {label}.

- Each sentence is clearly about it and not about {others}.
- No sentence contains any of these names, nor another form of them: {names}.
- Each has between {fewest} and {most} words and stands on a line of its own, without a number.
- Vary subject, form and beginning.{variation}

Reply with JSON alone: {{"sentences": ["...", "..."]}}"""


@dataclass(frozen=True)
class Category:
    """A category as a teacher proposes it."""

    name: str
    classes: tuple[str, ...]


def categories_request(questions: Questions, number: int) -> Request:
    """The request for list `number` of categories, from 0: the domains in turn, and then each once more."""
    round_, domain = divmod(number, len(DOMAINS))
    text = CATEGORIES_PROMPT.format(
        n=PER_ANSWER,
        domain=DOMAINS[domain],
        n_classes=N_CLASSES,
        blanks=", ".join(['"..."'] * N_CLASSES),
        variation=_variation(round_, "think of categories that are less obvious"),
    )
    return questions.request(text, PER_ANSWER * _TOKENS_OF_CATEGORY)


def sentences_request(questions: Questions, category: Category, label: str, n: int, round_: int) -> Request:
    """The request for sentences of one class of which `n` are wanted, for the `round_`-th time, from 0."""
    asked = round(n * _SPARE)
    text = SENTENCES_PROMPT.format(
        n=asked,
        category=category.name,
        label=label,
        others=" or ".join(name for name in category.classes if name != label),
        names=", ".join(category.classes),
        fewest=FEWEST_WORDS,
        most=MOST_WORDS,
        variation=_variation(round_, "write sentences that are less obvious"),
    )
    return questions.request(text, asked * _TOKENS_OF_SENTENCE)


def _variation(round_: int, hint: str) -> str:
    return f"\n- This is list number {round_ + 1}: {hint}." if round_ else ""
