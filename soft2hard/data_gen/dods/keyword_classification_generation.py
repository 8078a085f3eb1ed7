"""Making a collection of keyword-classification tasks with a teacher: what it is asked, what is used, what is saved.

Every question depends on the settings and on what was accepted before, never on chance or time, so a rerun finds the
answers of a killed run in the ledger, and a larger collection has the smaller one's among its own.
"""

import datetime
import math
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import asdict
from functools import partial
from itertools import permutations
from pathlib import Path
from typing import Any, NamedTuple

from soft2hard import __version__
from soft2hard.api.requests import Request
from soft2hard.data_gen.dods import keyword_classification as kept
from soft2hard.data_gen.dods.keyword_classification import N_CLASSES, Filled
from soft2hard.data_gen.tasks import SPLITS
from soft2hard.data_gen.teacher import (
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
from soft2hard.storage.yaml_files import read_yaml

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

_ASKED = read_yaml(Path(kept.__file__).with_suffix(".yaml"), "the prompts")


class Category(NamedTuple):
    """A category as a teacher proposes it."""

    name: str
    classes: tuple[str, ...]


def categories_request(teacher: Teacher, number: int) -> Request:
    """The request for list `number` of categories, from 0: the domains in turn, and then each once more."""
    round_, domain = divmod(number, len(_ASKED["domains"]))
    text = _ASKED["categories"].format(
        n=PER_ANSWER,
        domain=_ASKED["domains"][domain],
        n_classes=N_CLASSES,
        blanks=", ".join(['"..."'] * N_CLASSES),
        variation=variation(round_, "think of categories that are less obvious"),
    )
    return teacher.request(text, PER_ANSWER * _TOKENS_OF_CATEGORY)


def sentences_request(teacher: Teacher, category: Category, label: str, n: int, round_: int) -> Request:
    """The request for sentences of one class of which `n` are wanted, for the `round_`-th time, from 0."""
    asked = round(n * _SPARE)
    text = _ASKED["sentences"].format(
        n=asked,
        category=category.name,
        label=label,
        others=" or ".join(name for name in category.classes if name != label),
        names=", ".join(category.classes),
        fewest=FEWEST_WORDS,
        most=MOST_WORDS,
        variation=variation(round_, "write sentences that are less obvious"),
    )
    return teacher.request(text, asked * _TOKENS_OF_SENTENCE)


def accept_categories(answers: Sequence[str]) -> tuple[list[Category], list[Rejected]]:
    """Distinct, well-formed categories in the order of the answers; earlier answers do not depend on later ones."""
    accepted: list[Category] = []
    rejected: list[Rejected] = []
    seen: dict[str, set[str]] = {}
    for answer in answers:
        for item in listed(answer, "categories", rejected):
            category = _category_of(item)
            reason = _category_fault(category, seen) if category else "no category with classes"
            if reason is not None:
                rejected.append(Rejected("category", reason, str(item)))
                continue
            accepted.append(category)
            seen[normal_form(category.name)] = {normal_form(name) for name in category.classes}
    return accepted, rejected


def _category_of(item: Any) -> Category | None:
    name, classes = (item.get("category"), item.get("classes")) if isinstance(item, dict) else (None, None)
    if not isinstance(name, str) or not isinstance(classes, list) or not all(isinstance(c, str) for c in classes):
        return None
    return Category(" ".join(name.split()), tuple(" ".join(c.split()) for c in classes))


def _category_fault(category: Category, seen: Mapping[str, set[str]]) -> str | None:
    """The reason why a category is not used, or None; `seen` are the names and classes of those that are."""
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
        self.category = category
        self._found: dict[str, dict[str, str]] = {label: {} for label in category.classes}
        """By class and normal form."""
        self._rejected: list[Rejected] = []

    def take(self, label: str, answer: str) -> None:
        """Use an answer to the question for sentences of a class."""
        fault, of = partial(self._fault_of, label), f"{self.category.name}: {label}"
        for sentence in usable_texts(answer, "sentence", fault, self._rejected, of):
            self._found[label][normal_form(sentence)] = sentence

    def _fault_of(self, label: str, sentence: str) -> str | None:
        if len(sentence.splitlines()) != 1:
            return "empty or several lines"
        if not FEWEST_WORDS <= len(sentence.split()) <= MOST_WORDS:
            return "too short or too long"
        if any(names(sentence, name) for name in self.category.classes):
            return "names a class"
        return "a repeated sentence" if normal_form(sentence) in self._found[label] else None

    def result(self) -> tuple[dict[str, list[str]], list[Rejected]]:
        """The usable sentences by class, and all others with the reason."""
        n_classes = Counter(form for forms in self._found.values() for form in forms)
        usable, rejected = {}, list(self._rejected)
        for label, forms in self._found.items():
            usable[label] = [text for form, text in forms.items() if n_classes[form] == 1]
            shared = (text for form, text in forms.items() if n_classes[form] > 1)
            of = f"{self.category.name}: {label}"
            rejected += [Rejected("sentence", "written for several classes", text, of) for text in shared]
        return usable, rejected


def first_requests(teacher: Teacher, n_categories: int, n_sentences: int) -> dict[str, list[Request]]:
    """The questions asked at least, by stage; nothing is sent. Categories that are not known yet have stand-ins."""
    categories = [categories_request(teacher, i) for i in range(_lists(n_categories))]
    known = accept_categories(teacher.stored(categories))[0][:n_categories]
    missing = range(len(known), n_categories)
    stand_ins = [Category(f"category {i}", tuple(f"class {i} {j}" for j in range(N_CLASSES))) for i in missing]
    sentences = [
        sentences_request(teacher, category, label, n_sentences, 0)
        for category in (*known, *stand_ins)
        for label in category.classes
    ]
    return {"categories": categories, "sentences": sentences}


def generate(teacher: Teacher, n_categories: int, n_sentences: int) -> tuple[list[Filled], list[Rejected]]:
    """Ask until there are as many tasks as wanted, with `n_sentences` of each class; and all that was rejected.

    Raises UserError where an answer is missing, the limit on cost is reached, or the teacher has too few usable
    categories; what it answered is kept.
    """
    n_lists, most_lists, tried = _lists(n_categories), _MOST_LISTS * _lists(n_categories), 0
    complete: list[Filled] = []
    rejected: list[Rejected] = []
    while True:
        answers = teacher.ask([categories_request(teacher, i) for i in range(n_lists)])
        accepted, refused = accept_categories(answers)
        if not accepted:
            raise UserError(
                f"None of {n_lists} answers of '{teacher.model.title}' has a usable category; the first is "
                f"'{answers[0][:80]}' ({refused[0].reason if refused else 'empty'}).",
                "Use a model that follows instructions, or give it more room (--parameter max_tokens=4000).",
            )
        while len(complete) < n_categories and tried < len(accepted):
            batch = accepted[tried : tried + n_categories - len(complete)]
            tried += len(batch)
            for found in _filled(teacher, batch, n_sentences):
                usable, others = found.result()
                rejected += others
                texts = {label: some[:n_sentences] for label, some in usable.items()}
                if min(map(len, texts.values())) >= FEWEST_SHARE * n_sentences:
                    complete.append(Filled(category=found.category.name, sentences=texts))
                else:
                    rejected.append(Rejected("category", "too few sentences", found.category.name))
        if len(complete) == n_categories:
            return complete, [*refused, *rejected]
        if n_lists == most_lists:
            raise UserError(
                f"The teacher has {len(complete)} usable categories in {n_lists} lists, not {n_categories}.",
                f"Ask for fewer (--n-categories {max(1, len(complete))}), or another model.",
            )
        n_lists = min(n_lists + _lists(n_categories - len(complete)), most_lists)


def _filled(teacher: Teacher, batch: Sequence[Category], n: int) -> list[Sentences]:
    """Sentences of several categories: all are asked for at once, and classes with too few are asked for again."""
    found = [Sentences(category) for category in batch]
    teacher.fill(
        wanted=[(one, label) for one in found for label in one.category.classes],
        request=lambda of, round_: sentences_request(teacher, of[0].category, of[1], n, round_),
        take=lambda of, answer: of[0].take(of[1], answer),
        is_short=lambda of: len(of[0].result()[0][of[1]]) < n,
    )
    return found


def save(
    folder: Path,
    tasks: Sequence[Filled],
    rejected: Sequence[Rejected],
    teacher: Teacher,
    settings: dict,
    licence: str | None,
) -> None:
    """Write a collection that was made with these settings; the folder appears whole or not at all.

    `licence` is that of the texts; None: the terms of the service. Raises UserError where it cannot be written.
    """
    model = teacher.model
    about = kept.About(
        schema_version=kept.SCHEMA_VERSION,
        licence=licence or f"written by {model.name}; the terms of {model.base_url} apply",
        source=f"written by {model.name} at {model.base_url}, after the collection of arXiv 2605.27642",
        teacher=identity(teacher),
        settings=settings,
        made=datetime.date.today().isoformat(),
        soft2hard=__version__,
        counts={"tasks": len(tasks), **splits(tasks)},
        rejected=dict(Counter(f"{item.kind}: {item.reason}" for item in rejected)),
    )
    texts = {
        kept.ABOUT: about.model_dump_json(indent=2) + "\n",
        kept.TASKS: json_lines(task.model_dump() for task in tasks),
        kept.REJECTED: json_lines(map(asdict, rejected)),
        kept.PROMPTS: json_lines({"key": key, "body": request.body} for key, request in teacher.asked.items()),
    }
    with atomic_folder(folder) as temporary:
        for name, text in texts.items():
            (temporary / name).write_text(text, encoding="utf-8")


def identity(teacher: Teacher) -> dict:
    """Who was asked, and how."""
    asked = {"model": teacher.model.name, "base_url": teacher.model.base_url}
    return asked | {"parameters": dict(teacher.parameters), "seed": teacher.seed}


def splits(tasks: Sequence[Filled]) -> dict[str, int]:
    """Tasks of each split."""
    found = Counter(kept.split_of(task.category) for task in tasks)
    return {split: found[split] for split in SPLITS}


def _lists(n: int) -> int:
    return math.ceil(_SURPLUS * n / PER_ANSWER)
