"""Teachers for tests: functions from what a model is asked to what it answers, for `FaultServer`."""

import hashlib
import json
import re

_ONSETS, _VOWELS = "bdfgklmnprtvz", "aiou"


def word(seed: object) -> str:
    """A word that no other seed has, nor any language: it has no ending that a stemmer would cut."""
    digest = hashlib.sha256(repr(seed).encode()).digest()[:10]
    pairs = zip(digest[::2], digest[1::2], strict=True)
    return "".join(_ONSETS[a % len(_ONSETS)] + _VOWELS[b % len(_VOWELS)] for a, b in pairs) + "k"


def categories(text: str) -> list[dict]:
    """Ten categories that are others for every question."""
    return [
        {"category": f"kind of {word((text, i))}", "classes": [word((text, i, j)) for j in range(5)]} for i in range(10)
    ]


def sentences(text: str) -> list[str]:
    """As many sentences as are asked for, of seven words each."""
    n = int(re.search(r"Write (\d+)", text)[1])
    return [" ".join(word((text, i, k)) for k in range(7)) + "." for i in range(n)]


def paraphrases(text: str) -> list[str]:
    """As many paraphrases as are asked for, with the words that must stay and as long as asked for at least."""
    n, fewest = int(re.search(r"Write (\d+)", text)[1]), int(re.search(r"between (\d+)", text)[1])
    stay = re.search(r"stand here: (.*)\.", text)
    words = re.findall('"([^"]+)"', stay[1]) if stay else []
    return [" ".join([*words, *(word((text, i, k)) for k in range(max(2, fewest - len(words))))]) for i in range(n)]


def good(text: str) -> str:
    """A teacher that does as it is told, and puts words around its JSON as models like to."""
    for start, field, write in (
        ("Propose", "categories", categories),
        ("paraphrases", "paraphrases", paraphrases),
        ("sentences", "sentences", sentences),
    ):
        if start in text.split("\n")[0]:
            return f"Here you are:\n```json\n{json.dumps({field: write(text)})}\n```"
    raise AssertionError(f"asked for something else: {text}")
