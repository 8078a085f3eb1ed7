"""Nearest token: each vector of a soft prompt read as the vocabulary's token whose embedding lies closest to it."""

import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import replace
from difflib import SequenceMatcher

import torch
from jaxtyping import Float, Int
from torch import Tensor
from transformers import PreTrainedTokenizerBase

from soft2hard.errors import UserError
from soft2hard.eval.methods.base import Bench, Case, Cost, Outcome
from soft2hard.eval.methods.options import NearestTokenOptions
from soft2hard.lm.endings import special_ids
from soft2hard.lm.nearest import nearest_rows
from soft2hard.lm.subject import Subject


class NearestToken(NearestTokenOptions):
    """Virtual tokens of all cases are compared with the vocabulary in one matrix product."""

    def run(self, cases: Sequence[Case], bench: Bench) -> Iterator[Outcome]:
        """One text a case; the trace holds `nearest`, for each position its tokens with their distances, nearest
        first, and whether the text `round_trips`: is tokenised into the very tokens it was made of."""
        started = time.monotonic()
        subject = bench.subject
        problems = [case.soft_prompt_problem(subject) for case in cases]
        readable = [c.soft_prompt.embeddings for c, problem in zip(cases, problems, strict=True) if not problem]
        found = iter(self.neighbours(subject, readable))
        outcomes = [Outcome(None, failure=p) if p else _outcome(subject, *next(found)) for p in problems]
        cost = Cost((time.monotonic() - started) / max(1, len(cases)))
        yield from (replace(outcome, cost=cost) for outcome in outcomes)

    @torch.no_grad()
    def neighbours(
        self, subject: Subject, prompts: Sequence[Float[Tensor, "_n d_model"]]
    ) -> list[tuple[Int[Tensor, "_n k"], Float[Tensor, "_n k"]]]:
        """Ids of each virtual token's nearest tokens, nearest first, and their distances.

        Cosine distance is 1 - cosine; a vector without length is at distance 1 from all. Raises UserError where the
        vocabulary has fewer tokens that count than `top_k`.
        """
        if not prompts:
            return []
        counting = allowed_ids(subject.tokenizer, len(subject.embedding), self.vocabulary)
        allowed = torch.tensor(counting, device=subject.device)
        if len(allowed) < self.top_k:
            raise UserError(f"{self.name}: top_k is {self.top_k}; only {len(allowed)} tokens count.", "Ask for fewer.")
        found = nearest_rows(prompts, subject.embedding[allowed], self.top_k, self.distance)
        return [(allowed[rows.to(allowed.device)].cpu(), distances) for rows, distances in found]


def allowed_ids(tokenizer: PreTrainedTokenizerBase, n_rows: int, vocabulary: str) -> list[int]:
    """Tokens that count, of an embedding table of so many rows.

    A token's text is readable if it is no white space, control character or part of a character.
    """
    ids = range(n_rows)
    if vocabulary == "all":
        return list(ids)
    special = special_ids(tokenizer)
    if vocabulary == "not_special":
        return [i for i in ids if i not in special]
    named = [i for i in ids if i < len(tokenizer) and i not in special]
    texts = tokenizer.batch_decode([[i] for i in named], clean_up_tokenization_spaces=False)
    readable = [bool(text.strip()) and text.isprintable() and "\ufffd" not in text for text in texts]
    return [i for i, is_text in zip(named, readable, strict=True) if is_text]


def as_text(
    tokenizer: PreTrainedTokenizerBase, ids: Sequence[int], read: Callable[[str], list[int]] | None = None
) -> tuple[str, bool]:
    """The text of some tokens that is tokenised most nearly into these tokens again; True if into these exactly.

    `read` says how a text is tokenised; None: by itself. Tokenizers clean up and drop spaces in different ways when
    they decode, so several joints are tried.
    """
    wanted = list(ids)
    single = [tokenizer.decode([i], clean_up_tokenization_spaces=False) for i in wanted]
    texts = [
        tokenizer.decode(wanted),
        tokenizer.decode(wanted, clean_up_tokenization_spaces=False),
        "".join(single),
        " ".join(single),
    ]

    def closeness(text: str) -> float:
        again = (read(text) if read else tokenizer(text, add_special_tokens=False)["input_ids"]) if text else []
        return 1.0 if again == wanted else SequenceMatcher(None, wanted, again, autojunk=False).ratio() - 1e-9

    best = max(dict.fromkeys(texts), key=closeness)  # the first of equals
    return best, closeness(best) == 1.0


def _outcome(subject: Subject, ids: Int[Tensor, "n k"], distances: Float[Tensor, "n k"]) -> Outcome:
    text, exact = as_text(subject.tokenizer, ids[:, 0].tolist(), subject.prompt_ids)
    distinct = ids.unique().tolist()
    tokens = dict(zip(distinct, subject.tokenizer.convert_ids_to_tokens(distinct), strict=True))
    nearest = [
        [[tokens[i] or f"<{i}>", round(distance, 4)] for i, distance in zip(*row, strict=True)]
        for row in zip(ids.tolist(), distances.tolist(), strict=True)
    ]
    failure = None if text.strip() else "the nearest tokens have no text"
    return Outcome(None if failure else text, trace={"round_trips": exact, "nearest": nearest}, failure=failure)
