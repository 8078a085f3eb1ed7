"""The one place that says how prompt, input and output become a sequence."""

from collections.abc import Iterable
from dataclasses import dataclass
from typing import Protocol, runtime_checkable


@runtime_checkable
class InputOutput(Protocol):
    """Anything with an input text and an output text, such as an example of a task."""

    @property
    def input(self) -> str: ...

    @property
    def output(self) -> str: ...


@dataclass(frozen=True)
class Template:
    r"""How a query is written down, the same for soft prompts and hard prompts.

    A decoder-only subject reads ``[BOS] [prompt] body output [EOS]``, where the body is
    ``"\nInput: {input}\nOutput:"`` and the output ``" {output}"``. Without a prompt the body begins at
    ``"Input: "``. An encoder-decoder subject reads ``[prompt] body`` in its encoder and writes
    ``output [EOS]`` with its decoder.

    Prompt, body and output are tokenised one by one and their token ids joined, so that the ids of body and
    output never depend on the prompt: a soft prompt and a hard prompt are followed by the very same tokens.
    """

    separator: str = "\n"
    """Between a prompt and the body, and between the blocks of a few-shot prompt."""
    input_prefix: str = "Input: "
    """Before the input."""
    output_prefix: str = "\nOutput:"
    """After the input; the last text the subject reads."""
    output_lead: str = " "
    """Before the output, as part of what the subject has to write."""
    bos: bool | None = None
    """Whether sequences begin with the BOS token; None: as the tokenizer does it."""

    def body_text(self, input: str, has_prompt: bool) -> str:
        """The text around one input, beginning with the separator where a prompt comes before it."""
        lead = self.separator if has_prompt else ""
        return f"{lead}{self.input_prefix}{input}{self.output_prefix}"

    def output_text(self, output: str) -> str:
        """The text the subject has to write, EOS apart."""
        return f"{self.output_lead}{output}"

    def few_shot_text(self, examples: Iterable[InputOutput], instruction: str | None = None) -> str:
        """Solved examples, after an instruction if there is one, as the text of a hard prompt.

        Each example is written exactly as a query without a prompt and its output would be.
        """
        blocks = [self.body_text(example.input, False) + self.output_text(example.output) for example in examples]
        return self.separator.join([instruction, *blocks] if instruction else blocks)
