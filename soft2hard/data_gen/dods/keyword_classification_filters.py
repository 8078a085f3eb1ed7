"""Which categories and sentences of a teacher are used, and why the others are not."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from soft2hard.data_gen.dods.keyword_classification import N_CLASSES
from soft2hard.data_gen.dods.keyword_classification_prompts import FEWEST_WORDS, MOST_WORDS, Category
from soft2hard.data_gen.normal_form import names, normal_form
from soft2hard.data_gen.teacher import NO_JSON, Rejected, read_list

MOST_SHARED = 1
"""Classes that two categories may have in common: a word may mean two things, two lists may not mean the same."""
_LONGEST_NAME = 60
_LONGEST_CLASS = 3  # words


def accept_categories(answers: Sequence[str]) -> tuple[list[Category], list[Rejected]]:
    """Distinct, well-formed categories in the order of the answers; earlier answers do not depend on later ones."""
    accepted: list[Category] = []
    rejected: list[Rejected] = []
    seen: dict[str, set[str]] = {}
    for answer in answers:
        items = read_list(answer, "categories")
        if items is None:
            rejected.append(Rejected("answer", NO_JSON, answer))
            continue
        for item in items:
            category = _read_category(item)
            reason = category if isinstance(category, str) else _repetition(category, seen)
            if reason is not None or isinstance(category, str):
                rejected.append(Rejected("category", str(reason), str(item)))
                continue
            accepted.append(category)
            seen[normal_form(category.name)] = {normal_form(name) for name in category.classes}
    return accepted, rejected


def _read_category(item: Any) -> Category | str:
    """A category, or what is wrong with it."""
    name, classes = (item.get("category"), item.get("classes")) if isinstance(item, dict) else (None, None)
    if not isinstance(name, str) or not isinstance(classes, list) or not all(isinstance(c, str) for c in classes):
        return "no category with classes"
    name, classes = " ".join(name.split()), tuple(" ".join(c.split()) for c in classes)
    if len(classes) != N_CLASSES:
        return f"not {N_CLASSES} classes"
    if not _is_plain(name) or len(name) > _LONGEST_NAME:
        return "a name that is empty, too long or not in plain letters"
    if not all(_is_plain(c) and len(c.split()) <= _LONGEST_CLASS for c in classes):
        return "a class that is empty, too long or not in plain letters"
    if any(names(one, other) for one in classes for other in classes if one is not other):
        return "a class that names another"
    return Category(name, classes)


def _is_plain(text: str) -> bool:
    return bool(normal_form(text)) and all(c.isalnum() or c in " -" for c in text)


def _repetition(category: Category, seen: Mapping[str, set[str]]) -> str | None:
    if normal_form(category.name) in seen:
        return "a category that is there already"
    forms = {normal_form(name) for name in category.classes}
    if any(len(forms & other) > MOST_SHARED for other in seen.values()):
        return "classes that another category has"
    return None


@dataclass(frozen=True)
class Sentences:
    """What is used of the answers for one category."""

    by_class: dict[str, list[str]]
    rejected: list[Rejected]

    def fewest(self) -> int:
        """Sentences of the class that has the fewest."""
        return min(map(len, self.by_class.values()))


def accept_sentences(category: Category, answers: Mapping[str, Sequence[str]]) -> Sentences:
    """Distinct sentences that name no class of the category; `answers` are by class, all rounds."""
    rejected: list[Rejected] = []
    candidates: dict[str, dict[str, str]] = {label: {} for label in category.classes}
    for label, texts in answers.items():
        of = f"{category.name}: {label}"
        for answer in texts:
            items = read_list(answer, "sentences")
            if items is None:
                rejected.append(Rejected("answer", NO_JSON, answer, of))
            for item in items or ():
                sentence = item.strip() if isinstance(item, str) else str(item)
                reason = _fault_of(sentence, category) if isinstance(item, str) else "not a text"
                if reason is None and normal_form(sentence) in candidates[label]:
                    reason = "a repeated sentence"
                if reason is None:
                    candidates[label][normal_form(sentence)] = sentence
                else:
                    rejected.append(Rejected("sentence", reason, sentence, of))
    return Sentences(_of_one_class(category, candidates, rejected), rejected)


def _fault_of(sentence: str, category: Category) -> str | None:
    if len(sentence.splitlines()) != 1:
        return "empty or several lines"
    if not FEWEST_WORDS <= len(sentence.split()) <= MOST_WORDS:
        return "too short or too long"
    named = any(names(sentence, label) for label in category.classes)
    return "names a class" if named else None


def _of_one_class(
    category: Category, candidates: Mapping[str, Mapping[str, str]], rejected: list[Rejected]
) -> dict[str, list[str]]:
    """Sentences that were written for one class only: no answer to the others could be called right or wrong."""
    kept: dict[str, list[str]] = {}
    for label, forms in candidates.items():
        others = [other for name, other in candidates.items() if name != label]
        shared = {form for form in forms if any(form in other for other in others)}
        kept[label] = [text for form, text in forms.items() if form not in shared]
        of = f"{category.name}: {label}"
        rejected += [
            Rejected("sentence", "written for several classes", forms[form], of) for form in forms if form in shared
        ]
    return kept
