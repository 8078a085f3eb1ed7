"""How close a prompt's text comes to reference texts: n-grams, characters, embeddings, label words, the task itself."""

import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import cache
from itertools import combinations_with_replacement

import numpy as np
import torch
from jaxtyping import Float
from rouge_score.rouge_scorer import RougeScorer
from rouge_score.tokenizers import DefaultTokenizer
from sacrebleu import sentence_bleu, sentence_chrf

from soft2hard.data_gen.dods.lexical import parse, same_task
from soft2hard.errors import UserError
from soft2hard.eval.metrics.forward import run_texts
from soft2hard.lm.subject import BATCH_TOKENS, Subject

Encoder = Callable[[Sequence[str]], Float[np.ndarray, "n_texts width"]]
"""One vector a text."""


@dataclass(frozen=True)
class Rouge:
    """F1 of shared single words, word pairs, and the longest common subsequence (Lin 2004); 0 to 1."""

    rouge1: float
    rouge2: float
    rougeL: float


@dataclass(frozen=True)
class Overlap:
    """As sacrebleu counts them, with its default settings; 0 to 100."""

    bleu: float
    chrf: float
    """chrF2: character n-grams up to 6, recall counting twice."""


@cache
def _rouge_scorer() -> RougeScorer:
    return RougeScorer(["rouge1", "rouge2", "rougeL"], use_stemmer=True)


@cache
def _rouge_l_scorer() -> RougeScorer:
    tokenizer = DefaultTokenizer(use_stemmer=True)
    tokenizer.tokenize = cache(tokenizer.tokenize)  # stemming takes most of the time where texts come in many pairs
    return RougeScorer(["rougeL"], tokenizer=tokenizer)


def rouge_l_pairs(texts: Sequence[str]) -> Float[np.ndarray, "n n"]:
    """ROUGE-L F1 of every pair of texts, as `rouge` has it; equal texts are compared once."""
    distinct, places = np.unique(np.array(texts, dtype=object), return_inverse=True)
    scorer = _rouge_l_scorer()
    found = np.zeros((len(distinct), len(distinct)))
    for i, j in combinations_with_replacement(range(len(distinct)), 2):
        found[i, j] = found[j, i] = scorer.score(distinct[i], distinct[j])["rougeL"].fmeasure
    return found[places][:, places]


def rouge(text: str, references: Sequence[str]) -> Rouge:
    """ROUGE-1, ROUGE-2 and ROUGE-L F1 with Porter stemming; of several references, the best for each.

    Words are runs of letters a to z and digits, as in Lin's original: text of another script has none and scores 0.
    """
    scores = _rouge_scorer().score_multi(list(references), text)
    return Rouge(**{name: float(score.fmeasure) for name, score in scores.items()})


def overlap(text: str, references: Sequence[str]) -> Overlap:
    """Sentence BLEU and chrF of one text. BLEU is up to the longest n-gram order the text has, smoothed (exp)."""
    kept = list(references)
    return Overlap(sentence_bleu(text, kept).score, sentence_chrf(text, kept).score)


def class_rate(text: str, labels: Sequence[str]) -> float:
    """Share of a task's labels that the text mentions (InSPEcT, arXiv 2410.11660), whatever their case.

    A label is mentioned where its words stand in the text as whole words, one after another: 'no' is not in 'not'.
    Raises UserError where there are no labels.
    """
    if not labels:
        raise UserError(
            "A class rate needs label words, and the task has none.", "Ask for it only of tasks with labels."
        )
    return sum(_mentions(text, label) for label in labels) / len(labels)


def _mentions(text: str, label: str) -> bool:
    words = r"\s+".join(map(re.escape, label.split()))
    return bool(words) and re.search(rf"(?<!\w){words}(?!\w)", text, re.IGNORECASE) is not None


def exact_task(text: str, instruction: str) -> bool | None:
    """True if a text describes the very task of an instruction of the lexical DoD, in whatever phrasing.

    None where the instruction itself does not parse: its DoD has no grammar to tell tasks apart.
    """
    return same_task(text, instruction) if parse(instruction) is not None else None


def sentence_encoder(name_or_path: str = "sentence-transformers/all-MiniLM-L6-v2") -> Encoder:
    """A sentence-embedding model as a function of texts; any that the sentence-transformers library loads.

    Raises UserError where the library is not installed or the model is not available.
    """
    try:
        from sentence_transformers import SentenceTransformer
    except ImportError as error:
        raise UserError(
            "Sentence embeddings need the sentence-transformers library, which is not installed.",
            "Install it: pip install 'soft2hard[embeddings]'.",
        ) from error
    try:
        model = SentenceTransformer(name_or_path)
    except (OSError, ValueError) as error:
        raise UserError(
            f"The sentence-embedding model '{name_or_path}' cannot be loaded: {error}",
            "Give the folder of a saved model, or a model on the hub and a connection to it.",
        ) from error
    return lambda texts: np.asarray(model.encode(list(texts), show_progress_bar=False))


def embedding_cosines(texts: Sequence[str], references: Sequence[str], encoder: Encoder) -> list[float]:
    """Cosine similarity of each text's embedding to its reference's; -1 to 1."""
    both = torch.from_numpy(encoder([*texts, *references])).float()
    return torch.cosine_similarity(both[: len(texts)], both[len(texts) :]).tolist()


def subject_encoder(model: Subject, batch_tokens: int = BATCH_TOKENS, unread: bool = False) -> Encoder:
    """A causal language model as a function of texts: its last hidden state at a text's last token.

    Texts are read as `forward.run_texts` says. UserError is raised for one that it cannot read, or with `unread` it is
    all NaN.
    """

    def encode(texts: Sequence[str]) -> Float[np.ndarray, "n_texts width"]:
        found: dict[int, torch.Tensor] = {}
        for batch in run_texts(model, texts, batch_tokens):
            last = batch.mask.sum(1) - 1
            rows = batch.hidden[torch.arange(len(last), device=last.device), last].float().cpu()
            found |= dict(zip(batch.indices, rows, strict=True))
        missing = [text for i, text in enumerate(texts) if i not in found]
        if missing and not unread:
            raise UserError(
                f"{len(missing)} texts are empty or too long for '{model.name}', such as '{missing[0][:60]}'.",
                "Leave them out, and count them as failures.",
            )
        nothing = torch.full_like(next(iter(found.values()), torch.zeros(1)), torch.nan)
        return torch.stack([found.get(i, nothing) for i in range(len(texts))]).numpy()

    return encode
