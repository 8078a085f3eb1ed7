"""Texts without what makes no difference: to tell copies from news, and to find a name in a sentence."""

import re
import unicodedata
from functools import cache, lru_cache

_APOSTROPHES = str.maketrans("", "", "'’")


@lru_cache(maxsize=1 << 16)
def normal_form(text: str) -> str:
    """The stems of a text's words in small letters, without punctuation and articles; empty where there is no word.

    Two texts of one normal form are copies of each other. Stems are Porter's (1980), as nltk has them, so that "Dogs"
    and "dog", "skiing" and "skis" are alike.
    """
    plain = unicodedata.normalize("NFKC", text).casefold().translate(_APOSTROPHES)
    words = re.findall(r"[^\W_]+", plain)
    return " ".join(_stem(word) for word in words if word not in ("a", "an", "the"))


def names(text: str, phrase: str) -> bool:
    """Whether a text has a phrase in it: the stems of its words, side by side."""
    wanted = normal_form(phrase)
    return bool(wanted) and f" {wanted} " in f" {normal_form(text)} "


@cache
def _stem(word: str) -> str:
    return _stemmer().stem(word)


@cache
def _stemmer():
    from nltk.stem.porter import PorterStemmer

    return PorterStemmer()
