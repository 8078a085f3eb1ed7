"""How likely a text is as an instruction, by a language model that is shown a few; and texts drawn from that.

Nothing is trained, and nothing is read from a soft prompt: the prior of the search. A text pays for its end, so that
nothing trails behind it.
"""

from collections.abc import Callable, Sequence
from dataclasses import replace
from functools import cached_property
from math import log

import torch
from jaxtyping import Float, Int
from torch import Tensor
from transformers import PreTrainedTokenizerBase, TopPLogitsWarper

from soft2hard.compute import metering
from soft2hard.compute.memory import Halving
from soft2hard.errors import UserError
from soft2hard.lm.batching import EncodedExample, pad_rows, positions
from soft2hard.lm.endings import special_ids
from soft2hard.lm.generation import CausalDecoding, write_rows
from soft2hard.lm.prefix import Prefix
from soft2hard.lm.scoring import REMEDY
from soft2hard.lm.subject import Subject
from soft2hard.translator.probing import drawn, own_uniforms

LONGEST = 24
"""Tokens of the longest text that is drawn or completed."""
SHOWN = (
    "Write the opposite of the word.",
    "Say whether the review is positive or negative.",
    "Translate the word to German.",
    "Answer with the last letter of the name.",
    "List the animals in the sentence.",
    "Is the statement true? Answer yes or no.",
)
"""Instructions that a model is shown, of common tasks and in short words."""
FIRST_WORDS = (
    "Write Give Say Answer Is Does Pick Choose Keep Find Name Count Put Replace Reverse List Tell Translate Sort "
    "Remove Repeat Take Output Which What How If"
).split()
"""Words that instructions begin with, for a model that does not know all the words of `SHOWN`: nothing stands before
its texts, and nine in ten begin with one of these, all equally likely."""

_TOP_P = 0.98  # probability of the nucleus that texts are drawn from (Holtzman et al. 2020, arXiv 1904.09751)
_OTHER_WORDS = 0.1  # probability of all other first words
_HALF = log(0.5)
_ROWS_AT_ONCE = 256
_NEVER = -1e9  # logit of what no text holds; finite, so that sums of it are

Choose = Callable[[Float[Tensor, "rows vocab"], Int[Tensor, " rows"], int], Int[Tensor, " rows"]]
"""Of the log-probabilities of rows with these numbers, at this step, their next tokens."""


class InstructionPrior:
    """log p(text) under a causal language model, by default the soft prompt's own subject.

    Raises UserError for a model that continues no text: an encoder-decoder, a masked language model.
    """

    def __init__(self, lm: Subject):
        if not lm.continues_text:
            raise UserError(
                f"'{lm.name}' is {lm.family}, which continues no text, so texts cannot be searched for with it.",
                "Give a translator for it, or propose by describe with a --describer.",
            )
        # A line break ends a text; the template's own words do so where a line break is no token.
        stops = ("\n", *lm.template.words)
        self.lm = lm.with_template(replace(lm.template, stops=stops, input_first=False))
        self.eos_id = self.lm.endings.eos_id
        self._known: dict[tuple[int, ...], float] = {}

    @property
    def tokenizer(self) -> PreTrainedTokenizerBase:
        return self.lm.tokenizer

    def forget(self) -> None:
        """Work out log-probabilities anew: a budget of calls then buys a soft prompt as much in any company."""
        self._known.clear()

    # --- what stands before a text ---------------------------------------------------------------

    @cached_property
    def shows(self) -> bool:
        """Whether the model knows the words of `SHOWN`, has room for them, and reads them before each text."""
        room = self.lm.context_length
        return all(map(self._knows, SHOWN)) and (room is None or len(self._ids_shown) + 2 * LONGEST <= room)

    @cached_property
    def first_ids(self) -> list[int]:
        """Tokens that texts begin with where nothing is shown; any, for a model that knows none of `FIRST_WORDS`."""
        if self.shows:
            return []
        known = [self._ids(word)[0] for word in filter(self._knows, FIRST_WORDS)]
        return known or [i for i in range(len(self.lm.embedding)) if i not in self._no_words]

    @cached_property
    def _ids_shown(self) -> list[int]:
        # Line breaks by themselves: where ".\n" is one token, texts would else be taught to end without a full stop.
        return [i for text in SHOWN for i in (*self._ids(text), *self._ids("\n"))]

    @cached_property
    def _shown(self) -> tuple[Float[Tensor, "n d_model"], list[int]]:
        """What a text follows, as vectors, and its last token."""
        ids = self._ids_shown if self.shows else []
        before = torch.tensor(ids[:-1], dtype=torch.long, device=self.lm.device)
        lead = self.lm.lead_embeddings("hard") if ids else self.lm.embed_ids(before)
        return torch.cat([lead, self.lm.embed_ids(before)]) if ids else lead, ids[-1:]

    @cached_property
    def _prefix(self) -> Prefix:
        with torch.no_grad():
            return Prefix(self.lm.scorer.model, self._shown[0])

    # --- how likely texts are --------------------------------------------------------------------

    def log_probs(self, texts: Sequence[str]) -> list[float]:
        """log p(text) of each text with its end, in nats."""
        return self.sequence_log_probs([[*self._ids(text), self.eos_id] for text in texts])

    @torch.no_grad()
    def sequence_log_probs(self, rows: Sequence[Sequence[int]]) -> list[float]:
        """The same of token ids, the end's among them."""
        keys = [tuple(row) for row in rows]
        new = [key for key in dict.fromkeys(keys) if key not in self._known]
        hidden = self._hidden(new)
        if new:
            wanted = [key[len(key) - len(states) :] for key, states in zip(new, hidden, strict=True)]
            ids = torch.tensor([token for row in wanted for token in row], device=self.lm.device)
            scores = self.lm.scorer.score(torch.cat(hidden), ids)[0].split(list(map(len, wanted)))
            for key, found in zip(new, scores, strict=True):
                self._known[key] = self._first(key[0]) + float(self._with_ends(found, key).sum())
        return [self._known[key] for key in keys]

    @torch.no_grad()
    def next_log_probs(self, rows: Sequence[Sequence[int]]) -> list[Float[Tensor, "n_ids vocab"]]:
        """Log-probabilities at each position of each text, given what stands before it; special tokens have none."""
        found = []
        for row, hidden in zip(rows, self._hidden([(*row, self.eos_id) for row in rows]), strict=True):
            log_probs = self.lm.scorer.log_probs(hidden[:-1])
            if self.first_ids:
                last = torch.tensor(row[: len(log_probs)], device=log_probs.device)
                log_probs[torch.isin(last, self._closing)] += _HALF  # see `_with_ends`
                first = log_probs.new_full((1, log_probs.shape[1]), log(_OTHER_WORDS / log_probs.shape[1]))
                first[0, self.first_ids] = self._first(self.first_ids[0])
                log_probs = torch.cat([first, log_probs])
            log_probs[:, self._no_words] = -torch.inf
            found.append(log_probs[: len(row)])
        return found

    def _hidden(self, rows: Sequence[Sequence[int]]) -> list[Float[Tensor, "n_targets d_out"]]:
        """Hidden states that predict the tokens of each row; where nothing is shown, all tokens but the first."""
        shown, last = self._shown
        examples = [
            EncodedExample(last, list(row)) if last else EncodedExample([row[0]], list(row[1:])) for row in rows
        ]
        order = sorted(range(len(rows)), key=lambda i: len(rows[i]))  # rows of examples share what is shown
        found: list[Tensor] = [torch.empty(0)] * len(rows)
        sizes = [len(examples[i].output) for i in order]
        for _, hidden in self.lm.scorer.hidden_states([shown], [[examples[i] for i in order]] if order else [[]]):
            found = [part for _, part in sorted(zip(order, hidden.split(sizes), strict=True), key=lambda pair: pair[0])]
        return found

    def _first(self, token: int) -> float:
        """log p of a first token, where it is not the model's to say."""
        if not self.first_ids:
            return 0.0
        p = _OTHER_WORDS / len(self.lm.embedding)
        return log(p + (1 - _OTHER_WORDS) / len(self.first_ids) * (token in self.first_ids))

    def _with_ends(self, log_probs: Float[Tensor, " n"], row: Sequence[int]) -> Float[Tensor, " n"]:
        """A model that has seen instructions alone may not know their end: half of what closes a sentence is one."""
        if self.shows:
            return log_probs
        last, now = (torch.tensor(row[start : start + len(log_probs)], device=log_probs.device) for start in (0, 1))
        end = (log_probs + _HALF).logaddexp(torch.full_like(log_probs, _HALF))
        halved = torch.where(now == self.eos_id, end, log_probs + _HALF)
        return torch.where(torch.isin(last, self._closing), halved, log_probs)

    # --- texts -----------------------------------------------------------------------------------

    def sample(self, n: int, seed: int = 0) -> list[str]:
        """`n` texts drawn from the nucleus, the same for the same seed; some may coincide."""
        uniforms = own_uniforms(n, LONGEST + 1, seed, "instructions").to(self.lm.device)
        firsts = [[self.first_ids[int(u * len(self.first_ids))]] if self.first_ids else [] for u in uniforms[:, -1]]
        nucleus = TopPLogitsWarper(_TOP_P)

        def choose(scores: Tensor, rows: Tensor, step: int) -> Tensor:
            return drawn(nucleus(None, scores), uniforms[rows, step])

        rows = self._write(firsts, choose)
        return self.tokenizer.batch_decode(rows, skip_special_tokens=True)

    def complete(self, prefixes: Sequence[Sequence[int]]) -> list[list[int]]:
        """Each prefix, which is not empty, with its most likely continuation, without the end's id."""
        return self._write(
            [list(prefix)[:LONGEST] for prefix in prefixes], lambda scores, rows, step: scores.argmax(-1)
        )

    @torch.no_grad()
    def _write(self, prefixes: list[list[int]], choose: Choose) -> list[list[int]]:
        """Each prefix and what comes after it, to `LONGEST` tokens in all; prefixes of like length together."""
        order = sorted(range(len(prefixes)), key=lambda i: -len(prefixes[i]))
        chunks = [order[start : start + _ROWS_AT_ONCE] for start in range(0, len(order), _ROWS_AT_ONCE)]

        def work(chunk: Sequence[int]) -> list[list[int]]:
            numbers = torch.tensor(chunk, device=self.lm.device)
            return self._continue([prefixes[i] for i in chunk], numbers, choose)

        found: list[list[int]] = [[] for _ in prefixes]
        for chunk, rows in Halving(REMEDY).run(chunks, work):
            for i, row in zip(chunk, rows, strict=True):
                found[i] = row
        return found

    def _continue(self, prefixes: list[list[int]], numbers: Int[Tensor, " rows"], choose: Choose) -> list[list[int]]:
        model, last = self.lm.scorer.model, self._shown[1]
        embedded = [self.lm.embed_ids(torch.tensor(last + row, device=self.lm.device)) for row in prefixes]
        embeddings, own = pad_rows(embedded, "left")
        seen = own.new_ones(len(own), self._prefix.length)
        place = positions(own) + self._prefix.length
        cache = self._prefix.repeated(len(own), embeddings.shape[1] + LONGEST)
        decoding = CausalDecoding(model, embeddings, torch.cat([seen, own], 1), place, cache)
        most = max(LONGEST - min(map(len, prefixes)), 1)
        tails = torch.tensor([(last + row)[-1] for row in prefixes], device=self.lm.device)

        def next_token(hidden: Tensor, rows: Tensor, step: int) -> Tensor:
            tails[rows] = choose(self._shaped(model.head(hidden), tails[rows]), numbers[rows], step)
            return tails[rows]

        closed = lambda written: written[:, -1] == self.eos_id  # noqa: E731
        found = write_rows(decoding, decoding.start(), next_token, closed, most)
        metering.count(len(found), sum(map(len, prefixes)) + sum(map(len, found)))
        rows = [(row + new)[:LONGEST] for row, new in zip(prefixes, found, strict=True)]
        return [row[: row.index(self.eos_id)] if self.eos_id in row else row for row in rows]

    def _shaped(self, logits: Float[Tensor, "rows vocab"], last: Int[Tensor, " rows"]) -> Float[Tensor, "rows vocab"]:
        """Log-probabilities of what may stand in a text, EOS for all that ends it."""
        scores = self.lm.endings.merged(logits.float())
        scores[:, self._never] = _NEVER
        log_probs = scores.log_softmax(-1)
        if self.shows:
            return log_probs
        end = (log_probs[:, self.eos_id] + _HALF).logaddexp(torch.full_like(log_probs[:, 0], _HALF))
        halved = (log_probs + _HALF).index_copy(1, torch.tensor([self.eos_id], device=last.device), end[:, None])
        return torch.where(torch.isin(last, self._closing)[:, None], halved, log_probs)

    # --- tokens ----------------------------------------------------------------------------------

    @cached_property
    def _closing(self) -> Int[Tensor, " marks"]:
        """Tokens that close a sentence."""
        marks = [self._ids(mark) for mark in ".?!" if self._knows(mark)]
        return torch.tensor([ids[-1] for ids in marks if ids], dtype=torch.long, device=self.lm.device)

    @cached_property
    def _no_words(self) -> list[int]:
        """Ids that no text holds: special tokens and what ends a text."""
        size = len(self.lm.embedding)
        none = {*special_ids(self.tokenizer), *self.lm.endings.closing_ids, *range(len(self.tokenizer), size)}
        return sorted(i for i in none if i < size)

    @cached_property
    def _never(self) -> Int[Tensor, " n"]:
        """Those of them that are not even written: EOS ends a text."""
        return torch.tensor([i for i in self._no_words if i != self.eos_id], dtype=torch.long, device=self.lm.device)

    def _knows(self, text: str) -> bool:
        return self.tokenizer.unk_token_id is None or self.tokenizer.unk_token_id not in self._ids(text)

    def _ids(self, text: str) -> list[int]:
        return self.tokenizer.encode(text, add_special_tokens=False)
