"""Texts sampled from a local language model; `api.text_generation` has those behind an API."""

from collections import defaultdict
from collections.abc import Sequence
from itertools import count
from random import Random
from typing import Protocol, runtime_checkable

import torch
from jaxtyping import Float, Int
from torch import Tensor
from transformers import LogitsProcessor, LogitsProcessorList

from soft2hard.errors import UserError
from soft2hard.lm.batching import pad
from soft2hard.lm.subject import Subject
from soft2hard.lm.templates import chat_template
from soft2hard.prompts.template import without_thinking

_ROWS_AT_ONCE = 64
_NEUTRAL = {"temperature": 1.0, "top_p": 1.0, "top_k": 50, "repetition_penalty": 1.0, "no_repeat_ngram_size": 0}
"""Settings that greedy search reads or warns of, against a model's own (top_k: the default, and not in use)."""


@runtime_checkable
class TextGenerator(Protocol):
    """Any language model that continues texts."""

    def sample(self, texts: Sequence[str], n: int, seed: int) -> list[list[str]]:
        """`n` sampled continuations of each text, each up to the first line break."""
        ...


@runtime_checkable
class WholeTextGenerator(TextGenerator, Protocol):
    """One that writes more than a line, as both kinds here do."""

    def whole(self, max_new_tokens: int) -> TextGenerator:
        """The same model, which gives whole continuations of up to so many tokens."""
        ...


class LocalGenerator:
    """A causal language model on this machine, sampled at `temperature`.

    Raises UserError for a model of another kind, one whose context has no room for an answer, and for settings that
    cannot be sampled with.
    """

    def __init__(self, lm: Subject, max_new_tokens: int = 48, temperature: float = 0.9, *, chat: bool = False):
        """`chat`: each text is what a user says, in the model's chat template, where it has one. A model that can think
        before it answers is asked not to: thoughts would use up the tokens of the answer."""
        if not lm.continues_text:
            raise UserError(f"The generator '{lm.name}' is {lm.family}.", "Give one that continues a text.")
        if temperature <= 0 or max_new_tokens < 1:
            raise UserError(
                f"Cannot sample {max_new_tokens} tokens at temperature {temperature}.", "Both must be above 0."
            )
        if lm.context_length is not None and lm.context_length <= max_new_tokens + 1:
            raise UserError(
                f"The generator '{lm.name}' has a context of {lm.context_length} tokens, and answers take "
                f"{max_new_tokens}.",
                "Use a model with a longer context.",
            )
        self.lm, self.max_new_tokens, self.temperature, self._kept = lm, max_new_tokens, temperature, first_line
        has_turns = chat and getattr(lm.tokenizer, "chat_template", None)
        self._turn = chat_template(lm.tokenizer, enable_thinking=False) if has_turns else None

    def whole(self, max_new_tokens: int) -> "LocalGenerator":
        """The same model, in its chat template where it has one; half of a short context is left for what is asked."""
        room = (self.lm.context_length or 2 * max_new_tokens) // 2
        found = LocalGenerator(self.lm, min(max_new_tokens, room), self.temperature, chat=True)
        found._kept = str.strip
        return found

    @torch.no_grad()
    def sample(self, texts: Sequence[str], n: int, seed: int) -> list[list[str]]:
        """`n` continuations of each text up to a line break; a text too long for the context is cut on its left.

        A sample depends on the seed, its text, and how many samples of that text come before it in this call. Other
        texts change nothing beyond rounding.
        """
        ids = {text: self._encode(text) for text in dict.fromkeys(texts)}
        jobs = numbered(texts, n)
        written = [""] * len(jobs)
        order = sorted(range(len(jobs)), key=lambda job: len(ids[jobs[job][0]]))
        for start in range(0, len(order), _ROWS_AT_ONCE):
            chunk = order[start : start + _ROWS_AT_ONCE]
            seeds = [f"{seed}/{jobs[job][1]}/{jobs[job][0]}" for job in chunk]
            for job, text in zip(chunk, self._continue([ids[jobs[job][0]] for job in chunk], seeds), strict=True):
                written[job] = text
        return [written[i : i + n] for i in range(0, len(written), n)]

    def _encode(self, text: str) -> list[int]:
        """Token ids of a text, at least one; those that are too many are left out after BOS, if there is one."""
        if self._turn is not None:  # the chat template writes all special tokens itself
            text = f"{self._turn.opening}{text}{self._turn.output_prefix}"
        ids = self.lm.tokenizer.encode(text, add_special_tokens=self._turn is None) or [self.lm.eos_ids[0]]
        room = (self.lm.context_length or 2**20) - self.max_new_tokens
        n_lead = int(ids[0] == self.lm.tokenizer.bos_token_id)
        return ids if len(ids) <= room else ids[:n_lead] + ids[n_lead - room :]

    def _continue(self, rows: list[list[int]], seeds: Sequence[str]) -> list[str]:
        """One continuation of each row, drawn from a random stream of its own."""
        ids, real = pad(rows, "left", self.lm.device)
        written = self.lm.model.generate(
            input_ids=ids,
            attention_mask=real.long(),
            logits_processor=LogitsProcessorList([_Drawing(seeds, self.temperature, ids.device)]),
            do_sample=False,  # the noise is in the logits
            **_NEUTRAL,
            max_new_tokens=self.max_new_tokens,
            num_beams=1,
            eos_token_id=self.lm.eos_ids,
            pad_token_id=self.lm.eos_ids[0],
        )[:, ids.shape[1] :]
        texts = self.lm.tokenizer.batch_decode(written, skip_special_tokens=True)
        return [self._kept(text if self._turn is None else without_thinking(text)) for text in texts]


class _Drawing(LogitsProcessor):
    """Makes the greedy choice a sample: argmax(logits / T + Gumbel noise) is distributed as softmax(logits / T).

    Each row's noise comes from a stream of its own, so that rows beside it change nothing.
    """

    def __init__(self, seeds: Sequence[str], temperature: float, device: torch.device):
        self._streams = [torch.Generator(device).manual_seed(Random(seed).getrandbits(63)) for seed in seeds]
        self._temperature = temperature

    def __call__(
        self, input_ids: Int[Tensor, "rows length"], scores: Float[Tensor, "rows vocab"]
    ) -> Float[Tensor, "rows vocab"]:
        # In float64: in float32 tokens rarer than one in 2^24 would never be drawn.
        waits = torch.empty(scores.shape, dtype=torch.float64, device=scores.device)
        for row, stream in zip(waits, self._streams, strict=True):
            row.exponential_(generator=stream)
        return scores.double() / self._temperature - waits.clamp_min(torch.finfo(torch.float64).tiny).log()


def numbered(texts: Sequence[str], n: int) -> list[tuple[str, int]]:
    """Each text `n` times, with the number of times it came before, which tells samples of the same text apart."""
    seen: defaultdict[str, count] = defaultdict(count)
    return [(text, next(seen[text])) for text in texts for _ in range(n)]


def first_line(text: str) -> str:
    """A text up to its first line break, without the white space around it."""
    return text.strip().split("\n")[0].strip()
