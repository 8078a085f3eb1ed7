"""Making a collection of keyword-classification tasks with a teacher: what it is asked, what is used, what is saved.

Every question depends on the settings and on what was accepted before, never on chance or time, so a rerun finds the
answers of a killed run in the ledger, and a larger collection has the smaller one's among its own.
"""

import datetime
import math
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from functools import partial
from itertools import permutations
from pathlib import Path
from typing import Any

from soft2hard import __version__
from soft2hard.api.requests import Request
from soft2hard.data_gen.dods import keyword_classification as kept
from soft2hard.data_gen.dods.keyword_classification import N_CLASSES, About, Filled, split_of
from soft2hard.data_gen.tasks import SPLITS
from soft2hard.data_gen.teacher import (
    Questions,
    Rejected,
    Teacher,
    json_lines,
    listed,
    names,
    normal_form,
    usable_texts,
    variation,
)
from soft2hard.errors import UserError
from soft2hard.storage.files import atomic_folder

PER_ANSWER = 10
"""Categories asked for at once."""
FEWEST_WORDS, MOST_WORDS = 4, 40
"""Of a sentence."""
MOST_SHARED = 1
"""Classes that two categories may have in common: a word may mean two things, two lists may not mean the same."""
FEWEST_SHARE = 0.5
"""Of the sentences wanted, the share that each class of a category must have in the end."""
_LONGEST_NAME = 60
_LONGEST_CLASS = 3  # words
_TOKENS_OF_CATEGORY = 80
_TOKENS_OF_SENTENCE = 64
"""Room in an answer for one, with its JSON."""
_SPARE = 1.2
"""Sentences asked for, as a multiple of those wanted: some will be rejected."""
_SURPLUS = 1.5
"""Categories proposed for each that is still wanted: some will be rejected."""
_MOST_LISTS = 4
"""Lists of categories asked for at most, as a multiple of those asked for at first."""

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
        variation=variation(round_, "think of categories that are less obvious"),
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
        variation=variation(round_, "write sentences that are less obvious"),
    )
    return questions.request(text, asked * _TOKENS_OF_SENTENCE)


def accept_categories(answers: Sequence[str]) -> tuple[list[Category], list[Rejected]]:
    """Distinct, well-formed categories in the order of the answers; earlier answers do not depend on later ones."""
    accepted: list[Category] = []
    rejected: list[Rejected] = []
    seen: dict[str, set[str]] = {}
    for answer in answers:
        for item in listed(answer, "categories", rejected):
            category = _category_of(item)
            reason = _category_fault(category, seen)
            if category is None or reason is not None:
                rejected.append(Rejected("category", reason or "no category with classes", str(item)))
                continue
            accepted.append(category)
            seen[normal_form(category.name)] = {normal_form(name) for name in category.classes}
    return accepted, rejected


def _category_of(item: Any) -> Category | None:
    name, classes = (item.get("category"), item.get("classes")) if isinstance(item, dict) else (None, None)
    if not isinstance(name, str) or not isinstance(classes, list) or not all(isinstance(c, str) for c in classes):
        return None
    return Category(" ".join(name.split()), tuple(" ".join(c.split()) for c in classes))


def _category_fault(category: Category | None, seen: Mapping[str, set[str]]) -> str | None:
    """The reason why a category is not used, or None; `seen` are the names and classes of those that are."""
    if category is None:
        return "no category with classes"
    name, classes = category.name, category.classes
    if len(classes) != N_CLASSES:
        return f"not {N_CLASSES} classes"
    if not _is_plain(name) or len(name) > _LONGEST_NAME:
        return "a name that is empty, too long or not in plain letters"
    if not all(_is_plain(c) and len(c.split()) <= _LONGEST_CLASS for c in classes):
        return "a class that is empty, too long or not in plain letters"
    if any(names(one, other) for one, other in permutations(classes, 2)):
        return "a class that names another"
    if normal_form(name) in seen:
        return "a category that is there already"
    shared = (len(set(map(normal_form, classes)) & other) for other in seen.values())
    return "classes that another category has" if max(shared, default=0) > MOST_SHARED else None


def _is_plain(text: str) -> bool:
    return bool(normal_form(text)) and all(c.isalnum() or c in " -" for c in text)


class Sentences:
    """The sentences for one category: distinct ones that name no class of it, each written for one class only.

    No answer to a sentence of several classes could be called right or wrong.
    """

    def __init__(self, category: Category) -> None:
        self._category = category
        self._found: dict[str, dict[str, str]] = {label: {} for label in category.classes}
        """By class and normal form."""
        self._rejected: list[Rejected] = []

    def take(self, label: str, answer: str) -> None:
        """Use an answer to the question for sentences of a class."""
        fault, of = partial(self._fault_of, label), f"{self._category.name}: {label}"
        for sentence in usable_texts(answer, "sentence", fault, self._rejected, of):
            self._found[label][normal_form(sentence)] = sentence

    def _fault_of(self, label: str, sentence: str) -> str | None:
        if len(sentence.splitlines()) != 1:
            return "empty or several lines"
        if not FEWEST_WORDS <= len(sentence.split()) <= MOST_WORDS:
            return "too short or too long"
        if any(names(sentence, name) for name in self._category.classes):
            return "names a class"
        return "a repeated sentence" if normal_form(sentence) in self._found[label] else None

    def result(self) -> tuple[dict[str, list[str]], list[Rejected]]:
        """The usable sentences by class, and all others with the reason."""
        n_classes = Counter(form for forms in self._found.values() for form in forms)
        usable: dict[str, list[str]] = {label: [] for label in self._found}
        rejected = list(self._rejected)
        for label, forms in self._found.items():
            for form, text in forms.items():
                if n_classes[form] == 1:
                    usable[label].append(text)
                else:
                    of = f"{self._category.name}: {label}"
                    rejected.append(Rejected("sentence", "written for several classes", text, of))
        return usable, rejected


@dataclass(frozen=True)
class Settings:
    """The size of the collection that is asked for."""

    n_categories: int
    n_sentences: int = 30
    """Of each class."""


@dataclass(frozen=True)
class Generated:
    """The tasks that were made, and all that was rejected."""

    tasks: tuple[Filled, ...]
    rejected: tuple[Rejected, ...]

    def splits(self) -> dict[str, int]:
        """Tasks of each split."""
        found = Counter(split_of(task.category) for task in self.tasks)
        return {split: found[split] for split in SPLITS}


def first_requests(teacher: Teacher, settings: Settings) -> dict[str, list[Request]]:
    """The questions asked at least, by stage; nothing is sent. Categories that are not known yet have stand-ins."""
    questions = teacher.questions
    categories = [categories_request(questions, i) for i in range(_lists(settings.n_categories))]
    known = accept_categories(teacher.stored(categories))[0][: settings.n_categories]
    missing = range(len(known), settings.n_categories)
    stand_ins = [Category(f"category {i}", tuple(f"class {i} {j}" for j in range(N_CLASSES))) for i in missing]
    sentences = [
        sentences_request(questions, category, label, settings.n_sentences, 0)
        for category in (*known, *stand_ins)
        for label in category.classes
    ]
    return {"categories": categories, "sentences": sentences}


def generate(teacher: Teacher, settings: Settings) -> Generated:
    """Ask until there are as many tasks as wanted.

    Raises UserError where an answer is missing, the limit on cost is reached, or the teacher has too few usable
    categories; what it answered is kept.
    """
    n_lists, tried = _lists(settings.n_categories), 0
    complete: list[Filled] = []
    rejected: list[Rejected] = []
    while True:
        answers = teacher.ask([categories_request(teacher.questions, i) for i in range(n_lists)])
        accepted, refused = accept_categories(answers)
        if not accepted:
            raise UserError(
                f"None of {n_lists} answers of '{teacher.questions.model.title}' has a usable category; the first is "
                f"'{answers[0][:80]}' ({refused[0].reason if refused else 'empty'}).",
                "Use a model that follows instructions, or give it more room (--parameter max_tokens=4000).",
            )
        while len(complete) < settings.n_categories and tried < len(accepted):
            batch = accepted[tried : tried + settings.n_categories - len(complete)]
            tried += len(batch)
            for category, sentences in zip(batch, _filled(teacher, settings, batch), strict=True):
                usable, others = sentences.result()
                rejected += others
                texts = {label: some[: settings.n_sentences] for label, some in usable.items()}
                if min(map(len, texts.values())) >= FEWEST_SHARE * settings.n_sentences:
                    complete.append(Filled(category=category.name, sentences=texts))
                else:
                    rejected.append(Rejected("category", "too few sentences", category.name))
        if len(complete) == settings.n_categories:
            return Generated(tuple(complete), (*refused, *rejected))
        if n_lists >= _MOST_LISTS * _lists(settings.n_categories):
            raise UserError(
                f"The teacher has {len(complete)} usable categories in {n_lists} lists, not {settings.n_categories}.",
                f"Ask for fewer (--n-categories {max(1, len(complete))}), or another model.",
            )
        n_lists += _lists(settings.n_categories - len(complete))
        n_lists = min(n_lists, _MOST_LISTS * _lists(settings.n_categories))


def save(folder: Path, generated: Generated, teacher: Teacher, settings: Settings, licence: str | None = None) -> None:
    """Write a collection; the folder appears whole or not at all.

    `licence` is that of the texts; None: the terms of the service. Raises UserError where it cannot be written.
    """
    model = teacher.questions.model
    about = About(
        schema_version=kept.SCHEMA_VERSION,
        licence=licence or f"written by {model.name}; the terms of {model.base_url} apply",
        source=f"written by {model.name} at {model.base_url}, after the collection of arXiv 2605.27642",
        teacher=identity(teacher.questions),
        settings=asdict(settings),
        made=datetime.date.today().isoformat(),
        soft2hard=__version__,
        counts={"tasks": len(generated.tasks), **generated.splits()},
        rejected=dict(Counter(f"{item.kind}: {item.reason}" for item in generated.rejected)),
    )
    with atomic_folder(folder) as temporary:
        texts = {
            kept.ABOUT: about.model_dump_json(indent=2) + "\n",
            kept.TASKS: json_lines([task.model_dump() for task in generated.tasks]),
            kept.REJECTED: json_lines([asdict(item) for item in generated.rejected]),
            kept.PROMPTS: json_lines([{"key": key, "body": r.body} for key, r in teacher.asked.items()]),
        }
        for name, text in texts.items():
            (temporary / name).write_text(text, encoding="utf-8")


def identity(questions: Questions) -> dict:
    """Who was asked, and how."""
    model, parameters = questions.model, dict(questions.parameters)
    return {"model": model.name, "base_url": model.base_url, "parameters": parameters, "seed": questions.seed}


def _lists(n: int) -> int:
    return math.ceil(_SURPLUS * n / PER_ANSWER)


def _filled(teacher: Teacher, settings: Settings, batch: Sequence[Category]) -> list[Sentences]:
    """Sentences of several categories: all are asked for at once, and classes with too few are asked for again."""
    n, found = settings.n_sentences, [Sentences(category) for category in batch]
    teacher.fill(
        wanted=[(i, label) for i, category in enumerate(batch) for label in category.classes],
        request=lambda of, round_: sentences_request(teacher.questions, batch[of[0]], of[1], n, round_),
        take=lambda of, answer: found[of[0]].take(of[1], answer),
        is_short=lambda of: len(found[of[0]].result()[0][of[1]]) < n,
    )
    return found
