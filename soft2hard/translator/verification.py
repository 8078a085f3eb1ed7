"""Does a hard prompt act like the soft prompt? Run both on the same inputs and compare.

For each probe input the subject first writes its own output under the soft prompt. Then, at every
position of that output, its next-token distribution under the soft prompt is set against the one under
each candidate. `agreement` is the share of probe inputs for which the candidate's greedy output would be
the soft prompt's, `divergence` the mean Kullback-Leibler divergence KL(soft || candidate) in nats a
position (the output differential of arXiv 2504.02144, section 4, on distributions).
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Literal

import torch
from jaxtyping import Bool, Float, Int
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
    ended: tuple[bool, ...]
    """False where an output was cut, because it was too long or because the soft prompt never learned to end: then
    its end is compared with nothing."""
    log_probs: Float[Tensor, "n_targets vocab"]
    """Its next-token log-probabilities at all output positions, probe after probe."""
    greedy: Bool[Tensor, "n_targets"]
    """Where the output's token is the most likely one (all, but for rounding and another tokenization)."""

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
        written = [_without_rounds([self._output(next(rows)) for _ in of_prompt]) for of_prompt in inputs]
        parts = [tuple(zip(*of_prompt, strict=True)) or ((), ()) for of_prompt in written]
        examples = [self._encode(*given, "soft") for given in zip(inputs, *zip(*parts, strict=True), strict=True)]
        embedded = [self.subject.prompt_embeddings(soft_prompt) for soft_prompt in soft_prompts]
        found: dict[int, Probes] = {}
        for i, log_probs, greedy in self._log_probs(embedded, examples):
            found[i] = Probes(tuple(inputs[i]), *parts[i], log_probs, greedy)
        return [found[i] for i in range(len(soft_prompts))]

    def verify(self, candidates: Sequence[str], probes: Probes) -> list[Candidate]:
        """Agreement and divergence of each candidate, in the order given.

        A candidate too long for the subject's context is left out.
        """
        examples = self._encode(probes.inputs, probes.outputs, probes.ended, "hard")
        longest = max(example.n_read for example in examples)
        embedded = [(text, self.subject.prompt_embeddings(text)) for text in candidates]
        fitting = [(text, rows) for text, rows in embedded if self._fits(rows, longest)]
        of_token = _probe_of_token(examples).to(probes.log_probs.device)
        scored: dict[int, Candidate] = {}
        for i, log_probs, greedy in self._log_probs([rows for _, rows in fitting], [examples] * len(fitting)):
            divergence = (probes.log_probs.exp() * (probes.log_probs - log_probs)).sum(-1).clamp(0, MAX_DIVERGENCE)
            # Where the soft prompt itself would write other tokens, another tokenization of its text stands there.
            missing = (probes.greedy & ~greedy).float()
            missed = torch.zeros(len(examples), device=greedy.device).index_add_(0, of_token, missing)
            agreement = (missed == 0).float().mean().item()
            scored[i] = Candidate(fitting[i][0], agreement, divergence.mean().item(), len(divergence))
        return [scored[i] for i in range(len(fitting))]

    def first(self, probes: Probes, n: int) -> Probes:
        """The first `n` inputs of probes."""
        inputs, outputs, ended = probes.inputs[:n], probes.outputs[:n], probes.ended[:n]
        n_targets = sum(len(example.output) for example in self._encode(inputs, outputs, ended, "soft"))
        return Probes(inputs, outputs, ended, probes.log_probs[:n_targets], probes.greedy[:n_targets])

    def _output(self, row: list[int]) -> tuple[str, bool]:
        """The text of an output, and whether it ended."""
        subject = self.subject
        text = subject.tokenizer.decode(row, skip_special_tokens=True)
        cut = subject.template.cut(text)
        return cut, len(row) < self.max_new_tokens or cut != text.strip()

    def _encode(
        self, inputs: Sequence[str], outputs: Sequence[str], ended: Sequence[bool], kind: Kind
    ) -> list[EncodedExample]:
        """Examples as tokens; outputs that were cut have no end. One without any token keeps its end."""
        whole = [self.subject.encode_example(x, y, kind) for x, y in zip(inputs, outputs, strict=True)]
        return [
            example if has_end or len(example.output) == 1 else EncodedExample(example.body, example.output[:-1])
            for example, has_end in zip(whole, ended, strict=True)
        ]

    def _fits(self, rows: Float[Tensor, "n d_model"], n_read: int) -> bool:
        limit = self.subject.context_length
        return limit is None or len(rows) + n_read <= limit

    @torch.no_grad()
    def _log_probs(
        self, prompts: Sequence[Float[Tensor, "_n d_model"]], examples: Sequence[list[EncodedExample]]
    ) -> Iterator[tuple[int, Float[Tensor, "n_targets vocab"], Bool[Tensor, "n_targets"]]]:
        """For each prompt its number, log-probabilities at all output positions, and where the output is greedy."""
        scorer, most = self.subject.scorer, int(_SHARED * self.subject.batch_tokens)
        for i, hidden in scorer.hidden_states(prompts, examples, most, self._halving):
            log_probs, likeliest = scorer.distributions(hidden)
            wanted = torch.tensor([token for e in examples[i] for token in e.output], device=log_probs.device)
            yield i, log_probs, likeliest == wanted


def _without_rounds(outputs: list[tuple[str, bool]]) -> list[tuple[str, bool]]:
    """Outputs that do not end, cut after the first round where they go round and round.

    A soft prompt that was tuned on labels without an end tends to write its label again and again.
    """
    if sum(ended for _, ended in outputs) >= len(outputs) / 2:
        return outputs
    return [(text, ended) if ended else (_first_round(text), False) for text, ended in outputs]


def _first_round(text: str) -> str:
    """The words that the whole text repeats, at least three times; the text itself where it repeats nothing."""
    words = text.split()
    for n in range(1, len(words) // 3 + 1):
        if all(word == words[i % n] for i, word in enumerate(words[:-1])):  # the last word may have been cut
            return " ".join(words[:n])
    return text


def _probe_of_token(examples: Sequence[EncodedExample]) -> Int[Tensor, " n_targets"]:
    sizes = torch.tensor([len(example.output) for example in examples])
    return torch.arange(len(examples)).repeat_interleave(sizes)
