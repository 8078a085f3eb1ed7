"""Making a collection of keyword-classification tasks with a teacher, and writing it to a folder.

Every question depends on the settings and on what was accepted before, never on chance or time, so a rerun finds the
answers of a killed run in the ledger, and a larger collection has the smaller one's among its own.
"""

import datetime
import math
from collections import Counter
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

from soft2hard import __version__
from soft2hard.api.requests import Request
from soft2hard.data_gen.dods import keyword_classification as kept
from soft2hard.data_gen.dods.keyword_classification import About, Filled, split_of
from soft2hard.data_gen.dods.keyword_classification_filters import Sentences, accept_categories, accept_sentences
from soft2hard.data_gen.dods.keyword_classification_prompts import (
    PER_ANSWER,
    Category,
    categories_request,
    sentences_request,
)
from soft2hard.data_gen.tasks import SPLITS
from soft2hard.data_gen.teacher import Questions, Rejected, Teacher, json_lines
from soft2hard.errors import UserError
from soft2hard.storage.files import atomic_folder

ROUNDS = 3
"""Times that a class is asked for sentences, at most."""
FEWEST_SHARE = 0.5
"""Of the sentences wanted, the share that each class of a category must have in the end."""
_SURPLUS = 1.5
"""Categories proposed for each that is still wanted: some will be rejected."""
_MOST_LISTS = 4
"""Lists of categories asked for at most, as a multiple of those asked for at first."""


@dataclass(frozen=True)
class Settings:
    """What is asked for."""

    n_categories: int
    n_sentences: int = 30
    """Of each class."""


@dataclass(frozen=True)
class Generated:
    """What came of it."""

    tasks: tuple[Filled, ...]
    rejected: tuple[Rejected, ...]

    def splits(self) -> dict[str, int]:
        """Tasks of each split."""
        found = Counter(split_of(task.category) for task in self.tasks)
        return {split: found[split] for split in SPLITS}


def first_requests(teacher: Teacher, settings: Settings) -> dict[str, list[Request]]:
    """What is asked at least, by stage; nothing is sent. Categories that are not known yet have stand-ins."""
    questions = teacher.questions
    categories = [categories_request(questions, i) for i in range(_lists(settings.n_categories))]
    known = accept_categories(teacher.stored(categories))[0][: settings.n_categories]
    missing = range(len(known), settings.n_categories)
    stand_ins = [Category(f"category {i}", tuple(f"class {i} {j}" for j in range(kept.N_CLASSES))) for i in missing]
    sentences = [
        sentences_request(questions, category, label, settings.n_sentences, 0)
        for category in (*known, *stand_ins)
        for label in category.classes
    ]
    return {"categories": categories, "sentences": sentences}


def generate(teacher: Teacher, settings: Settings) -> Generated:
    """Ask until there are as many tasks as wanted.

    Raises UserError where an answer cannot be had, the limit on cost is reached, or the teacher has too few usable
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
                rejected += sentences.rejected
                if sentences.fewest() >= FEWEST_SHARE * settings.n_sentences:
                    complete.append(_task(category, sentences, settings))
                else:
                    rejected.append(Rejected("category", "too few sentences", category.name))
        if len(complete) == settings.n_categories:
            return Generated(tuple(complete), (*refused, *rejected))
        if n_lists >= _most(settings.n_categories):
            raise UserError(
                f"The teacher has {len(complete)} usable categories in {n_lists} lists, not {settings.n_categories}.",
                f"Ask for fewer (--n-categories {max(1, len(complete))}), or another model.",
            )
        n_lists = min(_most(settings.n_categories), n_lists + _lists(settings.n_categories - len(complete)))


def save(folder: Path, generated: Generated, teacher: Teacher, settings: Settings, licence: str | None = None) -> None:
    """Write a collection; the folder appears whole or not at all.

    `licence` is that of the texts; None: what can be said of any service. Raises UserError where it cannot be written.
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


def _most(n: int) -> int:
    return _MOST_LISTS * _lists(n)


def _filled(teacher: Teacher, settings: Settings, batch: Sequence[Category]) -> list[Sentences]:
    """Sentences of several categories: all are asked for at once, and what comes short is asked for again."""
    answers: list[dict[str, list[str]]] = [{label: [] for label in category.classes} for category in batch]
    found = [accept_sentences(category, {}) for category in batch]
    for round_ in range(ROUNDS):
        short = [
            (i, label)
            for i, sentences in enumerate(found)
            for label, texts in sentences.by_class.items()
            if len(texts) < settings.n_sentences
        ]
        if not short:
            break
        requests = [
            sentences_request(teacher.questions, batch[i], label, settings.n_sentences, round_) for i, label in short
        ]
        for (i, label), answer in zip(short, teacher.ask(requests), strict=True):
            answers[i][label].append(answer)
        found = [accept_sentences(category, given) for category, given in zip(batch, answers, strict=True)]
    return found


def _task(category: Category, sentences: Sentences, settings: Settings) -> Filled:
    kept_texts = {label: texts[: settings.n_sentences] for label, texts in sentences.by_class.items()}
    return Filled(category=category.name, sentences=kept_texts)
