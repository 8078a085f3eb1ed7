"""The task families of the lexical world.

Single words: classify, label, member, relation, conditional. Short lists: pick, filter, replace,
count, position, order, contains. Two steps: pick_relation, filter_then, position_classify.
"""

from random import Random

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

# --- single words -----------------------------------------------------------------------------


def _classify(values: Values, rng: Random) -> Example:
    word = word_in(rng, values["s"])
    return Example(word, CATEGORY_OF[word])


CLASSIFY = (
    Variant(
        "among",
        (
            "Say whether the word is {s:one_or}.",
            "Which is the word: {s:bare_or}?",
            "Classify the word as {s:bare_or}.",
            "Choose the kind of the word from {s:bare_or}.",
            "Tell me if the word is {s:one_or}.",
            "Name the category of the word, {s:bare_or}.",
        ),
        lambda rng: {"s": draw_categories(rng, 3, 4)},
        _classify,
        sets=("s",),
        labels=lambda values: values["s"],
    ),
)


def _two_labels(rng: Random) -> dict[str, str]:
    first, second = rng.sample(LABELS, 2)
    return {"la": first, "lb": second}


def _label(values: Values, rng: Random) -> Example:
    side = rng.choice("ab")
    return Example(word_in(rng, (values[side],)), values["l" + side])


CONTRAST = (
    Variant(
        "pair",
        (
            "Answer {la:label} for {a:one} and {lb:label} for {b:one}.",
            "Say {la:label} for {a:many} and {lb:label} for {b:many}.",
            "Label {a:many} as {la:label} and {b:many} as {lb:label}.",
            "Write {la:label} if you see {a:one} and {lb:label} if you see {b:one}.",
            "For {a:many} reply {la:label}, for {b:many} reply {lb:label}.",
            "Mark {a:many} with {la:label} and {b:many} with {lb:label}.",
        ),
        lambda rng: dict(zip("ab", rng.sample(tuple(CATEGORIES), 2), strict=True)) | _two_labels(rng),
        _label,
        swap=(("a", "la"), ("b", "lb")),
        labels=lambda values: (values["la"], values["lb"]),
    ),
)


def _member(values: Values, rng: Random) -> Example:
    inside = rng.random() < 0.5
    word = word_in(rng, values["s"]) if inside else word_outside(rng, values["s"])
    return Example(word, "yes" if inside else "no")


MEMBER = (
    Variant(
        "is",
        (
            "Is the word {s:one_or}? Answer yes or no.",
            "Answer yes if the word is {s:one_or}, else no.",
            "Say yes for {s:many_or} and no for anything else.",
            "Reply yes or no: is it {s:one_or}?",
            "Decide if the word is {s:one_or}, yes or no.",
            "Write yes for {s:one_or} and no for other words.",
        ),
        lambda rng: {"s": draw_categories(rng, 1, 2)},
        _member,
        sets=("s",),
        labels=lambda values: ("yes", "no"),
    ),
)


def _relation_word(values: Values, rng: Random) -> str:
    return rng.choice(tuple(RELATIONS[values["r"]].pairs))


def _related(values: Values, word: str) -> str:
    return RELATIONS[values["r"]].pairs[word]


def _relation(values: Values, rng: Random) -> Example:
    word = _relation_word(values, rng)
    return Example(word, _related(values, word))


def _relation_before(values: Values, rng: Random) -> Example:
    word = _relation_word(values, rng)
    return Example(word, f"{values['la']} {_related(values, word)}")


def _relation_after(values: Values, rng: Random) -> Example:
    word = _relation_word(values, rng)
    return Example(word, f"{_related(values, word)} {values['la']}")


def _draw_relation(rng: Random) -> dict[str, str]:
    return {"r": rng.choice(tuple(RELATIONS))}


def _draw_relation_label(rng: Random) -> dict[str, str]:
    return _draw_relation(rng) | {"la": rng.choice(LABELS)}


RELATION = (
    Variant(
        "plain",
        (
            "Give the {r:relation} of the word.",
            "Say the {r:relation} of the word.",
            "Write the {r:relation} of this word.",
            "What is the {r:relation} of the word?",
            "Name the {r:relation} of the word.",
            "Reply with the {r:relation} of the word.",
        ),
        _draw_relation,
        _relation,
    ),
    Variant(
        "before",
        (
            "Say {la:label} and then the {r:relation} of the word.",
            "Write {la:label}, then the {r:relation} of the word.",
            "First say {la:label}, then give the {r:relation} of the word.",
            "Give the {r:relation} of the word after {la:label}.",
            "Answer {la:label} followed by the {r:relation} of the word.",
            "Put {la:label} before the {r:relation} of the word.",
        ),
        _draw_relation_label,
        _relation_before,
    ),
    Variant(
        "after",
        (
            "Say the {r:relation} of the word and then {la:label}.",
            "Write the {r:relation} of the word, then {la:label}.",
            "First give the {r:relation} of the word, then say {la:label}.",
            "Give the {r:relation} of the word before {la:label}.",
            "Answer the {r:relation} of the word followed by {la:label}.",
            "Put {la:label} after the {r:relation} of the word.",
        ),
        _draw_relation_label,
        _relation_after,
    ),
)


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


CONDITIONAL = (
    Variant(
        "labels",
        (
            "If the word is {a:one} say {la:label}, otherwise say {lb:label}.",
            "Say {la:label} if the word is {a:one}, otherwise {lb:label}.",
            "Answer {la:label} for {a:many} and {lb:label} for anything else.",
            "Write {la:label} for {a:one} but {lb:label} for other words.",
            "When it is {a:one} reply {la:label}, else reply {lb:label}.",
            "For {a:many} say {la:label}, for the rest say {lb:label}.",
        ),
        lambda rng: {"a": draw_category(rng)} | _two_labels(rng),
        _if_labels,
        labels=lambda values: (values["la"], values["lb"]),
    ),
    Variant(
        "else_repeat",
        (
            "If the word is {a:one} say {la:label}, otherwise repeat the word.",
            "Say {la:label} if the word is {a:one}, otherwise copy the word.",
            "Answer {la:label} for {a:many} and repeat anything else.",
            "Write {la:label} for {a:one} but copy other words.",
            "When it is {a:one} reply {la:label}, else repeat it.",
            "For {a:many} say {la:label}, repeat the rest.",
        ),
        lambda rng: {"a": draw_category(rng), "la": rng.choice(LABELS)},
        _if_label_else_repeat,
    ),
    Variant(
        "relation",
        (
            "If the word has {r:a_relation} say it, otherwise say {la:label}.",
            "Give the {r:relation} of the word if there is one, otherwise {la:label}.",
            "Write the {r:relation} of the word or, without one, {la:label}.",
            "Say {la:label} unless the word has {r:a_relation}, then say that.",
            "Answer with the {r:relation} of the word, else with {la:label}.",
            "Reply the {r:relation} where there is one and {la:label} for other words.",
        ),
        _draw_relation_label,
        _if_relation_else_label,
    ),
)

# --- short lists ------------------------------------------------------------------------------


def _length(rng: Random) -> int:
    return rng.choice(LIST_LENGTHS)


def _draw_set(rng: Random) -> dict[str, tuple[str, ...]]:
    return {"s": draw_categories(rng, 1, 2)}


def _pick(values: Values, rng: Random) -> Example:
    words = word_list(rng, values["s"], 1, _length(rng))
    return Example(" ".join(words), next(word for word in words if belongs(word, values["s"])))


PICK = (
    Variant(
        "member",
        (
            "Pick the word that is {s:one_or}.",
            "Find {s:one_or} in the list.",
            "Which word is {s:one_or}?",
            "Say the one word that is {s:one_or}.",
            "Choose {s:one_or} from the list.",
            "Write the word in the list that is {s:one_or}.",
        ),
        _draw_set,
        _pick,
        sets=("s",),
    ),
)


def _mixed_list(values: Values, rng: Random, at_least: int = 0, spare: int = 0) -> list[str]:
    length = _length(rng)
    return word_list(rng, values["s"], rng.randint(at_least, length - spare), length)


def _keep(values: Values, rng: Random) -> Example:
    words = _mixed_list(values, rng)
    return Example(" ".join(words), joined([w for w in words if belongs(w, values["s"])]))


def _drop(values: Values, rng: Random) -> Example:
    words = _mixed_list(values, rng)
    return Example(" ".join(words), joined([w for w in words if not belongs(w, values["s"])]))


FILTER = (
    Variant(
        "keep",
        (
            "Keep only the {s:many_and}.",
            "List only the {s:many_and}.",
            "Repeat just the {s:many_and} of the list.",
            "Write down all {s:many_and} in the list.",
            "Leave nothing but the {s:many_and}.",
            "Copy the {s:many_and} and skip everything else.",
        ),
        _draw_set,
        _keep,
        sets=("s",),
    ),
    Variant(
        "drop",
        (
            "Remove the {s:many_and}.",
            "Drop all {s:many_and} from the list.",
            "Repeat the list without the {s:many_and}.",
            "Leave out the {s:many_and}.",
            "Write down everything but the {s:many_and}.",
            "Skip the {s:many_and} and copy everything else.",
        ),
        _draw_set,
        _drop,
        sets=("s",),
    ),
)


def _replace(values: Values, rng: Random) -> Example:
    words = _mixed_list(values, rng, at_least=1)
    return Example(" ".join(words), " ".join(values["la"] if belongs(w, values["s"]) else w for w in words))


REPLACE = (
    Variant(
        "with_label",
        (
            "Replace the {s:many_and} with {la:label}.",
            "Write {la:label} in place of the {s:many_and}.",
            "Change all {s:many_and} in the list to {la:label}.",
            "Copy the list with {la:label} for the {s:many_and}.",
            "Put {la:label} where there are {s:many_and}.",
            "Turn the {s:many_and} into {la:label}.",
        ),
        lambda rng: _draw_set(rng) | {"la": rng.choice(LABELS)},
        _replace,
        sets=("s",),
    ),
)


def _count(values: Values, rng: Random) -> Example:
    words = _mixed_list(values, rng)
    return Example(" ".join(words), COUNTS[sum(belongs(w, values["s"]) for w in words)])


COUNT = (
    Variant(
        "members",
        (
            "Count the {s:many_and}.",
            "How many {s:many_and} are in the list?",
            "Say how many {s:many_and} there are.",
            "Give the number of {s:many_and}.",
            "Write the number of {s:many_and} in the list.",
            "Tell me how many words are {s:many_or}.",
        ),
        _draw_set,
        _count,
        sets=("s",),
        labels=lambda values: COUNTS,
    ),
)


def _at(words: list[str], ordinal: str) -> str:
    return words[-1] if ordinal == "last" else words[ORDINALS.index(ordinal)]


def _any_list(rng: Random) -> list[str]:
    """Long enough for every ordinal."""
    return [any_word(rng) for _ in range(rng.choice((4, 5)))]


def _position(values: Values, rng: Random) -> Example:
    words = _any_list(rng)
    return Example(" ".join(words), " ".join(_at(words, ordinal) for ordinal in values["p"]))


POSITION = (
    Variant(
        "ordinals",
        (
            "Say the {p:ordinals} word.",
            "Give the {p:ordinals} word of the list.",
            "Write the {p:ordinals} word in the list.",
            "Repeat the {p:ordinals} word.",
            "Copy only the {p:ordinals} word.",
            "What is the {p:ordinals} word?",
        ),
        lambda rng: {"p": tuple(rng.sample(ORDINALS, rng.choice((1, 1, 2, 2, 3))))},
        _position,
    ),
)


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


ORDER = (
    Variant(
        "reverse",
        (
            "Reverse the list.",
            "Write the list backwards.",
            "Repeat the words in reverse order.",
            "Say the list from last to first.",
            "Turn the order of the words around.",
            "Copy the list in reverse.",
        ),
        lambda rng: {},
        _reverse,
    ),
    Variant(
        "ascending",
        (
            "Sort the numbers from small to large.",
            "Put the numbers in rising order.",
            "Order the numbers, smallest first.",
            "Write the numbers from the smallest to the largest.",
            "Arrange the numbers upwards.",
            "List the numbers in ascending order.",
        ),
        lambda rng: {},
        lambda values, rng: _sorted_numbers(rng, descending=False),
    ),
    Variant(
        "descending",
        (
            "Sort the numbers from large to small.",
            "Put the numbers in falling order.",
            "Order the numbers, largest first.",
            "Write the numbers from the largest to the smallest.",
            "Arrange the numbers downwards.",
            "List the numbers in descending order.",
        ),
        lambda rng: {},
        lambda values, rng: _sorted_numbers(rng, descending=True),
    ),
    Variant(
        "group",
        (
            "Put the {a:many} before the {b:many}.",
            "Write the {a:many} first and then the {b:many}.",
            "List the {a:many}, then the {b:many}.",
            "Sort the list so that {a:many} come before {b:many}.",
            "Move the {b:many} after the {a:many}.",
            "Order the words with {a:many} first and {b:many} last.",
        ),
        lambda rng: dict(zip("ab", rng.sample(tuple(CATEGORIES), 2), strict=True)),
        _group,
    ),
)


def _contains(values: Values, rng: Random) -> Example:
    length, inside = _length(rng), rng.random() < 0.5
    words = word_list(rng, (values["a"],), rng.choice((1, 1, 2)) if inside else 0, length)
    return Example(" ".join(words), values["la"] if inside else values["lb"])


CONTAINS = (
    Variant(
        "labels",
        (
            "If the list contains {a:one} say {la:label}, otherwise say {lb:label}.",
            "Say {la:label} if there is {a:one} in the list, otherwise {lb:label}.",
            "Answer {la:label} for a list with {a:one} and {lb:label} for other lists.",
            "When any word is {a:one} reply {la:label}, else reply {lb:label}.",
            "Write {la:label} if some word is {a:one}, otherwise {lb:label}.",
            "For a list without {a:many} say {lb:label}, else say {la:label}.",
        ),
        lambda rng: {"a": draw_category(rng)} | _two_labels(rng),
        _contains,
        labels=lambda values: (values["la"], values["lb"]),
    ),
)

# --- two steps --------------------------------------------------------------------------------


def _domain_list(values: Values, rng: Random) -> tuple[list[str], str]:
    domain = RELATIONS[values["r"]].domain
    words = word_list(rng, (domain,), 1, _length(rng))
    return words, next(word for word in words if CATEGORY_OF[word] == domain)


def _related_in_list(values: Values, rng: Random) -> Example:
    words, word = _domain_list(values, rng)
    return Example(" ".join(words), _related(values, word))


def _related_in_list_after(values: Values, rng: Random) -> Example:
    words, word = _domain_list(values, rng)
    return Example(" ".join(words), f"{_related(values, word)} {values['la']}")


def _related_at(values: Values, rng: Random) -> Example:
    pool = tuple(RELATIONS[values["r"]].pairs)
    words = [rng.choice(pool) for _ in range(rng.choice((4, 5)))]
    return Example(" ".join(words), _related(values, _at(words, values["o"])))


PICK_RELATION = (
    Variant(
        "found",
        (
            "Find the word in the list that has {r:a_relation} and give it.",
            "Give the {r:relation} of the one word in the list that has it.",
            "Pick the word with {r:a_relation} and say what it is.",
            "Say the {r:relation} of the right word in the list.",
            "Write the {r:relation} of the word in the list that fits.",
            "Search the list and name the {r:relation} that you find.",
        ),
        _draw_relation,
        _related_in_list,
    ),
    Variant(
        "found_after",
        (
            "Find the word in the list that has {r:a_relation} and give it, then say {la:label}.",
            "Give the {r:relation} of the one word in the list that has it, then {la:label}.",
            "Pick the word with {r:a_relation}, say what it is and then {la:label}.",
            "Say the {r:relation} of the right word in the list and then {la:label}.",
            "Write the {r:relation} of the word in the list that fits, then {la:label}.",
            "Search the list and name the {r:relation} that you find before {la:label}.",
        ),
        _draw_relation_label,
        _related_in_list_after,
    ),
    Variant(
        "ordinal",
        (
            "Give the {r:relation} of the {o:ordinal} word.",
            "Say the {r:relation} of the {o:ordinal} word in the list.",
            "Write the {r:relation} of the {o:ordinal} word.",
            "What is the {r:relation} of the {o:ordinal} word?",
            "Take the {o:ordinal} word and give its {r:relation}.",
            "Name the {r:relation} of the {o:ordinal} word of the list.",
        ),
        lambda rng: _draw_relation(rng) | {"o": rng.choice(ORDINALS)},
        _related_at,
    ),
)

_STEPS = {
    "first": lambda words: words[0],
    "last": lambda words: words[-1],
    "reverse": lambda words: " ".join(reversed(words)),
}


def _filter_step(keep: bool, step: str):
    def example(values: Values, rng: Random) -> Example:
        words = _mixed_list(values, rng, at_least=1 if keep else 0, spare=0 if keep else 1)
        left = [word for word in words if belongs(word, values["s"]) == keep]
        return Example(" ".join(words), _STEPS[step](left))

    return example


_STEP_PHRASINGS = {
    ("keep", "reverse"): (
        "Keep only the {s:many_and}, then reverse the list.",
        "List only the {s:many_and} in reverse.",
        "Write the {s:many_and} of the list backwards.",
        "Repeat just the {s:many_and}, from last to first.",
        "Copy the {s:many_and} in reverse order.",
        "Take the {s:many_and} and turn their order around.",
    ),
    ("drop", "reverse"): (
        "Remove the {s:many_and}, then reverse the list.",
        "Drop all {s:many_and} and list the rest in reverse.",
        "Write the list without the {s:many_and} backwards.",
        "Leave out the {s:many_and} and go from last to first.",
        "Copy everything but the {s:many_and} in reverse order.",
        "Skip the {s:many_and} and turn the order of the rest around.",
    ),
} | {
    (mode, end): phrasings
    for end in ("first", "last")
    for mode, phrasings in (
        (
            "keep",
            (
                f"Keep only the {{s:many_and}}, then say the {end} word.",
                f"Give the {end} of the {{s:many_and}}.",
                f"Write the {end} word that is {{s:one_or}}.",
                f"Among the {{s:many_and}} choose the {end} one.",
                f"Say the {end} word among the {{s:many_and}} of the list.",
                f"Find the {{s:many_and}} and name the {end} of them.",
            ),
        ),
        (
            "drop",
            (
                f"Remove the {{s:many_and}}, then say the {end} word.",
                f"Give the {end} word without the {{s:many_and}}.",
                f"Write the {end} word that is not {{s:one_or}}.",
                f"Leave out the {{s:many_and}} and choose the {end} one.",
                f"Say the {end} word of the list, without the {{s:many_and}}.",
                f"Skip the {{s:many_and}} and name the {end} of the rest.",
            ),
        ),
    )
}

FILTER_THEN = tuple(
    Variant(f"{mode}_{step}", phrasings, _draw_set, _filter_step(mode == "keep", step), sets=("s",))
    for (mode, step), phrasings in _STEP_PHRASINGS.items()
)


def _position_classify(values: Values, rng: Random) -> Example:
    words = [word_in(rng, values["s"]) for _ in range(rng.choice((4, 5)))]
    return Example(" ".join(words), CATEGORY_OF[_at(words, values["o"])])


POSITION_CLASSIFY = (
    Variant(
        "among",
        (
            "Say whether the {o:ordinal} word is {s:one_or}.",
            "Which is the {o:ordinal} word: {s:bare_or}?",
            "Classify the {o:ordinal} word as {s:bare_or}.",
            "Choose the kind of the {o:ordinal} word from {s:bare_or}.",
            "Tell me if the {o:ordinal} word is {s:one_or}.",
            "Name the category of the {o:ordinal} word, {s:bare_or}.",
        ),
        lambda rng: {"o": rng.choice(ORDINALS), "s": draw_categories(rng, 3, 3)},
        _position_classify,
        sets=("s",),
        labels=lambda values: values["s"],
    ),
)

FAMILIES: dict[str, tuple[Variant, ...]] = {
    "classify": CLASSIFY,
    "label": CONTRAST,
    "member": MEMBER,
    "relation": RELATION,
    "conditional": CONDITIONAL,
    "pick": PICK,
    "filter": FILTER,
    "replace": REPLACE,
    "count": COUNT,
    "position": POSITION,
    "order": ORDER,
    "contains": CONTAINS,
    "pick_relation": PICK_RELATION,
    "filter_then": FILTER_THEN,
    "position_classify": POSITION_CLASSIFY,
}

UNSEEN_FAMILIES: tuple[str, ...] = ("contains", "pick_relation")
"""Never shown to the translator: they measure what it does with kinds of task it has not met."""
