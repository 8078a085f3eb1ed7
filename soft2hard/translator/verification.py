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
from jaxtyping import Bool, Float, Int
from torch import Tensor

from soft2hard.compute.memory import Halving
from soft2hard.data_gen.tasks import Example
from soft2hard.lm.batching import EncodedExample
from soft2hard.lm.sequences import Query, kind_of
from soft2hard.lm.subject import Subject
from soft2hard.prompts.soft_prompt import Prompt, SoftPrompt
from soft2hard.prompts.template import Kind
from soft2hard.translator.settings import ProposerName

Ending = Literal["learned", "none"]
"""Whether outputs end under a soft prompt, within the tokens that they may have."""

MAX_DIVERGENCE = 10.0
"""Cap on one position's divergence, in nats: one confident miss must not outweigh everything else."""
SHORT_OUTPUT, LONG_OUTPUT = 16, 64
"""Tokens that an output may have where nobody says: first, and where most under a soft prompt are longer."""
_TEXT_TOKENS = 24
"""Tokens of a text beside which long outputs are to fit the subject's context."""
LEAST_EFFECT = 1e-3
"""Divergence a position, in nats, between soft prompt and no prompt below which there is nothing to explain."""
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
    def pairs(self) -> tuple[Example, ...]:
        """Each input with what the soft prompt makes of it."""
        return tuple(map(Example, self.inputs, self.outputs))

    @property
    def ending(self) -> Ending:
        """How outputs end under the soft prompt."""
        return "none" if sum(self.ended) < len(self.ended) / 2 else "learned"


def surest(probes: Probes, n: int) -> list[int]:
    """Numbers of up to `n` inputs, in their order, whose outputs end and are least random: mean entropy a token."""
    parts = probes.log_probs.split(list(map(len, probes.ids)))
    means = [-torch.linalg.vecdot(part.exp(), part).mean().item() for part in parts]
    return sorted(sorted(range(len(means)), key=lambda i: (not probes.ended[i], means[i]))[:n])


@dataclass(frozen=True)
class Candidate:
    """A hard prompt and how closely it follows the soft prompt."""

    text: str
    agreement: float
    divergence: float
    n_positions: int
    """Output positions that the divergence is the mean of."""
    log_prob: float = 0.0
    """log p(text) before anything was run, nats: under the translator that read the soft prompt, under a prior of
    instructions, or under both in equal parts; 0 for all where neither was asked."""
    explained: float | None = None
    """Share of the divergence without any prompt that the text takes away (see `explained_share`)."""
    proposer: ProposerName = "translator"
    """Where the text comes from."""
    weight: float = 1.0
    """Of the divergence, see `Evidence`."""
    consensus: float = 0.0
    """Nats for what it shares with other candidates, see `Evidence`."""
    followed: float = 0.0
    """The follower's log-likelihood of what the soft prompt wrote, weighted, nats, see `Evidence`."""

    @property
    def rank(self) -> float:
        """Sorts the best candidate first: minus the log-posterior, the summed divergence, weighted, less `log_prob` and
        `followed`; less what it has from `consensus`."""
        return self.weight * self.divergence * self.n_positions - self.log_prob - self.followed - self.consensus


@dataclass(frozen=True)
class Comparison:
    """One prompt beside the soft prompt, input by input."""

    alike: Bool[Tensor, " n_inputs"]
    """Whether greedy search would write the soft prompt's output."""
    divergence: Float[Tensor, " n_inputs"]
    """Summed KL(soft || prompt) over the output's positions, nats."""
    n_positions: int

    @property
    def mean_divergence(self) -> float:
        """Nats a position."""
        return self.divergence.sum().item() / max(self.n_positions, 1)


def explained_share(divergence: float, without: float | None) -> float | None:
    """1 - KL(soft || text) / KL(soft || no prompt): 1 for a text that acts as the soft prompt, 0 for one that does no
    more than no prompt, negative for one that leads away from it. None where the soft prompt does next to nothing."""
    return None if without is None or without < LEAST_EFFECT else 1 - divergence / without


class Verifier:
    """Runs candidates beside soft prompts on one subject."""

    def __init__(self, subject: Subject, max_new_tokens: int | None = None):
        """Outputs have up to `max_new_tokens` tokens; by default 16, or 64 where most under a prompt are longer."""
        self.subject, self.max_new_tokens = subject, max_new_tokens
        self._halving = Halving(_REMEDY)

    def probe(self, soft_prompts: Sequence[SoftPrompt], inputs: Sequence[Sequence[str]]) -> list[Probes]:
        """The outputs that each soft prompt gives its inputs, with their distributions, all in shared batches."""
        written = self._outputs_of(soft_prompts, inputs)
        examples = [self._examples(some, [o.ids for o in of], "soft") for some, of in zip(inputs, written, strict=True)]
        embedded = [self.subject.prompt_embeddings(soft_prompt) for soft_prompt in soft_prompts]
        found: dict[int, Probes] = {}
        for i, log_probs, likeliest in self._log_probs(embedded, examples):
            texts, ids, ended, _ = zip(*written[i], strict=True) if written[i] else ((), (), (), ())
            found[i] = Probes(tuple(inputs[i]), texts, ids, ended, log_probs, likeliest)
        return [found[i] for i in range(len(soft_prompts))]

    def written(self, soft_prompts: Sequence[SoftPrompt], inputs: Sequence[Sequence[str]]) -> list[list[str]]:
        """The outputs alone, as `probe` has them."""
        return [[output.text for output in of] for of in self._outputs_of(soft_prompts, inputs)]

    def has_room(self, soft_prompt: SoftPrompt, input: str) -> bool:
        """Whether the subject's context holds an output beside this input."""
        limit = self.max_new_tokens or SHORT_OUTPUT
        return self._room(soft_prompt, [input], limit) == limit

    def _outputs_of(self, soft_prompts: Sequence[SoftPrompt], inputs: Sequence[Sequence[str]]) -> list[list["_Output"]]:
        written = self._written(soft_prompts, inputs, self.max_new_tokens or SHORT_OUTPUT)
        open_ended = [i for i, of in enumerate(written) if 2 * sum(o.ended or o.goes_round for o in of) < len(of)]
        rooms = {i: self._room(soft_prompts[i], inputs[i], LONG_OUTPUT) for i in open_ended if not self.max_new_tokens}
        for limit in sorted({room for room in rooms.values() if room > SHORT_OUTPUT}):
            long = [i for i, room in rooms.items() if room == limit]
            again = self._written([soft_prompts[i] for i in long], [inputs[i] for i in long], limit)
            written = [dict(zip(long, again, strict=True)).get(i, of) for i, of in enumerate(written)]
        return written

    def _written(
        self, soft_prompts: Sequence[SoftPrompt], inputs: Sequence[Sequence[str]], limit: int
    ) -> list[list["_Output"]]:
        queries = [
            Query(soft_prompt, input)
            for soft_prompt, of_prompt in zip(soft_prompts, inputs, strict=True)
            for input in of_prompt
        ]
        rows = iter(self.subject.generate_ids(queries, max_new_tokens=limit))
        return [self._outputs([next(rows) for _ in of_prompt], limit) for of_prompt in inputs]

    def outputs(self, prompt: str | None, probes: Probes) -> list[str]:
        """The subject's outputs for these inputs under a text or no prompt, as long as the soft prompt's may be; empty
        ones where it has nothing to read then."""
        inputs, longest = probes.inputs, max(map(len, probes.ids), default=1)
        kind = kind_of(prompt)
        if not len(self.subject.prompt_embeddings(prompt)) and not all(
            self.subject.encode_input(i, kind).n_input for i in inputs
        ):
            return [""] * len(inputs)
        limit = self._room(prompt, inputs, longest)
        return self.subject.generate([Query(prompt, input) for input in inputs], max_new_tokens=limit)

    def _room(self, prompt: Prompt, inputs: Sequence[str], most: int) -> int:
        """Tokens, up to `most`, that an output may have beside any of these inputs in the subject's context.

        A soft prompt leaves room for texts that are longer than itself.
        """
        context = self.subject.context_length
        if context is None:
            return most
        n_before = len(self.subject.prompt_embeddings(prompt))
        if isinstance(prompt, SoftPrompt):
            n_before += max(_TEXT_TOKENS - prompt.n_tokens, 0)
        n_read = n_before + max(
            (self.subject.encode_input(input, kind_of(prompt)).n_input for input in inputs), default=0
        )
        return min(most, context - (1 if self.subject.is_encoder_decoder else n_read))  # a decoder reads its start

    def verify(self, candidates: Sequence[str], probes: Probes) -> list[Candidate]:
        """Agreement and divergence of each candidate, in the order given.

        A candidate too long for the subject's context is left out.
        """
        scored = [
            Candidate(text, found.alike.float().mean().item(), found.mean_divergence, found.n_positions)
            for text, found in zip(candidates, self.compare(candidates, probes), strict=True)
            if found is not None
        ]
        return scored

    def compare(self, prompts: Sequence[str | None], probes: Probes) -> list[Comparison | None]:
        """Each prompt beside the soft prompt: texts, or None for no prompt.

        None for a text too long for the subject's context, and where there is nothing to read without a prompt.
        """
        examples = {kind: self._examples(probes.inputs, probes.ids, kind) for kind in map(kind_of, prompts)}
        longest = {kind: max(example.n_read for example in some) for kind, some in examples.items()}
        embedded = [(kind_of(prompt), self.subject.prompt_embeddings(prompt)) for prompt in prompts]
        fitting = [
            i
            for i, (kind, rows) in enumerate(embedded)
            if self._fits(rows, longest[kind]) and (len(rows) or all(example.n_input for example in examples[kind]))
        ]
        of_token = _probe_of_token(examples[kind_of(prompts[0])]).to(probes.log_probs.device) if prompts else None
        found: list[Comparison | None] = [None] * len(prompts)
        of_soft = probes.log_probs.exp()
        entropy = -torch.linalg.vecdot(of_soft, probes.log_probs)
        heads, rows = [embedded[i][1] for i in fitting], [examples[embedded[i][0]] for i in fitting]
        for number, log_probs, likeliest in self._log_probs(heads, rows):
            divergence = (-entropy - torch.linalg.vecdot(of_soft, log_probs)).clamp(0, MAX_DIVERGENCE)
            found[fitting[number]] = _by_input(divergence, probes.likeliest == likeliest, of_token, len(probes.inputs))
        return found

    def swaps(self, texts: Sequence[str], probes: Probes) -> list[Float[Tensor, "n_ids vocab"]]:
        """For each text, how the summed KL(soft || text) would change, in nats, were a token replaced by another.

        To first order: the change of the vector times the gradient (HotFlip, Ebrahimi et al., arXiv 1712.06751). Tokens
        are those of the text by itself.
        """
        examples = self._examples(probes.inputs, probes.ids, "hard")
        scorer, table = self.subject.scorer, self.subject.embedding
        lead = self.subject.lead_embeddings("hard")
        words = [self.subject.embed_text(text) for text in texts]
        leaves = [vectors.detach().clone().requires_grad_() for vectors in words]
        targets = scorer.run([torch.cat([lead, leaf]) for leaf in leaves], [examples] * len(leaves))
        of_soft = probes.log_probs.exp().repeat(len(leaves), 1)
        cross_entropy = -torch.linalg.vecdot(of_soft, scorer.log_probs(targets.hidden)).sum()
        gradients = torch.autograd.grad(cross_entropy, leaves)
        return [
            (g @ table.T.to(g) - (g * leaf).sum(-1, keepdim=True)).detach().float()
            for g, leaf in zip(gradients, leaves, strict=True)
        ]

    def first(self, probes: Probes, n: int) -> Probes:
        """The first `n` inputs of probes."""
        return self.some(probes, range(min(n, len(probes.inputs))))

    def some(self, probes: Probes, indices: Sequence[int]) -> Probes:
        """These inputs of probes."""
        starts = [0]
        for ids in probes.ids:
            starts.append(starts[-1] + len(ids))
        targets = torch.tensor([t for i in indices for t in range(starts[i], starts[i + 1])], dtype=torch.long)
        inputs, outputs, ids, ended = (
            tuple(of[i] for i in indices) for of in (probes.inputs, probes.outputs, probes.ids, probes.ended)
        )
        targets = targets.to(probes.log_probs.device)
        return Probes(inputs, outputs, ids, ended, probes.log_probs[targets], probes.likeliest[targets])

    def _outputs(self, rows: Sequence[list[int]], limit: int) -> list["_Output"]:
        """What was written, up to where it ends or goes round."""
        texts = [self.subject.tokenizer.decode(row, skip_special_tokens=True) for row in rows]
        cut = [self.subject.output_text(row) for row in rows]
        ended = [len(r) < limit or c != t.strip() for r, c, t in zip(rows, cut, texts, strict=True)]
        kept = _without_rounds(cut, ended)
        return [
            _Output(text, self._ids(row, text, end), end, text != whole)
            for row, text, end, whole in zip(rows, kept, ended, cut, strict=True)
        ]

    def _ids(self, row: list[int], text: str, ended: bool) -> tuple[int, ...]:
        """The tokens of an output as they were written; tokenised again where a token reaches beyond its text."""
        if self.subject.is_masked:
            return tuple(row)  # one token, which nothing cuts
        decode = self.subject.tokenizer.decode
        own = (row[:n] for n in range(len(row), -1, -1) if decode(row[:n], skip_special_tokens=True).strip() == text)
        ids = next(own, None)
        if ids is None:
            ids = self.subject.encode_output(text)[:-1]
        return tuple(self.subject.closed(ids) if ended or not ids else ids)

    def _examples(self, inputs: Sequence[str], outputs: Sequence[tuple[int, ...]], kind: Kind) -> list[EncodedExample]:
        encode = self.subject.encode_input
        return [encode(input, kind, output) for input, output in zip(inputs, outputs, strict=True)]

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
    goes_round: bool


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


def _by_input(
    divergence: Float[Tensor, " n_targets"],
    same: Bool[Tensor, " n_targets"],
    of_token: Int[Tensor, " n_targets"],
    n_inputs: int,
) -> Comparison:
    def summed(values: Tensor) -> Float[Tensor, " n_inputs"]:
        return torch.zeros(n_inputs, device=values.device).index_add_(0, of_token, values.float())

    return Comparison(summed(~same) == 0, summed(divergence), len(divergence))


def _probe_of_token(examples: Sequence[EncodedExample]) -> Int[Tensor, " n_targets"]:
    sizes = torch.tensor([len(example.output) for example in examples])
    return torch.arange(len(examples)).repeat_interleave(sizes)
