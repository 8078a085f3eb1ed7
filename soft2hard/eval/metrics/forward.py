"""Model passes for metrics: many outputs under many prompts, and texts by themselves, in batches."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from soft2hard.compute import metering
from soft2hard.errors import UserError
from soft2hard.lm.batching import batches_by_length, pad, positions
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


@dataclass(frozen=True)
class TextBatch:
    """Texts that were run together."""

    indices: list[int]
    """Their numbers among the texts."""
    ids: Int[Tensor, "batch length"]
    """BOS if the model has one, then the text; padded on the right."""
    mask: Bool[Tensor, "batch length"]
    hidden: Float[Tensor, "batch length d_out"]


@torch.no_grad()
def run_texts(model: Subject, texts: Sequence[str], batch_tokens: int = BATCH_TOKENS) -> Iterator[TextBatch]:
    """Run bare texts, no template around them, through a causal language model.

    BOS stands before each where `model` begins its sequences with it (as its tokenizer does it, or as its template
    says), and nothing else. `batch_tokens` counts texts without it. Texts without a token to read, and texts longer
    than the context, come in no batch.

    Raises UserError for an encoder-decoder model.
    """
    if model.is_encoder_decoder:
        raise UserError(
            f"'{model.name}' reads and writes apart, so it gives a text no probability.",
            "Take a causal language model, such as GPT-2, as the reference.",
        )
    begin = [model.tokenizer.bos_token_id] if len(model.prompt_embeddings(None)) else []
    rows = [list(ids) for ids in model.tokenizer(list(texts), add_special_tokens=False)["input_ids"]] if texts else []
    limit = model.context_length
    usable = [i for i, row in enumerate(rows) if row and (limit is None or len(begin + row) <= limit)]
    for batch in batches_by_length([len(rows[i]) for i in usable], batch_tokens):
        indices = [usable[i] for i in batch]
        ids, mask = pad([begin + rows[i] for i in indices], "right", model.device)
        metering.count(len(indices), sum(len(begin + rows[i]) for i in indices))
        yield TextBatch(indices, ids, mask, model.backbone(model.embed_ids(ids), mask, positions(mask)))
