"""From queries to token sequences, in which a soft prompt's place is kept by placeholder ids."""

from collections.abc import Iterable
from collections.abc import Sequence as Rows
from dataclasses import dataclass
from functools import cached_property

from jaxtyping import Bool, Float
from torch import Tensor
from transformers import PreTrainedTokenizerBase

from soft2hard.errors import UserError
from soft2hard.lm.batching import Side, pad
from soft2hard.lm.frozen_model import FrozenModel
from soft2hard.lm.queries import Query
from soft2hard.lm.template import Template
from soft2hard.prompts.soft_prompt import Prompt, SoftPrompt

_PLACEHOLDER_ID = 0  # looked up where a soft prompt lies, then overwritten


@dataclass(frozen=True)
class TokenSequence:
    """A query as tokens."""

    ids: list[int]
    """What the subject reads before the output: BOS, prompt, body; placeholders where the soft prompt lies."""
    target: list[int]
    """The output and EOS; empty where the query has no output."""
    soft_prompt: SoftPrompt | None
    """What takes the placeholders' place."""
    soft_start: int
    """Index of the first placeholder."""


class SequenceEncoder:
    """Turns text into token ids, piece by piece, as the template says.

    Tokens that the tokenizer puts around a text are kept: BOS before the prompt, and for encoder-decoder subjects
    EOS after the body (T5 ends its encoder input so). Raises UserError where the tokenizer has no EOS token, or no
    BOS token though the template asks for one.
    """

    def __init__(self, tokenizer: PreTrainedTokenizerBase, template: Template, is_encoder_decoder: bool) -> None:
        self.tokenizer = tokenizer
        self.template = template
        if tokenizer.eos_token_id is None:
            raise UserError(
                "The subject's tokenizer has no end-of-sequence token, so outputs could not end.",
                "Name one as eos_token in its tokenizer_config.json.",
            )
        self.eos_id: int = tokenizer.eos_token_id
        self.bos = self._bos()
        """The BOS token's id, or nothing."""
        self._body_end = [self.eos_id] if is_encoder_decoder and self._ends_with_eos else []

    def texts(self, texts: Iterable[str]) -> dict[str, list[int]]:
        """Token ids of each distinct text, without special tokens."""
        distinct = [text for text in dict.fromkeys(texts) if text]
        ids = self.tokenizer(distinct, add_special_tokens=False)["input_ids"] if distinct else []
        return {"": [], **{text: list(row) for text, row in zip(distinct, ids, strict=True)}}

    def text(self, text: str) -> list[int]:
        """Token ids of one text, without special tokens."""
        return self.texts([text])[text]

    def body(self, input: str, has_prompt: bool) -> list[int]:
        """Token ids of the body around one input."""
        return self.text(self.template.body_text(input, has_prompt)) + self._body_end

    def output(self, output: str) -> list[int]:
        """Token ids of one output, EOS included."""
        return [*self.text(self.template.output_text(output)), self.eos_id]

    def queries(self, queries: Rows[Query], with_output: bool) -> list[TokenSequence]:
        """All queries as tokens; texts that several of them share are tokenised once.

        Raises UserError where an output is wanted and a query has none, and for a query without any token to read.
        """
        if with_output and any(query.output is None for query in queries):
            raise UserError("A query without an output cannot be scored.", "Give every query an output.")
        bodies = [self.template.body_text(query.input, has_prompt(query.prompt)) for query in queries]
        outputs = [self.template.output_text(query.output) for query in queries] if with_output else []
        prompts = [query.prompt for query in queries if isinstance(query.prompt, str)]
        ids = self.texts([*prompts, *bodies, *outputs])
        targets = [[*ids[output], self.eos_id] for output in outputs] or [[] for _ in queries]
        return [
            self._sequence(query.prompt, ids, body, target)
            for query, body, target in zip(queries, bodies, targets, strict=True)
        ]

    def _sequence(self, prompt: Prompt, ids: dict[str, list[int]], body: str, target: list[int]) -> TokenSequence:
        soft_prompt = prompt if isinstance(prompt, SoftPrompt) else None
        middle = [_PLACEHOLDER_ID] * soft_prompt.n_tokens if soft_prompt is not None else ids[prompt or ""]
        sequence = [*self.bos, *middle, *ids[body], *self._body_end]
        if not sequence:
            raise UserError("A query has no token for the subject to read.", "Give it a prompt or an input.")
        return TokenSequence(sequence, target, soft_prompt, len(self.bos))

    def _bos(self) -> list[int]:
        wanted = self._starts_with_bos if self.template.bos is None else self.template.bos
        if wanted and self.tokenizer.bos_token_id is None:
            raise UserError(
                "The template asks for a BOS token, and the subject's tokenizer has none.",
                "Use a template with bos=False, or name a bos_token in tokenizer_config.json.",
            )
        return [self.tokenizer.bos_token_id] if wanted else []

    @property
    def _starts_with_bos(self) -> bool:
        bos, plain, full = self.tokenizer.bos_token_id, *self._plain_and_full
        return bos is not None and full[:1] == [bos] and plain[:1] != [bos]

    @property
    def _ends_with_eos(self) -> bool:
        plain, full = self._plain_and_full
        return len(full) > len(plain) and full[-1:] == [self.eos_id] and plain[-1:] != [self.eos_id]

    @cached_property
    def _plain_and_full(self) -> tuple[list[int], list[int]]:
        """Any text without and with what the tokenizer puts around it."""
        plain, full = (self.tokenizer("a", add_special_tokens=special)["input_ids"] for special in (False, True))
        return list(plain), list(full)


def has_prompt(prompt: Prompt) -> bool:
    """Whether there is a prompt: None and the empty text are none."""
    return prompt is not None and prompt != ""


def embed_sequences(
    model: FrozenModel, rows: Rows[Rows[int]], sequences: Rows[TokenSequence], side: Side
) -> tuple[Float[Tensor, "batch length d_model"], Bool[Tensor, "batch length"]]:
    """Padded embeddings of `rows` and the mask of real tokens, with soft prompts in their place.

    `rows` are the sequences' ids, or longer lists that begin with them.
    """
    ids, mask = pad(rows, side, model.device)
    embeddings = model.embed(ids)
    moved: dict[int, Tensor] = {}
    for index, (row, sequence) in enumerate(zip(rows, sequences, strict=True)):
        soft_prompt = sequence.soft_prompt
        if soft_prompt is None:
            continue
        if id(soft_prompt) not in moved:
            moved[id(soft_prompt)] = soft_prompt.embeddings.to(model.device, model.dtype)
        start = sequence.soft_start + (ids.shape[1] - len(row) if side == "left" else 0)
        embeddings[index, start : start + soft_prompt.n_tokens] = moved[id(soft_prompt)]
    return embeddings, mask
