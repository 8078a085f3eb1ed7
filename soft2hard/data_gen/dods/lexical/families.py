"""The task families of the lexical world.

Single words: classify, label, member, relation, conditional. Short lists: pick, filter, replace,
count, position, order, contains. Two steps: pick_relation, filter_then, position_classify. How each is asked for stands
in phrasings.yaml.
"""

from collections.abc import Callable
from pathlib import Path
from random import Random
from typing import Any

from soft2hard.data_gen.dods.lexical.grammar import (
    LIST_LENGTHS,
    Values,
    Variant,
    any_word,
    belongs,
    draw_categories,
    draw_category,
    joined,
    word_in,
    word_list,
    word_outside,
)
from soft2hard.data_gen.dods.lexical.words import CATEGORIES, CATEGORY_OF, COUNTS, LABELS, ORDINALS, RELATIONS
from soft2hard.data_gen.tasks import Example
from soft2hard.storage.yaml_files import read_yaml

Draw = Callable[[Random], Values]
Answer = Callable[[Values, Random], Example]

# --- single words -----------------------------------------------------------------------------


def _classify(values: Values, rng: Random) -> Example:
    word = word_in(rng, values["s"])
    return Example(word, CATEGORY_OF[word])


def _two_labels(rng: Random) -> dict[str, str]:
    return dict(zip(("la", "lb"), rng.sample(LABELS, 2), strict=True))


def _label(values: Values, rng: Random) -> Example:
    side = rng.choice("ab")
    return Example(word_in(rng, (values[side],)), values["l" + side])


def _member(values: Values, rng: Random) -> Example:
    inside = rng.random() < 0.5
    word = word_in(rng, values["s"]) if inside else word_outside(rng, values["s"])
    return Example(word, "yes" if inside else "no")


def _related(values: Values, word: str) -> str:
    return RELATIONS[values["r"]].pairs[word]


def _relation(form: str) -> Answer:
    """Examples of a relation; {0} in `form` is the related word, {1} the label."""

    def example(values: Values, rng: Random) -> Example:
        word = rng.choice(tuple(RELATIONS[values["r"]].pairs))
        return Example(word, form.format(_related(values, word), values.get("la")))

    return example


def _draw_relation(rng: Random) -> dict[str, str]:
    return {"r": rng.choice(tuple(RELATIONS))}


def _draw_relation_label(rng: Random) -> dict[str, str]:
    return _draw_relation(rng) | {"la": rng.choice(LABELS)}


def _inside_or_not(category: str, rng: Random) -> tuple[bool, str]:
    inside = rng.random() < 0.5
    return inside, word_in(rng, (category,)) if inside else word_outside(rng, (category,))


def _if_labels(values: Values, rng: Random) -> Example:
    inside, word = _inside_or_not(values["a"], rng)
    return Example(word, values["la"] if inside else values["lb"])


def _if_label_else_repeat(values: Values, rng: Random) -> Example:
    inside, word = _inside_or_not(values["a"], rng)
    return Example(word, values["la"] if inside else word)


def _if_relation_else_label(values: Values, rng: Random) -> Example:
    inside, word = _inside_or_not(RELATIONS[values["r"]].domain, rng)
    return Example(word, _related(values, word) if inside else values["la"])


# --- short lists ------------------------------------------------------------------------------


def _length(rng: Random) -> int:
    return rng.choice(LIST_LENGTHS)


def _pick(values: Values, rng: Random) -> Example:
    words = word_list(rng, values["s"], 1, _length(rng))
    return Example(" ".join(words), next(word for word in words if belongs(word, values["s"])))


def _mixed_list(values: Values, rng: Random, at_least: int = 0, spare: int = 0) -> list[str]:
    length = _length(rng)
    return word_list(rng, values["s"], rng.randint(at_least, length - spare), length)


def _filter(keep: bool) -> Answer:
    def example(values: Values, rng: Random) -> Example:
        words = _mixed_list(values, rng)
        return Example(" ".join(words), joined([w for w in words if belongs(w, values["s"]) == keep]))

    return example


def _replace(values: Values, rng: Random) -> Example:
    words = _mixed_list(values, rng, at_least=1)
    return Example(" ".join(words), " ".join(values["la"] if belongs(w, values["s"]) else w for w in words))


def _count(values: Values, rng: Random) -> Example:
    words = _mixed_list(values, rng)
    return Example(" ".join(words), COUNTS[sum(belongs(w, values["s"]) for w in words)])


def _at(words: list[str], ordinal: str) -> str:
    return words[-1] if ordinal == "last" else words[ORDINALS.index(ordinal)]


def _position(values: Values, rng: Random) -> Example:
    words = [any_word(rng) for _ in range(rng.choice((4, 5)))]  # long enough for every ordinal
    return Example(" ".join(words), " ".join(_at(words, ordinal) for ordinal in values["p"]))


def _reverse(values: Values, rng: Random) -> Example:
    words = [any_word(rng) for _ in range(_length(rng))]
    return Example(" ".join(words), " ".join(reversed(words)))


def _sorted_numbers(rng: Random, descending: bool) -> Example:
    words = rng.sample(CATEGORIES["number"], _length(rng))
    return Example(" ".join(words), " ".join(sorted(words, key=CATEGORIES["number"].index, reverse=descending)))


def _group(values: Values, rng: Random) -> Example:
    length = _length(rng)
    n_first = rng.randint(1, length - 1)
    first = [word_in(rng, (values["a"],)) for _ in range(n_first)]
    second = [word_in(rng, (values["b"],)) for _ in range(length - n_first)]
    words = first + second
    rng.shuffle(words)
    return Example(" ".join(words), " ".join(sorted(words, key=lambda w: CATEGORY_OF[w] == values["b"])))


def _contains(values: Values, rng: Random) -> Example:
    length, inside = _length(rng), rng.random() < 0.5
    words = word_list(rng, (values["a"],), rng.choice((1, 1, 2)) if inside else 0, length)
    return Example(" ".join(words), values["la"] if inside else values["lb"])


# --- two steps --------------------------------------------------------------------------------


def _related_in_list(form: str) -> Answer:
    """Like `_relation`, of the first word that has a related one."""

    def example(values: Values, rng: Random) -> Example:
        domain = RELATIONS[values["r"]].domain
        words = word_list(rng, (domain,), 1, _length(rng))
        word = next(word for word in words if CATEGORY_OF[word] == domain)
        return Example(" ".join(words), form.format(_related(values, word), values.get("la")))

    return example


def _related_at(values: Values, rng: Random) -> Example:
    pool = tuple(RELATIONS[values["r"]].pairs)
    words = [rng.choice(pool) for _ in range(rng.choice((4, 5)))]
    return Example(" ".join(words), _related(values, _at(words, values["o"])))


_STEPS = {
    "first": lambda words: words[0],
    "last": lambda words: words[-1],
    "reverse": lambda words: " ".join(reversed(words)),
}


def _filter_step(keep: bool, step: str) -> Answer:
    def example(values: Values, rng: Random) -> Example:
        words = _mixed_list(values, rng, at_least=1 if keep else 0, spare=0 if keep else 1)
        left = [word for word in words if belongs(word, values["s"]) == keep]
        return Example(" ".join(words), _STEPS[step](left))

    return example


def _position_classify(values: Values, rng: Random) -> Example:
    words = [word_in(rng, values["s"]) for _ in range(rng.choice((4, 5)))]
    return Example(" ".join(words), CATEGORY_OF[_at(words, values["o"])])


# --- the families -----------------------------------------------------------------------------

_PHRASINGS: dict[str, dict[str, list[str]]] = read_yaml(Path(__file__).with_name("phrasings.yaml"), "the phrasings")


def _family(name: str, *variants: tuple[str, Draw, Answer], **more: Any) -> tuple[Variant, ...]:
    """The variants of a family, by what draws their parameters and their examples; `more` they have in common."""
    return tuple(Variant(own, tuple(_PHRASINGS[name][own]), *functions, **more) for own, *functions in variants)


def _draw_set(rng: Random) -> dict[str, tuple[str, ...]]:
    return {"s": draw_categories(rng, 1, 2)}


def _two_categories(rng: Random) -> dict[str, str]:
    return dict(zip("ab", rng.sample(tuple(CATEGORIES), 2), strict=True))


def _category_two_labels(rng: Random) -> dict[str, str]:
    return {"a": draw_category(rng)} | _two_labels(rng)


def _both_labels(values: Values) -> tuple[str, ...]:
    return values["la"], values["lb"]


_SET = {"sets": ("s",)}
_AMONG = _SET | {"labels": lambda values: values["s"]}
_SWAPPED = (("a", "la"), ("b", "lb"))
_STEPS_THEN = [(mode, step) for step in ("reverse", "first", "last") for mode in ("keep", "drop")]

FAMILIES: dict[str, tuple[Variant, ...]] = {
    "classify": _family("classify", ("among", lambda rng: {"s": draw_categories(rng, 3, 4)}, _classify), **_AMONG),
    "label": _family(
        "label",
        ("pair", lambda rng: _two_categories(rng) | _two_labels(rng), _label),
        swap=_SWAPPED,
        labels=_both_labels,
    ),
    "member": _family("member", ("is", _draw_set, _member), **_SET, labels=lambda values: ("yes", "no")),
    "relation": _family(
        "relation",
        ("plain", _draw_relation, _relation("{0}")),
        ("before", _draw_relation_label, _relation("{1} {0}")),
        ("after", _draw_relation_label, _relation("{0} {1}")),
    ),
    "conditional": (
        *_family("conditional", ("labels", _category_two_labels, _if_labels), labels=_both_labels),
        *_family(
            "conditional",
            ("else_repeat", lambda rng: {"a": draw_category(rng), "la": rng.choice(LABELS)}, _if_label_else_repeat),
            ("relation", _draw_relation_label, _if_relation_else_label),
        ),
    ),
    "pick": _family("pick", ("member", _draw_set, _pick), **_SET),
    "filter": _family("filter", ("keep", _draw_set, _filter(True)), ("drop", _draw_set, _filter(False)), **_SET),
    "replace": _family(
        "replace", ("with_label", lambda rng: _draw_set(rng) | {"la": rng.choice(LABELS)}, _replace), **_SET
    ),
    "count": _family("count", ("members", _draw_set, _count), **_SET, labels=lambda values: COUNTS),
    "position": _family(
        "position", ("ordinals", lambda rng: {"p": tuple(rng.sample(ORDINALS, rng.choice((1, 1, 2, 2, 3))))}, _position)
    ),
    "order": _family(
        "order",
        ("reverse", lambda rng: {}, _reverse),
        ("ascending", lambda rng: {}, lambda values, rng: _sorted_numbers(rng, descending=False)),
        ("descending", lambda rng: {}, lambda values, rng: _sorted_numbers(rng, descending=True)),
        ("group", _two_categories, _group),
    ),
    "contains": _family("contains", ("labels", _category_two_labels, _contains), labels=_both_labels),
    "pick_relation": _family(
        "pick_relation",
        ("found", _draw_relation, _related_in_list("{0}")),
        ("found_after", _draw_relation_label, _related_in_list("{0} {1}")),
        ("ordinal", lambda rng: _draw_relation(rng) | {"o": rng.choice(ORDINALS)}, _related_at),
    ),
    "filter_then": _family(
        "filter_then",
        *((f"{mode}_{step}", _draw_set, _filter_step(mode == "keep", step)) for mode, step in _STEPS_THEN),
        **_SET,
    ),
    "position_classify": _family(
        "position_classify",
        ("among", lambda rng: {"o": rng.choice(ORDINALS), "s": draw_categories(rng, 3, 3)}, _position_classify),
        **_AMONG,
    ),
}
"""The variants of every family, in a fixed order: drawing depends on it."""

UNSEEN_FAMILIES: tuple[str, ...] = ("contains", "pick_relation")
"""Never shown to the translator: they measure what it does with kinds of task it has not met."""
