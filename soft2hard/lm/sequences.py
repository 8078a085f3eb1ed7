"""From queries to token ids, piece by piece, as the template says."""

from collections.abc import Iterable
from collections.abc import Sequence as Rows
from dataclasses import dataclass
from functools import cached_property

from transformers import PreTrainedTokenizerBase

from soft2hard.errors import UserError
from soft2hard.lm.batching import EncodedExample
from soft2hard.lm.template import Template
from soft2hard.prompts.soft_prompt import Prompt


@dataclass(frozen=True)
class Query:
    """One input under one prompt, with the output to be scored if there is one."""

    prompt: Prompt
    """A soft prompt, a hard prompt, or None (the empty text counts as None)."""
    input: str
    """The text that stands after "Input: "."""
    output: str | None = None
    """The text whose probability is asked for; not read by generation."""


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

    def examples(self, queries: Rows[Query]) -> list[EncodedExample]:
        """Bodies and outputs of queries; texts that several of them share are tokenised once.

        A query without an output gets an empty one.
        """
        bodies = [self.template.body_text(query.input, has_prompt(query.prompt)) for query in queries]
        outputs = [None if query.output is None else self.template.output_text(query.output) for query in queries]
        ids = self.texts([*bodies, *(output for output in outputs if output is not None)])
        return [
            EncodedExample(ids[body] + self._body_end, [] if output is None else [*ids[output], self.eos_id])
            for body, output in zip(bodies, outputs, strict=True)
        ]

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
