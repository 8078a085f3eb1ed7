"""The subject as a proposer of its own: texts that it finds likely as instructions, for any soft prompt of it.

Nothing is trained, and nothing is read from the soft prompt: the subject, shown a few instructions of other tasks,
writes further ones. Which of them act like the soft prompt is found by running both (`candidates.choose`): swaps of
single words and rewritten ends of the best, round after round, ranked by log p(text) under this prior less the summed
KL(soft || text) over the probe inputs. No label is seen: the soft prompt is the teacher. A text pays for its end, so
that nothing trails behind it.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from functools import cached_property

import torch
from jaxtyping import Float, Int
from torch import Tensor
from transformers import LogitsProcessor, LogitsProcessorList, PreTrainedModel, PreTrainedTokenizerBase

from soft2hard.errors import UserError
from soft2hard.lm.batching import positions
from soft2hard.lm.subject import Subject
from soft2hard.prompts.soft_prompt import SoftPrompt
from soft2hard.translator.data import padded
from soft2hard.translator.model import Labels, Logits, Mask, Memory, SoftPrompts

_NEVER = -1e9  # a logit; finite, so that sums of them are
_HALF = -0.6931471805599453  # its logarithm

INSTRUCTION_TOKENS = 24
"""Longest text that is searched for."""
SHOWN = (
    "Write the opposite of the word.",
    "Say whether the review is positive or negative.",
    "Translate the word to German.",
    "Answer with the last letter of the name.",
    "List the animals in the sentence.",
    "Is the statement true? Answer yes or no.",
)
"""Instructions that a subject is shown, of common tasks and in short words."""
FIRST_WORDS = (
    "Write Give Say Answer Is Does Pick Choose Keep Find Name Count Put Replace Reverse List Tell Translate Sort "
    "Remove Repeat Take Output Which What How If"
).split()
"""Words that instructions begin with, for a subject that does not know all the words of `SHOWN`: its texts begin with
one of these, all equally likely."""


@dataclass(frozen=True)
class _Sizes:
    """What a proposer says of itself, as a translator's card does."""

    instruction_tokens: int = INSTRUCTION_TOKENS


class PriorModel:
    """The subject behind the instructions it is shown, written from as a translator's model is."""

    n_start = 0

    def __init__(self, subject: Subject, shown: str, first_ids: list[int]):
        """Texts follow `shown`; where nothing stands before them, they begin with one of `first_ids`."""
        after = subject.template.input_prefix.split()[:1]  # what follows an instruction where a line break is no token
        self.subject = subject.with_template(replace(subject.template, stops=("\n", *after)))
        self._first_ids = first_ids
        marks = [subject.tokenizer.encode(mark, add_special_tokens=False) for mark in ".?!"]
        self._closing = torch.tensor([ids[-1] for ids in marks if ids], device=subject.device)
        self.eos_id = self.subject.endings.eos_id
        self._eos = torch.tensor([self.eos_id], device=subject.device)
        self.lm: PreTrainedModel = subject.model
        self._shown = torch.cat([subject.lead_embeddings("hard"), subject.embed_text(shown)])
        self._is_shown = bool(len(self._shown)) or not first_ids
        if not len(self._shown):  # `generate` wants something to begin from
            self._shown = subject.embed_ids(torch.tensor([self.eos_id], device=subject.device))

    def eval(self) -> "PriorModel":
        return self

    def encode(self, soft_prompts: SoftPrompts, attention_mask: Mask) -> Memory:
        """What was shown, for each soft prompt; what stands in for nothing is not attended to."""
        n = len(soft_prompts)
        states = self._shown.to(self.lm.dtype).expand(n, -1, -1)
        return Memory(states, torch.full(states.shape[:2], int(self._is_shown), device=states.device))

    def logits(self, memory: Memory, labels: Labels) -> Logits:
        """How likely each next token is; EOS has the probability of all that ends a line."""
        before = labels[:, :-1]
        words = self.subject.embed_ids(before.clamp(min=0)).to(memory.states)
        mask = torch.cat([memory.mask, (before >= 0).long()], 1)
        hidden = self.subject.backbone(torch.cat([memory.states, words], 1), mask.bool(), positions(mask.bool()))
        logits = self.subject.endings.merged(self.subject.head(hidden[:, -labels.shape[1] :]).float())
        if self._is_shown:
            return logits
        later = self._after(logits[:, 1:], before.clamp(min=0))
        return torch.cat([self._first(logits[:, :1]), later], 1)

    def shaped(
        self, written: Int[Tensor, "rows n_read"], scores: Float[Tensor, "rows vocab"]
    ) -> Float[Tensor, "rows vocab"]:
        """The same of the next token while `generate` writes."""
        scores = self.subject.endings.merged(scores.float())
        if self._is_shown:
            return scores
        return self._after(scores, written[:, -1]) if written.shape[1] else self._first(scores)

    def _first(self, logits: Float[Tensor, "*rows vocab"]) -> Float[Tensor, "*rows vocab"]:
        """All first words are equally likely."""
        return torch.full_like(logits, _NEVER).index_fill(-1, torch.tensor(self._first_ids, device=logits.device), 0.0)

    def _after(self, logits: Float[Tensor, "*rows vocab"], last: Int[Tensor, "*rows"]) -> Float[Tensor, "*rows vocab"]:
        """A subject that has seen instructions alone may not know their end: half of what closes a sentence is one."""
        log_probs = logits.log_softmax(-1)
        end = (log_probs[..., self.eos_id] + _HALF).logaddexp(torch.full_like(log_probs[..., 0], _HALF))
        halved = (log_probs + _HALF).index_copy(-1, self._eos, end[..., None])
        return torch.where(torch.isin(last, self._closing)[..., None], halved, log_probs)

    def generate(self, memory: Memory, **settings: object) -> Int[Tensor, "rows length"]:
        """As transformers' `generate`; whatever ends a line comes out as EOS."""
        ends = self.subject.endings.ids
        given = settings.pop("logits_processor", LogitsProcessorList())
        processors = LogitsProcessorList([_Shaped(self.shaped), *given])
        rows = self.lm.generate(
            inputs_embeds=memory.states,
            attention_mask=memory.mask,
            logits_processor=processors,
            **{"eos_token_id": ends, "pad_token_id": self.eos_id} | settings,
        )
        return rows.masked_fill(torch.isin(rows, torch.tensor(ends, device=rows.device)), self.eos_id)


class _Shaped(LogitsProcessor):
    def __init__(self, shaped: Callable[[Tensor, Tensor], Tensor]):
        self.shaped = shaped

    def __call__(self, input_ids: Int[Tensor, "rows n_read"], scores: Float[Tensor, "rows vocab"]) -> Tensor:
        return self.shaped(input_ids, scores)


class InstructionPrior:
    """Stands where a translator stands, for a causal subject that has none.

    Raises UserError for an encoder-decoder, which continues no text.
    """

    card = _Sizes()
    has_beams = False
    """Its likeliest texts are one task's in many wordings, so that samples say more."""

    def __init__(self, subject: Subject):
        if subject.is_encoder_decoder:
            raise UserError(
                f"No translator fits the subject '{subject.name}', and an encoder-decoder cannot propose texts itself.",
                "Give a translator for it, trained by soft2hard tune --dod and soft2hard train.",
            )
        self.subject = subject

    @cached_property
    def model(self) -> PriorModel:
        if all(map(self._knows, SHOWN)):
            return PriorModel(self.subject, "".join(f"{text}\n" for text in SHOWN), [])
        return PriorModel(self.subject, "", [self._ids(word)[0] for word in filter(self._knows, FIRST_WORDS)])

    def _knows(self, text: str) -> bool:
        return self.tokenizer.unk_token_id is None or self.tokenizer.unk_token_id not in self._ids(text)

    @property
    def tokenizer(self) -> PreTrainedTokenizerBase:
        return self.subject.tokenizer

    @property
    def device(self) -> torch.device:
        return self.subject.device

    def check(self, soft_prompt: SoftPrompt) -> None:
        """Raise UserError for a soft prompt of another subject."""
        self.subject.check(soft_prompt)

    def bind(self, subject: Subject) -> None:
        """It writes with its own subject."""

    def encode_instruction(self, text: str) -> list[int]:
        """Token ids of a text, cut to the longest that is searched for, with its end."""
        return [*self._ids(text)[: self.card.instruction_tokens], self.model.eos_id]

    def encode_batch(
        self, soft_prompts: Sequence[SoftPrompt]
    ) -> tuple[Float[Tensor, "batch n d_subject"], Int[Tensor, "batch n"]]:
        """Soft prompts padded to one length, and their mask, as a translator takes them."""
        return padded([soft_prompt.embeddings for soft_prompt in soft_prompts])

    def n_read(self, soft_prompt: SoftPrompt) -> int:
        """Tokens that are read before a text."""
        return len(self.model._shown)

    def _ids(self, text: str) -> list[int]:
        return self.tokenizer.encode(text, add_special_tokens=False)
