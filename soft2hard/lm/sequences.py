"""From queries to token ids, piece by piece, as the template says."""

from collections.abc import Iterable
from collections.abc import Sequence as Rows
from dataclasses import dataclass
from functools import cached_property

from transformers import PreTrainedTokenizerBase

from soft2hard.errors import UserError
from soft2hard.lm.batching import EncodedExample
from soft2hard.prompts.soft_prompt import Prompt, SoftPrompt
from soft2hard.prompts.template import Kind, Template


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

    Tokens that the tokenizer puts around a text are kept: those before it (BOS; a language or mask token) before the
    prompt, and for encoder-decoder subjects those after it (EOS for T5) after the body. Raises UserError where the
    tokenizer has no EOS token, or no BOS token though the template asks for one, and for tokens beyond `vocab_size`.
    """

    def __init__(
        self, tokenizer: PreTrainedTokenizerBase, template: Template, is_encoder_decoder: bool, vocab_size: int
    ) -> None:
        self.tokenizer, self.template, self.vocab_size = tokenizer, template, vocab_size
        if tokenizer.eos_token_id is None:
            raise UserError(
                "The subject's tokenizer has no end-of-sequence token, so outputs could not end.",
                "Name one as eos_token in its tokenizer_config.json.",
            )
        self.eos_id: int = tokenizer.eos_token_id
        self.leading = self._leading()
        """Ids of the tokens before a text, the opening left out."""
        self._body_end = self.around[1] if is_encoder_decoder else []

    def texts(self, texts: Iterable[str]) -> dict[str, list[int]]:
        """Token ids of each distinct text, without special tokens around it."""
        distinct = [text for text in dict.fromkeys(texts) if text]
        ids = self.tokenizer(distinct, add_special_tokens=False)["input_ids"] if distinct else []
        if max((max(row, default=0) for row in ids), default=0) >= self.vocab_size:
            raise UserError(
                f"The tokenizer writes tokens beyond the {self.vocab_size} that the subject has vectors for.",
                "Call model.resize_token_embeddings(len(tokenizer)) and save both, or use the tokenizer it came with.",
            )
        return {"": [], **{text: list(row) for text, row in zip(distinct, ids, strict=True)}}

    def text(self, text: str) -> list[int]:
        """Token ids of one text, without special tokens around it."""
        return self.texts([text])[text]

    def lead(self, kind: Kind) -> list[int]:
        """Ids of all that stands before a prompt of this kind."""
        if kind == "soft" and self.template.place == "first":
            return []
        return self.leading + self.text(self.template.opening)

    def body(self, input: str, kind: Kind) -> list[int]:
        """Token ids of the body around one input, after a prompt of this kind."""
        return self._body(self.texts([self._body_text(input, kind)]), self._body_text(input, kind), kind)

    def begun(self, kind: Kind) -> list[int]:
        """Token ids of the body up to where an input stands, after a prompt of this kind.

        White space right before the input is left to the input's first token, as most tokenizers have it. With
        nothing before the body it begins as after a hard prompt.
        """
        first = kind == "soft" and self.template.place == "first"
        text = self.template.lead_of("soft" if kind == "soft" else "hard") + self.template.input_prefix.rstrip()
        return (self.leading if first else []) + self.text((self.template.opening if first else "") + text)

    def output(self, output: str) -> list[int]:
        """Token ids of one output, EOS included."""
        return [*self.text(self.template.output_text(output)), self.eos_id]

    def examples(self, queries: Rows[Query]) -> list[EncodedExample]:
        """Bodies and outputs of queries; texts that several of them share are tokenised once.

        A query without an output gets an empty one.
        """
        kinds = [kind_of(query.prompt) for query in queries]
        bodies = [self._body_text(query.input, kind) for query, kind in zip(queries, kinds, strict=True)]
        outputs = [None if query.output is None else self.template.output_text(query.output) for query in queries]
        ids = self.texts([*bodies, *(output for output in outputs if output is not None)])
        return [
            EncodedExample(self._body(ids, body, kind), [] if output is None else [*ids[output], self.eos_id])
            for body, kind, output in zip(bodies, kinds, outputs, strict=True)
        ]

    def _body_text(self, input: str, kind: Kind) -> str:
        # All that follows virtual tokens at the very beginning is one text, as PEFT's users tokenise it.
        first = kind == "soft" and self.template.place == "first"
        return (self.template.opening if first else "") + self.template.body_text(input, kind)

    def _body(self, ids: dict[str, list[int]], body: str, kind: Kind) -> list[int]:
        first = kind == "soft" and self.template.place == "first"
        return (self.leading if first else []) + ids[body] + self._body_end

    def _leading(self) -> list[int]:
        found = [] if self.template.bos is False else self.around[0]
        if self.template.bos and not found:
            if self.tokenizer.bos_token_id is None:
                raise UserError(
                    "The template asks for a BOS token, and the subject's tokenizer has none.",
                    "Use a template with bos=False, or name a bos_token in tokenizer_config.json.",
                )
            return [self.tokenizer.bos_token_id]
        return found

    @cached_property
    def around(self) -> tuple[list[int], list[int]]:
        """The tokens that the tokenizer puts before and after any text."""
        plain, full = (list(self.tokenizer("a", add_special_tokens=s)["input_ids"]) for s in (False, True))
        starts = [i for i in range(len(full) - len(plain) + 1) if full[i : i + len(plain)] == plain]
        # A tokenizer that gives the text itself other ids has no tokens around it that could be told apart.
        return (full[: starts[-1]], full[starts[-1] + len(plain) :]) if starts else ([], [])


def kind_of(prompt: Prompt) -> Kind:
    """The kind of a prompt; None and the empty text are none."""
    return "soft" if isinstance(prompt, SoftPrompt) else "hard" if prompt else "none"
