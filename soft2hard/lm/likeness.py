"""How like texts are in words: ROUGE, as the rouge-score package has it."""

from collections.abc import Sequence
from functools import cache
from itertools import combinations_with_replacement

import numpy as np
from jaxtyping import Float
from rouge_score.rouge_scorer import RougeScorer
from rouge_score.tokenizers import DefaultTokenizer


@cache
def rouge_scorer(*kinds: str) -> RougeScorer:
    """A scorer with Porter stemming that remembers the words of texts."""
    tokenizer = DefaultTokenizer(use_stemmer=True)
    tokenizer.tokenize = cache(tokenizer.tokenize)  # stemming takes most of the time where texts come in many pairs
    return RougeScorer(list(kinds), tokenizer=tokenizer)


def rouge_l_pairs(texts: Sequence[str]) -> Float[np.ndarray, "n n"]:
    """ROUGE-L F1 of every pair of texts (Lin 2004); equal texts are compared once."""
    distinct, places = np.unique(np.array(texts, dtype=object), return_inverse=True)
    scorer = rouge_scorer("rougeL")
    found = np.zeros((len(distinct), len(distinct)))
    for i, j in combinations_with_replacement(range(len(distinct)), 2):
        found[i, j] = found[j, i] = scorer.score(distinct[i], distinct[j])["rougeL"].fmeasure
    return found[places][:, places]
