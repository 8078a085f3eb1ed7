"""Nearest token: each vector of a soft prompt read as the vocabulary's token whose embedding lies closest to it."""

import time
from collections.abc import Iterator, Sequence
from dataclasses import replace
from difflib import SequenceMatcher

import torch
import torch.nn.functional as F
from jaxtyping import Float, Int
from torch import Tensor
from transformers import PreTrainedTokenizerBase

from soft2hard.errors import UserError
from soft2hard.eval.methods.base import Bench, Case, Cost, Outcome
from soft2hard.eval.methods.options import NearestTokenOptions
from soft2hard.lm.subject import Subject

_ENTRIES_AT_ONCE = 2**28  # of the matrix of virtual tokens and vocabulary: 1 GB in float32


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


def nearest_rows(
    prompts: Sequence[Float[Tensor, "_n d_model"]],
    table: Float[Tensor, "n_rows d_model"],
    k: int,
    distance: str = "cosine",
) -> list[tuple[Int[Tensor, "_n k"], Float[Tensor, "_n k"]]]:
    """Numbers of the `k` rows of a table that lie nearest to each vector, nearest first, and their distances.

    Everything is compared in float32 where the table is, in one product cut to a bounded size; results are on the CPU.
    """
    table = table.float()
    vectors = torch.cat(list(prompts)).to(table)
    rows, found = [], []
    for part in vectors.split(max(1, _ENTRIES_AT_ONCE // len(table))):
        nearest = _distances(part, table, distance).topk(k, dim=1, largest=False)
        rows.append(nearest.indices.cpu())
        found.append(nearest.values.cpu())
    sizes = [len(prompt) for prompt in prompts]
    return list(zip(torch.cat(rows).split(sizes), torch.cat(found).split(sizes), strict=True))


def _distances(
    rows: Float[Tensor, "n d_model"], table: Float[Tensor, "m d_model"], distance: str
) -> Float[Tensor, "n m"]:
    if distance == "cosine":
        return 1 - F.normalize(rows, dim=1) @ F.normalize(table, dim=1).T
    squares = rows.square().sum(1)[:, None] + table.square().sum(1)[None]
    return (squares - 2 * rows @ table.T).clamp(min=0).sqrt()


def allowed_ids(tokenizer: PreTrainedTokenizerBase, n_rows: int, vocabulary: str) -> list[int]:
    """Tokens that count, of an embedding table of so many rows.

    A token's text is readable if it is no white space, control character or part of a character.
    """
    ids = range(n_rows)
    if vocabulary == "all":
        return list(ids)
    special = set(tokenizer.all_special_ids)
    if vocabulary == "not_special":
        return [i for i in ids if i not in special]
    named = [i for i in ids if i < len(tokenizer) and i not in special]
    texts = tokenizer.batch_decode([[i] for i in named], clean_up_tokenization_spaces=False)
    readable = [bool(text.strip()) and text.isprintable() and "\ufffd" not in text for text in texts]
    return [i for i, is_text in zip(named, readable, strict=True) if is_text]


def as_text(tokenizer: PreTrainedTokenizerBase, ids: Sequence[int]) -> tuple[str, bool]:
    """The text of some tokens that is tokenised most nearly into these tokens again; True if into these exactly.

    Tokenizers clean up and drop spaces in different ways when they decode, so several joints are tried.
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
        again = tokenizer(text, add_special_tokens=False)["input_ids"] if text else []
        return 1.0 if again == wanted else SequenceMatcher(None, wanted, again, autojunk=False).ratio() - 1e-9

    best = max(dict.fromkeys(texts), key=closeness)  # the first of equals
    return best, closeness(best) == 1.0


def _outcome(subject: Subject, ids: Int[Tensor, "n k"], distances: Float[Tensor, "n k"]) -> Outcome:
    text, exact = as_text(subject.tokenizer, ids[:, 0].tolist())
    distinct = ids.unique().tolist()
    tokens = dict(zip(distinct, subject.tokenizer.convert_ids_to_tokens(distinct), strict=True))
    nearest = [
        [[tokens[i] or f"<{i}>", round(distance, 4)] for i, distance in zip(*row, strict=True)]
        for row in zip(ids.tolist(), distances.tolist(), strict=True)
    ]
    failure = None if text.strip() else "the nearest tokens have no text"
    return Outcome(None if failure else text, trace={"round_trips": exact, "nearest": nearest}, failure=failure)
