"""Model passes for metrics: many outputs under many prompts, in batches."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import torch
from jaxtyping import Float
from torch import Tensor

from soft2hard.lm.batching import batches_by_length
from soft2hard.lm.sequences import has_prompt
from soft2hard.lm.shared_prefix import EncodedExample, Runner, SharedPrefixRunner
from soft2hard.lm.subject import BATCH_TOKENS, Subject
from soft2hard.prompts.soft_prompt import Prompt

_EXAMPLE_TOKENS = 512
"""Tokens of examples that share one row with their prompt: attention costs the square of a row's length."""


@dataclass(frozen=True)
class Pair:
    """An input and an output to be scored after it."""

    input: str
    output: tuple[int, ...]
    """Token ids, EOS included unless the output was cut before it."""


@dataclass(frozen=True)
class Job:
    """Pairs to run under one prompt."""

    prompt: Prompt
    pairs: tuple[Pair, ...]


class PairEncoder:
    """Token ids of pairs as they stand after a prompt; a body that several jobs share is tokenised once."""

    def __init__(self, subject: Subject):
        self.subject = subject
        self._bodies: dict[tuple[str, bool], list[int]] = {}

    def output(self, text: str) -> tuple[int, ...]:
        """An output's tokens, EOS included."""
        return tuple(self.subject.encode_output(text))

    def examples(self, job: Job) -> list[EncodedExample]:
        """The pairs of a job as the runner takes them."""
        with_prompt = has_prompt(job.prompt)
        return [EncodedExample(self._body(pair.input, with_prompt), list(pair.output)) for pair in job.pairs]

    def fits(self, job: Job, n_new: int = 0) -> bool:
        """True if the context has room for the longest pair of a job, and for `n_new` tokens written to its input."""
        limit = self.subject.context_length
        if limit is None:
            return True
        before = len(self.subject.prompt_embeddings(job.prompt))
        read = [(before + len(e.body), max(len(e.output), n_new)) for e in self.examples(job)]
        if self.subject.is_encoder_decoder:
            return max(map(max, read)) <= limit
        return max(map(sum, read)) <= limit

    def _body(self, input: str, with_prompt: bool) -> list[int]:
        key = (input, with_prompt)
        if key not in self._bodies:
            self._bodies[key] = self.subject.encode_body(input, with_prompt)
        return self._bodies[key]


@torch.no_grad()
def target_hidden(
    runner: Runner, jobs: Sequence[Job], encoder: PairEncoder, batch_tokens: int = BATCH_TOKENS
) -> list[Float[Tensor, "_n_targets d_out"]]:
    """For each job the hidden states that predict its outputs' tokens, pair after pair; the head makes them logits.

    Rows of all jobs share batches. Every job must fit the context (`PairEncoder.fits`).
    """
    prompts = [runner.subject.prompt_embeddings(job.prompt) for job in jobs]
    rows: list[tuple[int, list[EncodedExample]]] = []
    for number, job in enumerate(jobs):
        rows += [(number, part) for part in _rows(encoder.examples(job), isinstance(runner, SharedPrefixRunner))]
    lengths = [len(prompts[number]) + sum(e.n_read for e in part) for number, part in rows]
    found: list[Tensor | None] = [None] * len(rows)
    for batch in batches_by_length(lengths, batch_tokens):
        targets = runner.run([prompts[rows[i][0]] for i in batch], [rows[i][1] for i in batch])
        sizes = torch.bincount(targets.prompt, minlength=len(batch)).tolist()
        for i, hidden in zip(batch, targets.hidden.split(sizes), strict=True):
            found[i] = hidden
    of_job: list[list[Tensor]] = [[] for _ in jobs]
    for (number, _), hidden in zip(rows, found, strict=True):
        of_job[number].append(hidden)
    return [torch.cat(parts) for parts in of_job]


def _rows(examples: Sequence[EncodedExample], shared: bool) -> Iterator[list[EncodedExample]]:
    """Examples in order, as many a row as may share one."""
    row: list[EncodedExample] = []
    for example in examples:
        if row and (not shared or sum(e.n_read for e in row) + example.n_read > _EXAMPLE_TOKENS):
            yield row
            row = []
        row.append(example)
    if row:
        yield row
