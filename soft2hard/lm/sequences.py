"""From queries to token ids, piece by piece, as the template says."""

from collections.abc import Iterable
from collections.abc import Sequence as Rows
from dataclasses import dataclass
from functools import cached_property
from typing import Literal, NamedTuple

from transformers import PreTrainedTokenizerBase

from soft2hard.errors import UserError
from soft2hard.lm.batching import EncodedExample
from soft2hard.prompts.soft_prompt import Prompt, SoftPrompt
from soft2hard.prompts.template import Kind, Template

Reader = Literal["causal", "encoder-decoder", "masked"]
"""How a subject reads what stands around an output."""


@dataclass(frozen=True)
class Query:
    """One input under one prompt, with the output to be scored if there is one."""

    prompt: Prompt
    """A soft prompt, a hard prompt, or None (the empty text counts as None)."""
    input: str
    """The text that stands after "Input: "."""
    output: str | None = None
    """The text whose probability is asked for; not read by generation."""


_WORDS = "words"  # stands for any text that ends in no special token


class Piece(NamedTuple):
    """A text that is tokenised by itself."""

    text: str
    before: str = ""
    """Text that stands right before it, or its end: some tokenizers begin a text, or what follows a special token, with
    a space."""


class SequenceEncoder:
    """Turns text into token ids, piece by piece, as the template says.

    Tokens that the tokenizer puts around a text are kept: those before it (BOS; a language or mask token) before the
    prompt, and those after it (EOS for T5, SEP for BERT) after the body for encoder-decoder subjects, and after the
    output for masked ones. Raises UserError where the tokenizer has no EOS token, or no BOS token though the template
    asks for one, and for tokens beyond `vocab_size`.
    """

    def __init__(self, tokenizer: PreTrainedTokenizerBase, template: Template, reader: Reader, vocab_size: int) -> None:
        self.tokenizer, self.template, self.vocab_size = tokenizer, template, vocab_size
        self.is_masked, self._reader = reader == "masked", reader
        self.eos_id = self._end()
        self.leading = self._leading()
        """Ids of the tokens before a text, the opening left out."""
        self._body_end = self.around[1] if reader == "encoder-decoder" else []

    def ids(self, pieces: Iterable[Piece]) -> dict[Piece, list[int]]:
        """Token ids of each distinct piece, without special tokens around it."""
        distinct = list(dict.fromkeys(pieces))
        found = dict(zip(distinct, self._plain([piece.text for piece in distinct]), strict=True))
        if not self._begins_texts:
            return found
        inside = [piece for piece in distinct if piece.text and piece.before]
        marks = [self._mark(piece.before) for piece in inside]
        marked = self._plain([mark + piece.text for mark, piece in zip(marks, inside, strict=True)])
        for piece, mark, row in zip(inside, self._plain(marks), marked, strict=True):
            if row[: len(mark)] == mark:
                found[piece] = row[len(mark) :]
        return found

    def _plain(self, texts: Rows[str]) -> list[list[int]]:
        """Token ids of texts that nothing stands before."""
        written = [text for text in texts if text]
        rows = iter(self.tokenizer(written, add_special_tokens=False)["input_ids"] if written else [])
        found = [list(next(rows)) if text else [] for text in texts]
        if max((max(row, default=0) for row in found), default=0) >= self.vocab_size:
            raise UserError(
                f"The tokenizer writes tokens beyond the {self.vocab_size} that the subject has vectors for.",
                "Call model.resize_token_embeddings(len(tokenizer)) and save both, or use the tokenizer it came with.",
            )
        return found

    @cached_property
    def _begins_texts(self) -> bool:
        """Whether the tokenizer writes something of its own before a text."""
        one, two = self._plain(["\n", "\n\n"])
        return len(one) > 1 and two[: len(one)] == one

    @cached_property
    def own_beginnings(self) -> tuple[tuple[str, str], ...]:
        """What is read right before an output, and what it begins with, where it has the tokens of a text of its own,
        if these are others than behind a text: with the space that some tokenizers begin a text with, and behind the
        tokens that they put before it. PEFT's examples tokenise labels so. A decoder of its own writes these tokens; a
        masked LM's output is one token, and begins with nothing."""
        if self.is_masked:
            return ()
        own, tokens = self._plain(["a"])[0], "".join(self.tokenizer.convert_ids_to_tokens(self.around[0]))
        if self._reader == "encoder-decoder":
            is_written = tokens and self.eos_id not in self.around[0]
            forms = [("", tokens, self.around[0] + own)] if is_written else []
        else:
            forms = [("", "", own), *([(tokens, "", own)] if tokens else [])]
        found = []
        for read, lead, ids in forms:
            before = "" if self._reader == "encoder-decoder" else read or _WORDS
            leads = [one for one in (lead, f"{lead} ") if self.text(f"{one}a", before) == ids]
            found += [(read, one) for one in leads[:1] if read or one]
        return tuple(found)

    def _mark(self, before: str) -> str:
        """What a piece is tokenised behind, so that it is not taken for the beginning of a text: the special token that
        ends the text before it, else a line break."""
        ends = [token for token in self._special if before.endswith(token)]
        return max(ends, key=len, default="\n")

    @cached_property
    def _special(self) -> list[str]:
        return [token for token in self.tokenizer.get_added_vocab() if token]

    def text(self, text: str, before: str = "") -> list[int]:
        """Token ids of one text, without special tokens around it, behind the text before it."""
        piece = Piece(text, before)
        return self.ids([piece])[piece]

    def prompt(self, text: str) -> list[int]:
        """Token ids of a hard prompt, as it stands in its place in the template."""
        template = self.template
        before = template.separator.rstrip(" ") or _WORDS if template.input_first else template.opening.rstrip(" ")
        return self.text(template.hard_text(text), before)

    def lead(self, kind: Kind) -> list[int]:
        """Ids of all that stands before a prompt of this kind, whatever the input: none where that comes first."""
        if self.template.input_first or (kind == "soft" and self.template.place == "first"):
            return []
        return self.leading + self.text(self.template.opening_before(kind))

    def example(self, input: str, output: Rows[int], kind: Kind) -> EncodedExample:
        """An input after a prompt of this kind, or around it, and the token ids of its output."""
        return self._example(self.ids(self._around(input, kind)), input, output, kind)

    def begun(self, kind: Kind) -> list[int]:
        """Token ids of the body up to where an input stands, after a prompt of this kind.

        White space right before the input is left to the input's first token, as most tokenizers have it. With
        nothing before the body it begins as after a hard prompt. Where the input comes first, no prompt is read.
        """
        if self.template.input_first:
            return self.leading + self.text((self.template.opening + self.template.input_prefix).rstrip())
        first = kind == "soft" and self.template.place == "first"
        text = self.template.lead_of("soft" if kind == "soft" else "hard") + self.template.input_prefix.rstrip()
        text = (self.template.opening if first else "") + text
        return (self.leading if first else []) + self.text(text, self._before_body(kind))

    def output(self, output: str) -> list[int]:
        """Token ids of one output, EOS included; of a masked LM's the one token."""
        written = self._written(output)
        return self._closed(self.ids([written])[written], output)

    def examples(self, queries: Rows[Query]) -> list[EncodedExample]:
        """Bodies and outputs of queries; texts that several of them share are tokenised once.

        A query without an output gets an empty one.
        """
        around = [piece for query in queries for piece in self._around(query.input, kind_of(query.prompt))]
        written = (self._written(query.output) for query in queries if query.output is not None)
        ids = self.ids([*around, *written])

        def output(query: Query) -> list[int]:
            text = query.output
            return [] if text is None else self._closed(ids[self._written(text)], text)

        return [self._example(ids, query.input, output(query), kind_of(query.prompt)) for query in queries]

    def closed(self, ids: Rows[int]) -> list[int]:
        """The tokens of an output that ended: with EOS, which a masked LM has no place for."""
        return list(ids) if self.is_masked else [*ids, self.eos_id]

    def _closed(self, ids: list[int], output: str) -> list[int]:
        if self.is_masked and len(ids) != 1:
            remedy = "Take tasks whose outputs are words of its vocabulary, such as great and terrible."
            if not self.template.output_lead and len(self.text(f" {output}")) == 1:
                remedy = "Write a space before {output} in the template: with it, the output is one."
            raise UserError(
                f"A masked language model fills in one token, and the output {output!r} is {len(ids)} for it.", remedy
            )
        return self.closed(ids)

    def _written(self, output: str) -> Piece:
        """What a subject writes; a decoder of its own begins with it."""
        before = "" if self._reader == "encoder-decoder" else self.template.output_prefix or _WORDS
        return Piece(self.template.output_text(output), before)

    def _before_body(self, kind: Kind) -> str:
        """What stands right before a body; virtual tokens are no text, and users of PEFT begin behind them."""
        return {"hard": _WORDS, "none": self.template.opening.rstrip(" "), "soft": ""}[kind]

    def _around(self, input: str, kind: Kind) -> tuple[Piece, Piece]:
        """The text before a prompt of this kind that is this input's own, and the text after it."""
        if self.template.input_first:
            before = "" if kind == "soft" else _WORDS
            return Piece(self.template.before_text(input, kind)), Piece(self.template.output_prefix, before)
        # All that follows virtual tokens at the very beginning is one text, as PEFT's users tokenise it.
        first = kind == "soft" and self.template.place == "first"
        before = self.template.opening if first else self.template.spaces_before_body(kind)
        return Piece(""), Piece(before + self.template.body_text(input, kind), self._before_body(kind))

    def _example(self, ids: dict[Piece, list[int]], input: str, output: Rows[int], kind: Kind) -> EncodedExample:
        before, body = (ids[piece] for piece in self._around(input, kind))
        first = kind == "soft" and self.template.place == "first"
        return EncodedExample(
            (self.leading if first else []) + body + self._body_end,
            list(output),
            self.leading + before if self.template.input_first else [],
            self._after if self.is_masked else None,
        )

    @cached_property
    def _after(self) -> list[int]:
        """What a masked LM reads behind the output."""
        return self.text(self.template.output_suffix, before=_WORDS) + self.around[1]

    def _end(self) -> int:
        tokenizer = self.tokenizer
        end = tokenizer.eos_token_id
        if end is None and self.is_masked:
            end = tokenizer.sep_token_id
        if end is None:
            raise UserError(
                "The subject's tokenizer has no end-of-sequence token, so outputs could not end.",
                "Name one as eos_token in its tokenizer_config.json.",
            )
        if self.is_masked and tokenizer.mask_token_id is None:
            raise UserError(
                "The subject is a masked language model, and its tokenizer has no mask token.",
                "Name one as mask_token in its tokenizer_config.json.",
            )
        return end

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
