"""What a translator makes of soft prompts: texts that it writes, and how likely it finds others."""

from collections.abc import Iterator, Sequence
from functools import cached_property
from itertools import chain
from typing import TYPE_CHECKING

import torch
from jaxtyping import Float, Int
from torch import Tensor
from transformers import LogitsProcessor, LogitsProcessorList

from soft2hard.compute import metering
from soft2hard.compute.memory import Halving
from soft2hard.data_gen.tasks import Example
from soft2hard.lm.endings import special_ids
from soft2hard.prompts.soft_prompt import SoftPrompt
from soft2hard.translator.data import IGNORE, Views, runs_of_like_length
from soft2hard.translator.probing import drawn, own_uniforms

if TYPE_CHECKING:
    from soft2hard.translator.model import Translator

_TOP_P = 0.98  # probability of the nucleus that samples are drawn from
_LIKELIEST = 1024  # tokens, which nearly always hold the nucleus
_ROWS_AT_ONCE = 1024  # written together, at most
_CACHE_AT_ONCE = 2**31  # bytes of their keys and values, about: for SmolLM2 behind eight pairs 1,024 rows take 10 GB
_BATCHES, _ROWS_OF_A_BATCH = 3, 16  # of texts scored by length: more batches cost more than the padding they spare
_TEXTS_AT_ONCE = 256  # completed together
_LOGITS_AT_ONCE = 2**26  # numbers, in a batch of texts that are scored, on average

# --- proposing, many soft prompts at a time -----------------------------------------------------


@torch.no_grad()
def propose(
    translator: "Translator",
    soft_prompts: Sequence[SoftPrompt],
    n_candidates: int = 64,
    *,
    seed: int = 0,
    numbers: Sequence[int] | None = None,
) -> list[list[str]]:
    """Distinct candidates for each soft prompt, the greedy one first, then beams, then samples.

    A quarter of the candidates are asked of beam search and the rest drawn by nucleus sampling; fewer
    than `n_candidates` come back where some coincide. With one candidate only greedy decoding runs.
    What is drawn for a soft prompt depends on the seed and on itself, whatever the others are. `numbers`
    are the cases on whose behalf it is counted, 0, 1, ... by default.
    """
    numbered = list(zip(range(len(soft_prompts)) if numbers is None else numbers, soft_prompts, strict=True))
    n_rows = min(_ROWS_AT_ONCE, _CACHE_AT_ONCE // _cache_of_a_row(translator, soft_prompts))
    at_once = max(1, n_rows // n_candidates)
    chunks = [numbered[start : start + at_once] for start in range(0, len(numbered), at_once)]

    def work(chunk: Sequence[tuple[int, SoftPrompt]]) -> list[list[str]]:
        decoding = _Decoding(translator, [prompt for _, prompt in chunk], [number for number, _ in chunk])
        return decoding.candidates(n_candidates, seed)

    halving = Halving("Ask for fewer candidates, or translate on a GPU with more memory.")
    return [texts for _, found in halving.run(chunks, work) for texts in found]


def proposed_under(
    translator: "Translator",
    views: Sequence[Views],
    n_candidates: int,
    *,
    seed: int = 0,
    numbers: Sequence[int] | None = None,
) -> list[list[str]]:
    """Distinct candidates for each soft prompt, under all its views: under the vectors alone, where these are one, as
    large a part as they have to say (`Evidence.alone`), an eighth at least; the others in equal parts. The first is the
    greedy one of the first that is shown. `numbers`: see `propose`."""
    numbers = range(len(views)) if numbers is None else numbers
    found: list[list[list[str]]] = [[[]] * (len(of_one.shown) + 1) for of_one in views]
    asked: dict[int, list[tuple[int, int, SoftPrompt]]] = {}
    for i, of_one in enumerate(views):
        for place, n in enumerate(_parts(of_one, n_candidates, translator.evidence.alone)):
            view = of_one.shown[place] if place < len(of_one.shown) else of_one.alone
            if n and view is not None:
                asked.setdefault(n, []).append((i, place, view))
    for n, some in asked.items():
        of_each = [numbers[i] for i, _, _ in some]
        texts = propose(translator, [view for _, _, view in some], n, seed=seed, numbers=of_each)
        for (i, place, _), of_view in zip(some, texts, strict=True):
            found[i][place] = of_view
    return [list(dict.fromkeys(chain.from_iterable(of_one))) for of_one in found]


def _parts(views: Views, n: int, alone: float) -> list[int]:
    """How many of `n` candidates each thing that is shown proposes, and at last the vectors alone."""
    if n == 1:
        return [1, *[0] * len(views.shown)]
    n_alone = 0 if views.alone is None else max(round(alone * n), n // 8, 1)
    return [*[max(1, (n - n_alone) // len(views.shown))] * len(views.shown), n_alone]


def _cache_of_a_row(translator: "Translator", soft_prompts: Sequence[SoftPrompt]) -> int:
    """Bytes of the keys and values of the longest of the soft prompts and a text for it, about."""
    config = translator.model.lm.config.get_text_config()
    layers = getattr(config, "num_decoder_layers", None) or config.num_hidden_layers
    heads = getattr(config, "num_key_value_heads", None) or config.num_attention_heads
    width = getattr(config, "head_dim", None) or config.hidden_size // config.num_attention_heads
    longest = max((soft_prompt.n_tokens for soft_prompt in soft_prompts), default=0)
    n_positions = longest + translator.card.instruction_tokens
    return 2 * layers * heads * width * n_positions * translator.model.lm.dtype.itemsize


class Nucleus(LogitsProcessor):
    """Leaves each row its likeliest tokens that together have a probability of `top_p` (Holtzman et al. 2020, arXiv
    1904.09751), as `TopPLogitsWarper` does, which sorts the whole vocabulary for it."""

    def __init__(self, top_p: float):
        self.top_p = top_p

    def __call__(self, input_ids: Int[Tensor, "rows n_read"], scores: Float[Tensor, "rows vocab"]) -> Tensor:
        log_probs, n = scores.log_softmax(-1), min(_LIKELIEST, scores.shape[1])
        best, tokens = log_probs.topk(n, dim=-1)
        before = best.exp().cumsum(-1) - best.exp()
        if n < scores.shape[1] and (before[:, -1] + best[:, -1].exp() < self.top_p).any():
            best, tokens = log_probs.sort(dim=-1, descending=True)
            before = best.exp().cumsum(-1) - best.exp()
        kept = before < self.top_p
        kept[:, 0] = True
        left = scores.gather(1, tokens).masked_fill(~kept, -torch.inf)
        return torch.full_like(scores, -torch.inf).scatter_(1, tokens, left)


class _Drawing(LogitsProcessor):
    """Leaves each row the one token that its own random numbers draw, so that greedy search samples."""

    def __init__(self, uniforms: Float[Tensor, "rows n_steps"], n_start: int):
        self.uniforms, self.n_start = uniforms, n_start

    def __call__(self, input_ids: Int[Tensor, "rows n_read"], scores: Float[Tensor, "rows vocab"]) -> Tensor:
        chosen = drawn(scores, self.uniforms[:, input_ids.shape[1] - self.n_start])
        return torch.full_like(scores, -torch.inf).scatter_(1, chosen[:, None], 0.0)


class _Decoding:
    """A few soft prompts that the translator has read, and all that it writes for them."""

    def __init__(self, translator: "Translator", soft_prompts: Sequence[SoftPrompt], numbers: Sequence[int]):
        self.translator, self.soft_prompts, self.numbers = translator, soft_prompts, numbers
        self.model = translator.model.eval()
        self.memory = self.model.encode(*translator.encode_batch(soft_prompts))
        self._count([(0, translator.n_read(soft_prompt)) for soft_prompt in soft_prompts])

    def candidates(self, n: int, seed: int) -> list[list[str]]:
        """Up to `n` distinct texts for each soft prompt: greedy, beams, samples."""
        batches = [self.write(1)]
        n_beams = n // 4 if n >= 8 else 0
        if n_beams:
            batches.append(self.write(n_beams, num_beams=n_beams, num_return_sequences=n_beams))
        if n > 1 + n_beams:
            batches.append(self.sample(n - 1 - n_beams, seed))
        of_each = [[tidy(text) for batch in batches for text in batch[i]] for i in range(len(self.soft_prompts))]
        return [list(dict.fromkeys(text for text in texts if text)) for texts in of_each]

    def sample(self, n: int, seed: int) -> list[list[str]]:
        """`n` texts for each soft prompt, drawn from the nucleus, each soft prompt by its own numbers."""
        n_steps = self.translator.card.instruction_tokens
        uniforms = [own_uniforms(n, n_steps, seed, soft_prompt) for soft_prompt in self.soft_prompts]
        drawing = _Drawing(torch.cat(uniforms).to(self.translator.device), self.model.n_start)
        return self.write(n, n_rows=n, logits_processor=LogitsProcessorList([Nucleus(_TOP_P), drawing]))

    def write(self, n: int, n_rows: int = 1, **settings: object) -> list[list[str]]:
        """`n` texts for each soft prompt, which has `n_rows` rows in the batch; greedy unless `settings` say other."""
        settings = {"do_sample": False, "num_beams": 1} | settings
        most = self.translator.card.instruction_tokens
        ids = self.model.generate(self.memory.repeat(n_rows), max_new_tokens=most, **settings)
        is_end = ids == self.model.eos_id
        # Read to write a row: a start and all written tokens but the last, which may be the end.
        n_read = torch.where(is_end.any(1), is_end.int().argmax(1) + 1, ids.shape[1]).tolist()
        self._count([(n, sum(n_read[i : i + n])) for i in range(0, len(ids), n)])
        texts = self.translator.tokenizer.batch_decode(ids, skip_special_tokens=True)
        return [texts[i : i + n] for i in range(0, len(texts), n)]

    def _count(self, of_each: Sequence[tuple[int, int]]) -> None:
        for number, (sequences, tokens) in zip(self.numbers, of_each, strict=True):
            with metering.on_behalf_of(number):
                metering.count(sequences, tokens)


def tidy(text: str) -> str:
    """One line, single spaces."""
    return " ".join(text.split())


# --- one soft prompt: how likely texts are, and texts near others -------------------------------


class Reading:
    """The translator's view of one soft prompt, which is read once for all that is asked."""

    @torch.no_grad()
    def __init__(self, translator: "Translator", soft_prompt: SoftPrompt):
        self.translator = translator
        self.tokenizer, self.model = translator.tokenizer, translator.model.eval()
        self.eos_id = self.model.eos_id
        self._memory = self.model.encode(*translator.encode_batch([soft_prompt]))
        metering.count(0, translator.n_read(soft_prompt))  # sequences are what is written of it

    def log_probs(self, texts: Sequence[str]) -> list[float]:
        """log p(text | soft prompt) of each text with its end, in nats."""
        return self.sequence_log_probs([self.translator.encode_instruction(text) for text in texts])

    @torch.no_grad()
    def sequence_log_probs(self, rows: Sequence[Sequence[int]]) -> list[float]:
        """The same of token ids, the end's among them."""
        found = [0.0] * len(rows)
        metering.count(len(rows), sum(map(len, rows)))
        for indices, labels, logits in self._in_batches(rows):
            of_token = logits.log_softmax(-1).gather(-1, labels.clamp(min=0)[..., None])[..., 0]
            for i, value in zip(indices, of_token.masked_fill(labels == IGNORE, 0).sum(-1).tolist(), strict=True):
                found[i] = value
        return found

    @torch.no_grad()
    def next_log_probs(self, rows: Sequence[Sequence[int]]) -> list[Float[Tensor, "n_ids vocab"]]:
        """Log-probabilities at each position of each text, given what stands before it; special tokens have none."""
        metering.count(len(rows), sum(len(row) + 1 for row in rows))
        found: list[Tensor] = [torch.empty(0)] * len(rows)
        for indices, _, logits in self._in_batches([[*row, self.eos_id] for row in rows]):
            for i, of_row in zip(indices, logits, strict=True):
                found[i] = of_row[: len(rows[i])].log_softmax(-1)
                found[i][:, self._no_words()] = -torch.inf
        return found

    @torch.no_grad()
    def complete(self, prefixes: Sequence[Sequence[int]]) -> list[list[int]]:
        """Each prefix with its most likely continuation, token by token, without the end's id."""
        rows: list[list[int]] = []
        most = self.translator.card.instruction_tokens
        for start in range(0, len(prefixes), _TEXTS_AT_ONCE):
            some = [prefix[:most] for prefix in prefixes[start : start + _TEXTS_AT_ONCE]]
            given = _Given(some, self.model.n_start, self._no_words(and_end=True))
            settings = {"max_new_tokens": most, "do_sample": False, "num_beams": 1}
            memory, processors = self._memory.repeat(len(some)), LogitsProcessorList([given])
            written = self.model.generate(memory, logits_processor=processors, **settings).tolist()
            rows += [row[: row.index(self.eos_id)] if self.eos_id in row else row for row in written]
        rows = [row if len(prefix) < most else list(prefix) for row, prefix in zip(rows, prefixes, strict=True)]
        metering.count(len(rows), sum(min(len(row) + 1, most) for row in rows))  # a start, and all but the last token
        return rows

    def _in_batches(
        self, rows: Sequence[Sequence[int]]
    ) -> Iterator[tuple[list[int], Int[Tensor, "batch length"], Float[Tensor, "batch length vocab"]]]:
        """Rows of like length together: their numbers, the rows as labels, and the logits for each label."""
        longest = max(map(len, rows), default=0)
        n_logits = len(rows) * longest * self.model.lm.config.get_text_config().vocab_size
        n = max(1, min(_BATCHES, len(rows) // _ROWS_OF_A_BATCH), n_logits // _LOGITS_AT_ONCE)
        for run in runs_of_like_length([len(row) for row in rows], n):
            tensors = [torch.tensor(list(rows[i])) for i in run]
            labels = torch.nn.utils.rnn.pad_sequence(tensors, batch_first=True, padding_value=IGNORE)
            labels = labels.to(self.translator.device)
            yield run, labels, self.model.logits(self._memory.repeat(len(run)), labels).float()

    def _no_words(self, and_end: bool = False) -> list[int]:
        """Ids that no text holds; but for the end's, if a text may end."""
        size = self.model.lm.config.get_text_config().vocab_size
        none = special_ids(self.tokenizer)
        return sorted(i for i in none if i < size and not (and_end and i == self.eos_id))


class Mixture:
    """What a translator makes of one soft prompt that it reads in several ways, and what its follower adds.

    With several sets of examples, log p(text) is the mean of what each says: each set is evidence of its own, and what
    one of them suggests by chance the others do not bear out. That is mixed with what the vectors alone say
    (`Evidence.alone`), where they are read too. Texts near others are found under the first set.
    """

    def __init__(self, translator: "Translator", views: Views):
        self.shown = [Reading(translator, one) for one in views.shown]
        self.follower, self._written = translator.follower, views.pairs
        self.by_vectors = None if views.alone is None else Reading(translator, views.alone)
        self.alone, first = translator.evidence.alone, self.shown[0]
        self.tokenizer, self.eos_id = first.tokenizer, first.eos_id
        self.sequence_log_probs, self.next_log_probs = first.sequence_log_probs, first.next_log_probs
        self.complete = first.complete

    def log_probs(self, texts: Sequence[str]) -> list[float]:
        """log p(text | soft prompt) of each text with its end, in nats."""
        return mixed(self.log_probs_by_reading(texts), self.alone).tolist()

    @cached_property
    def _pairs(self) -> tuple[Example, ...]:
        return () if self.follower is None else self.follower.fitting(self._written)

    def followed(self, texts: Sequence[str]) -> Float[Tensor, " n_texts"]:
        """The follower's log p(outputs | text, inputs) of what the soft prompt wrote, in nats; 0 without one."""
        if not self._pairs or not texts:
            return torch.zeros(len(texts), dtype=torch.float64)
        return torch.tensor(self.follower.log_likelihoods(texts, self._pairs), dtype=torch.float64)

    def log_probs_by_reading(self, texts: Sequence[str]) -> Float[Tensor, "n_readings n_texts"]:
        """By the vectors alone, where they are read, and by what is shown."""
        shown = torch.tensor([reading.log_probs(texts) for reading in self.shown], dtype=torch.float64).mean(0)
        if self.by_vectors is None:
            return shown[None]
        return torch.stack([torch.tensor(self.by_vectors.log_probs(texts), dtype=torch.float64), shown])


def mixed(log_probs: Float[Tensor, "n_readings n_texts"], alone: float) -> Float[Tensor, " n_texts"]:
    """log p of texts, of which the first of two readings has a share of `alone`, see `Evidence`."""
    if len(log_probs) == 1:
        return log_probs[0]
    return (log_probs + torch.tensor([[alone], [1 - alone]]).to(log_probs).log()).logsumexp(0)


class _Given(LogitsProcessor):
    """Makes each row begin with its prefix and go on in words, so that one cache serves prefixes of all lengths."""

    def __init__(self, prefixes: Sequence[Sequence[int]], n_start: int, no_words: list[int]):
        rows = [torch.tensor(list(prefix), dtype=torch.long) for prefix in prefixes]
        self.prefixes = torch.nn.utils.rnn.pad_sequence(rows, batch_first=True, padding_value=-1)
        self.n_start, self.no_words = n_start, no_words

    def __call__(self, input_ids: Int[Tensor, "rows n_read"], scores: Float[Tensor, "rows vocab"]) -> Tensor:
        scores[:, self.no_words] = -torch.inf
        step = input_ids.shape[1] - self.n_start
        if step < self.prefixes.shape[1]:
            given = self.prefixes[:, step].to(scores.device)
            rows = (given >= 0).nonzero()[:, 0]
            scores[rows] = -torch.inf
            scores[rows, given[rows]] = 0.0
        return scores
