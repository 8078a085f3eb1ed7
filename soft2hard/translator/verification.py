"""Does a hard prompt act like the soft prompt? Run both on the same inputs and compare.

For each probe input the subject first writes its own output under the soft prompt. Then, at every
position of that output, its next-token distribution under the soft prompt is set against the one under
each candidate. `agreement` is the share of probe inputs for which the candidate's greedy output would be
the soft prompt's, `divergence` the mean Kullback-Leibler divergence KL(soft || candidate) in nats a
position (the output differential of arXiv 2504.02144, section 4, on distributions).
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Literal, NamedTuple

import torch
from jaxtyping import Float, Int
from torch import Tensor

from soft2hard.compute.memory import Halving
from soft2hard.lm.batching import EncodedExample
from soft2hard.lm.sequences import Query
from soft2hard.lm.subject import Subject
from soft2hard.prompts.soft_prompt import SoftPrompt
from soft2hard.prompts.template import Kind

Verdict = Literal["faithful", "doubtful", "failed", "unverified"]
Ending = Literal["learned", "none"]
"""Whether outputs end under a soft prompt, within the tokens that they may have."""

FAITHFUL_FROM, DOUBTFUL_FROM = 0.9, 0.5
MAX_DIVERGENCE = 10.0
"""Cap on one position's divergence, in nats: one confident miss must not outweigh everything else."""
_SHARED = 1.5
"""Tokens in a batch here for each token in a batch of separate queries: examples share their prompt."""
_REMEDY = "Load the subject with --dtype bfloat16 or --quantization 4bit, or verify on fewer inputs (--probes)."


@dataclass(frozen=True)
class Probes:
    """Inputs with what the soft prompt makes of them."""

    inputs: tuple[str, ...]
    outputs: tuple[str, ...]
    """The subject's output for each input under the soft prompt, up to its ending."""
    ids: tuple[tuple[int, ...], ...]
    """Its tokens, as they were written, with the end where there is one."""
    ended: tuple[bool, ...]
    """False where an output was cut, because it was too long or because the soft prompt never learned to end: then
    its end is compared with nothing."""
    log_probs: Float[Tensor, "n_targets vocab"]
    """Its next-token log-probabilities at all output positions, probe after probe."""
    likeliest: Int[Tensor, "n_targets"]
    """The most likely token there: the output's own, but for rounding and where a token was cut."""

    @property
    def ending(self) -> Ending:
        """How outputs end under the soft prompt."""
        return "none" if sum(self.ended) < len(self.ended) / 2 else "learned"


@dataclass(frozen=True)
class Candidate:
    """A hard prompt and how closely it follows the soft prompt."""

    text: str
    agreement: float
    divergence: float
    n_positions: int
    """Output positions that the divergence is the mean of."""
    log_prob: float = 0.0
    """log p(text | soft prompt) under the translator, nats; 0 for all where none was asked."""

    @property
    def rank(self) -> float:
        """Sorts the likeliest candidate first: minus the log-posterior, the summed divergence less `log_prob`."""
        return self.divergence * self.n_positions - self.log_prob


def verdict_of(agreement: float) -> Verdict:
    """'faithful' from 90 % agreement, 'doubtful' from 50 %, else 'failed'."""
    if agreement >= FAITHFUL_FROM:
        return "faithful"
    return "doubtful" if agreement >= DOUBTFUL_FROM else "failed"


class Verifier:
    """Runs candidates beside soft prompts on one subject."""

    def __init__(self, subject: Subject, max_new_tokens: int = 16):
        self.subject, self.max_new_tokens = subject, max_new_tokens
        self._halving = Halving(_REMEDY)

    def probe(self, soft_prompts: Sequence[SoftPrompt], inputs: Sequence[Sequence[str]]) -> list[Probes]:
        """The outputs that each soft prompt gives its inputs, with their distributions, all in shared batches."""
        queries = [
            Query(soft_prompt, input)
            for soft_prompt, of_prompt in zip(soft_prompts, inputs, strict=True)
            for input in of_prompt
        ]
        rows = iter(self.subject.generate_ids(queries, max_new_tokens=self.max_new_tokens))
        written = [self._outputs([next(rows) for _ in of_prompt]) for of_prompt in inputs]
        examples = [self._examples(some, [o.ids for o in of], "soft") for some, of in zip(inputs, written, strict=True)]
        embedded = [self.subject.prompt_embeddings(soft_prompt) for soft_prompt in soft_prompts]
        found: dict[int, Probes] = {}
        for i, log_probs, likeliest in self._log_probs(embedded, examples):
            texts, ids, ended = zip(*written[i], strict=True) if written[i] else ((), (), ())
            found[i] = Probes(tuple(inputs[i]), texts, ids, ended, log_probs, likeliest)
        return [found[i] for i in range(len(soft_prompts))]

    def verify(self, candidates: Sequence[str], probes: Probes) -> list[Candidate]:
        """Agreement and divergence of each candidate, in the order given.

        A candidate too long for the subject's context is left out.
        """
        examples = self._examples(probes.inputs, probes.ids, "hard")
        longest = max(example.n_read for example in examples)
        embedded = [(text, self.subject.prompt_embeddings(text)) for text in candidates]
        fitting = [(text, rows) for text, rows in embedded if self._fits(rows, longest)]
        of_token = _probe_of_token(examples).to(probes.log_probs.device)
        scored: dict[int, Candidate] = {}
        of_soft = probes.log_probs.exp()
        entropy = -torch.linalg.vecdot(of_soft, probes.log_probs)
        for i, log_probs, likeliest in self._log_probs([rows for _, rows in fitting], [examples] * len(fitting)):
            divergence = (-entropy - torch.linalg.vecdot(of_soft, log_probs)).clamp(0, MAX_DIVERGENCE)
            missing = (probes.likeliest != likeliest).float()
            missed = torch.zeros(len(examples), device=likeliest.device).index_add_(0, of_token, missing)
            agreement = (missed == 0).float().mean().item()
            scored[i] = Candidate(fitting[i][0], agreement, divergence.mean().item(), len(divergence))
        return [scored[i] for i in range(len(fitting))]

    def first(self, probes: Probes, n: int) -> Probes:
        """The first `n` inputs of probes."""
        inputs, outputs, ids, ended = probes.inputs[:n], probes.outputs[:n], probes.ids[:n], probes.ended[:n]
        n_targets = sum(map(len, ids))
        return Probes(inputs, outputs, ids, ended, probes.log_probs[:n_targets], probes.likeliest[:n_targets])

    def _outputs(self, rows: Sequence[list[int]]) -> list["_Output"]:
        """What was written, up to where it ends or goes round."""
        texts = [self.subject.tokenizer.decode(row, skip_special_tokens=True) for row in rows]
        cut = [self.subject.template.cut(text) for text in texts]
        limit = self.max_new_tokens
        ended = [len(r) < limit or c != t.strip() for r, c, t in zip(rows, cut, texts, strict=True)]
        kept = _without_rounds(cut, ended)
        return [_Output(t, self._ids(r, t, e), e) for r, t, e in zip(rows, kept, ended, strict=True)]

    def _ids(self, row: list[int], text: str, ended: bool) -> tuple[int, ...]:
        """The tokens of an output as they were written; tokenised again where a token reaches beyond its text."""
        decode = self.subject.tokenizer.decode
        own = (row[:n] for n in range(len(row), -1, -1) if decode(row[:n], skip_special_tokens=True).strip() == text)
        ids = next(own, None)
        if ids is None:
            ids = self.subject.encode_output(text)[:-1]
        return tuple([*ids, self.subject.endings.eos_id] if ended or not ids else ids)

    def _examples(self, inputs: Sequence[str], outputs: Sequence[tuple[int, ...]], kind: Kind) -> list[EncodedExample]:
        bodies = [self.subject.encode_body(input, kind) for input in inputs]
        return [EncodedExample(body, list(output)) for body, output in zip(bodies, outputs, strict=True)]

    def _fits(self, rows: Float[Tensor, "n d_model"], n_read: int) -> bool:
        limit = self.subject.context_length
        return limit is None or len(rows) + n_read <= limit

    @torch.no_grad()
    def _log_probs(
        self, prompts: Sequence[Float[Tensor, "_n d_model"]], examples: Sequence[list[EncodedExample]]
    ) -> Iterator[tuple[int, Float[Tensor, "n_targets vocab"], Int[Tensor, " n_targets"]]]:
        """For each prompt its number, and log-probabilities and likeliest tokens at all output positions."""
        scorer, most = self.subject.scorer, int(_SHARED * self.subject.batch_tokens)
        for i, hidden in scorer.hidden_states(prompts, examples, most, self._halving):
            yield i, *scorer.distributions(hidden)


class _Output(NamedTuple):
    """One output under the soft prompt, as in `Probes`."""

    text: str
    ids: tuple[int, ...]
    ended: bool


def _without_rounds(texts: list[str], ended: list[bool]) -> list[str]:
    """Outputs that do not end, cut after the first round where they go round and round.

    A soft prompt that was tuned on labels without an end tends to write its label again and again.
    """
    if sum(ended) >= len(ended) / 2:
        return texts
    return [text if end else _first_round(text) for text, end in zip(texts, ended, strict=True)]


def _first_round(text: str) -> str:
    """The words that the whole text repeats, three times or nearly so; the text itself where it repeats nothing."""
    words = text.split()
    for n in range(1, len(words) // 3 + 1):
        whole = all(word == words[i % n] for i, word in enumerate(words[:-1]))
        if whole and words[(len(words) - 1) % n].startswith(words[-1]):  # the last word may have been cut
            return " ".join(words[:n])
    return text


def _probe_of_token(examples: Sequence[EncodedExample]) -> Int[Tensor, " n_targets"]:
    sizes = torch.tensor([len(example.output) for example in examples])
    return torch.arange(len(examples)).repeat_interleave(sizes)
