"""The common ground of searches for discrete prompts: writable tokens, budgets, groups of cases, the best prompt."""

import math
import time
from abc import ABC, abstractmethod
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field, replace
from functools import cached_property
from random import Random
from typing import Any, ClassVar, Generic, TypeVar

import torch
import torch.nn.functional as F
from jaxtyping import Float, Int
from more_itertools import chunked
from torch import Tensor
from transformers import PreTrainedTokenizerBase

from soft2hard.errors import UserError
from soft2hard.eval.methods.base import Bench, Case, Cost, Outcome
from soft2hard.eval.metrics.measurement import Comparison, measure
from soft2hard.eval.metrics.scrutability import log_perplexities, perplexities
from soft2hard.lm.batching import EncodedExample
from soft2hard.lm.clip import Clip
from soft2hard.lm.endings import special_ids
from soft2hard.lm.subject import Subject

_JUDGED_AT_ONCE = 4096  # tokens of a batch that the reference LM reads
_MEASURED_AT_ONCE = 64  # prompts of a curve
_LONGEST_PIECE = 8  # tokens as which one token of another vocabulary may be read


class Vocabulary:
    """The writable tokens of a subject, or of a CLIP's text side: all but special tokens and rows of the embedding
    table without a token."""

    def __init__(self, subject: Subject | Clip):
        self.subject = subject
        special = special_ids(subject.tokenizer)
        n_tokens = min(len(subject.tokenizer), len(subject.embedding))
        ordinary = [i for i in range(n_tokens) if i not in special]
        self.writable = torch.tensor(ordinary, dtype=torch.long, device=subject.device)
        """Token ids, ascending."""

    def random(self, n: int, rng: Random) -> list[int]:
        """`n` writable tokens, drawn independently."""
        return rng.choices(self.writable.tolist(), k=n)

    def text(self, ids: Sequence[int]) -> str:
        """The text of a prompt; the subject reads it as `ids` of this text."""
        return token_text(self.subject.tokenizer, ids)

    def ids(self, text: str) -> list[int]:
        """The tokens as which the subject reads a text: often, but not always, those it was made of."""
        if isinstance(self.subject, Subject):
            return self.subject.prompt_ids(text)
        return list(self.subject.tokenizer(text, add_special_tokens=False)["input_ids"])

    def nearest(self, vectors: Float[Tensor, "*n d_model"]) -> Int[Tensor, "*n"]:
        """The writable token whose embedding has the highest cosine with each vector.

        Cosine, as in the code published with arXiv 2302.03668 (a dot product of normalised vectors).
        """
        cosines = F.normalize(vectors.float(), dim=-1) @ self._directions.T
        return self.writable[cosines.argmax(dim=-1)]

    @cached_property
    def _directions(self) -> Float[Tensor, "n_writable d_model"]:
        return F.normalize(self.subject.embedding[self.writable].float(), dim=-1)

    def check_serves(self, model: Subject, role: str) -> None:
        """Raise UserError for a model that continues no text, or one whose tokens are not those of the subject."""
        check_continues(model, role)
        if self.subject.tokenizer.get_vocab() != model.tokenizer.get_vocab():
            raise UserError(
                f"The {role} '{model.name}' has another vocabulary than the subject '{self.subject.name}'.",
                f"Take a {role} with the subject's tokenizer, or the subject itself.",
            )

    def check_room(self, task: str, n_prompt: int, examples: Sequence[EncodedExample], longest: int = 1) -> None:
        """Raise UserError where the longest example of a task does not fit the context beside a prompt.

        A prompt has `n_prompt` tokens, each read by itself as `longest` at most. A text may be split into more tokens
        than it was made of, so one more is kept free for each.
        """
        subject, n_read = self.subject, max(example.n_read for example in examples)
        needed = len(subject.lead_embeddings("hard")) + (longest + 1) * n_prompt + n_read
        if subject.context_length is not None and needed > subject.context_length:
            raise UserError(
                f"An example of task '{task}' needs {needed} tokens with its prompt; the subject reads "
                f"{subject.context_length}.",
                "Shorten the example or the prompt, or use a subject with a longer context.",
            )


class Writing:
    """What a policy LM writes, in tokens of its own, for a model that reads the text in tokens of its own.

    With the reader's vocabulary it may write every writable token. With another, those whose text the reader reads as
    a few tokens: a row of sixty dashes would leave no room for examples.

    Raises UserError for a policy LM that does not continue texts, or cannot write all letters and digits of which the
    reader's tokens are made.
    """

    def __init__(self, policy: Subject, reader: PreTrainedTokenizerBase):
        check_continues(policy, "policy LM")
        self.tokenizer = policy.tokenizer
        self.tokens, self.longest = Vocabulary(policy).writable, 1
        """Token ids that may be written, and the most tokens as which one of them is read by itself."""
        if self.tokenizer.get_vocab() == reader.get_vocab():
            return
        texts = [self.text([i]) for i in self.tokens.tolist()]
        if missing := self._unwritable(_alphabet(reader) - set("".join(texts))):
            raise UserError(
                f"The policy LM '{policy.name}' cannot write {len(missing)} letters and digits of the vocabulary that "
                f"its prompts are read in, such as '{missing[0]}'.",
                "Take one that writes every byte, such as OPT or GPT-2, or one with the vocabulary of the reader.",
            )
        sizes = torch.tensor([len(ids) for ids in reader(texts, add_special_tokens=False)["input_ids"]])
        short = sizes <= _LONGEST_PIECE
        self.tokens, self.longest = self.tokens[short.to(policy.device)], max(1, int(sizes[short].max()))

    def text(self, ids: Sequence[int]) -> str:
        """The text of tokens that were written."""
        return token_text(self.tokenizer, ids)

    def _unwritable(self, characters: set[str]) -> list[str]:
        """Of characters that stand in no token, those that it cannot spell either, in bytes for instance."""
        asked = sorted(characters)
        rows = self.tokenizer(asked, add_special_tokens=False)["input_ids"] if asked else []
        return [character for character, ids in zip(asked, rows, strict=True) if character not in self.text(ids)]


def token_text(tokenizer: PreTrainedTokenizerBase, ids: Sequence[int]) -> str:
    """The text of tokens, special ones left out."""
    return tokenizer.decode(list(ids), skip_special_tokens=True, clean_up_tokenization_spaces=False)


def _alphabet(tokenizer: PreTrainedTokenizerBase) -> set[str]:
    """Letters and digits that stand in a tokenizer's tokens."""
    texts = (token_text(tokenizer, [i]) for i in range(len(tokenizer)))
    return {character for text in texts for character in text if character.isalnum()}


def check_continues(model: Subject, role: str) -> None:
    """Raise UserError for a model that does not continue a text: an encoder-decoder, a masked language model."""
    if not model.continues_text:
        raise UserError(f"The {role} '{model.name}' is {model.family}.", "Take a causal language model.")


def perplexity_terms(reference: Subject, texts: Sequence[str]) -> list[float]:
    """Log-perplexity of each text, nats a token; 0 where there is no token to predict."""
    return [value or 0.0 for value in log_perplexities(reference, texts, _JUDGED_AT_ONCE)]


def perplexity_charges(reference: Subject, texts: Sequence[str]) -> list[float]:
    """Perplexity of each text as rewards are charged for it: at most the size of the vocabulary, that of a uniform
    guess, lest the worst prompts decide the z-scores alone."""
    n = float(len(reference.embedding))
    return [min(math.exp(min(value, 80.0)), n) for value in perplexity_terms(reference, texts)]


@dataclass
class Meter:
    """Counts what a case costs, and says when its budget is spent."""

    max_calls: int | None
    calls: int = 0
    tokens: int = 0

    def add(self, calls: int, tokens: int) -> None:
        """Count sequences and their tokens."""
        self.calls += calls
        self.tokens += tokens

    def count(self, n_prompt: int, examples: Sequence[EncodedExample]) -> None:
        """Count examples that were run under a prompt of so many tokens, which was computed once."""
        self.add(len(examples), n_prompt + sum(example.n_read for example in examples))

    def affords(self, calls: int) -> bool:
        """True if so many more sequences are within the budget."""
        return self.max_calls is None or self.calls + calls <= self.max_calls


@dataclass(eq=False, kw_only=True)
class SearchJob:
    """A case while it is searched for."""

    case: Case
    meter: Meter
    best: list[dict[str, Any]] = field(default_factory=list)
    """Each improvement: step, score and prompt."""
    curve: list[dict[str, Any]] = field(default_factory=list)
    """Figures of the steps that were looked at, each with its `prompt`; `follow` adds score and perplexity."""

    def offer(self, step: int, text: str, score: float) -> None:
        """Take note of a prompt; of equal ones the first stays."""
        if score > (self.best[-1]["score"] if self.best else -math.inf):
            self.best.append({"step": step, "score": score, "prompt": text})

    def outcome(self, seconds: float) -> Outcome:
        """The best prompt, after a search that took `seconds` of the time it shared."""
        cost, trace = Cost(seconds, self.meter.calls, self.meter.tokens), {"curve": self.curve, "best": self.best}
        if not self.best:
            return Outcome(None, cost, trace, "no prompt had a score that is a number")
        return Outcome(self.best[-1]["prompt"], cost, trace)


Job = TypeVar("Job", bound=SearchJob)


def follow(jobs: Sequence[SearchJob], subject: Subject, reference: Subject | None) -> None:
    """Put into each point of the jobs' curves how its prompt does: its `score` by the task's metric on the validation
    examples, and its `perplexity` under the reference LM, if there is one.

    What this takes is no cost of the search, which never sees these figures. They are left out where a prompt has none,
    perplexities also where the reference is no causal language model.
    """
    texts = [list(dict.fromkeys(point["prompt"] for point in job.curve)) for job in jobs]
    wanted = [(i, chunk) for i, of_job in enumerate(texts) for chunk in chunked(of_job, _MEASURED_AT_ONCE)]
    examined = [replace(job.case.task, test=job.case.task.validation) for job in jobs]
    comparisons = [Comparison(examined[i], tuple(chunk)) for i, chunk in wanted]
    found: dict[tuple[int, str], dict[str, float]] = {}
    for (i, chunk), measured in zip(wanted, measure(subject, comparisons), strict=True):
        found |= {(i, text): {"score": one.score} for text, one in zip(chunk, measured, strict=True) if one}
    distinct = sorted({text for of_job in texts for text in of_job})
    judges = reference is not None and reference.continues_text
    natural = dict(zip(distinct, perplexities(reference, distinct), strict=True)) if judges else {}
    for i, job in enumerate(jobs):
        for point in job.curve:
            point |= found.get((i, point["prompt"]), {})
            if (value := natural.get(point["prompt"])) is not None:
                point["perplexity"] = value


class Search(ABC, Generic[Job]):
    """Searches cases in groups; batches are shared, and nothing else. Those that cannot be searched leave the others
    alone."""

    def __init__(self, method: Any, bench: Bench) -> None:
        self.method, self.bench, self.subject = method, bench, bench.fast_subject
        self.vocabulary = Vocabulary(self.subject)
        self.deadline = math.inf

    @abstractmethod
    def prepare(self, case: Case) -> Job:
        """Raise UserError where a case cannot be searched."""

    @abstractmethod
    def search(self, jobs: list[Job]) -> None:
        """Offer prompts to all jobs until their steps, calls or the time are over."""

    @property
    def is_over(self) -> bool:
        """True if the time of the present group is over."""
        return time.monotonic() >= self.deadline

    def run(self, cases: Sequence[Case]) -> Iterator[Outcome]:
        """One outcome a case, in order; each group has its share of the seconds that are left, and so each case."""
        begun, size = time.monotonic(), self.method.slots
        for start in range(0, len(cases), size):
            group, now = cases[start : start + size], time.monotonic()
            left = math.inf if self.bench.max_seconds is None else max(0.0, begun + self.bench.max_seconds - now)
            self.deadline = now + left * len(group) / (len(cases) - start)
            attempts = [self._attempt(case) for case in group]
            if jobs := [job for job in attempts if not isinstance(job, UserError)]:
                self.search(jobs)
            seconds = (time.monotonic() - now) / len(group)
            if jobs:
                searched = time.monotonic()
                follow(jobs, self.subject, self.bench.reference)
                begun += time.monotonic() - searched  # no search pays for what readers alone see
            for job in attempts:
                yield Outcome(None, failure=str(job)) if isinstance(job, UserError) else job.outcome(seconds)

    def _attempt(self, case: Case) -> Job | UserError:
        try:
            return self.prepare(case)
        except UserError as error:
            return error


class Searching:
    """A method that is a search."""

    searches: ClassVar[type[Search]]

    def check(self, bench: Bench) -> None:
        """Raise UserError where a language model cannot serve: none, another vocabulary, an encoder-decoder model."""
        self.searches(self, bench)

    def run(self, cases: Sequence[Case], bench: Bench) -> Iterator[Outcome]:
        """One text a case; the trace holds figures by step and every improvement.

        Raises UserError as `check` does, before anything runs.
        """
        return self.searches(self, bench).run(cases)
