"""Where candidate texts come from: the interface of every proposer."""

from collections.abc import Sequence
from dataclasses import dataclass
from random import Random
from typing import ClassVar, Protocol, runtime_checkable

from soft2hard.prompts.soft_prompt import SoftPrompt
from soft2hard.translator.settings import ProposerName


@dataclass(frozen=True)
class Observed:
    """A soft prompt, and what it has been seen to do."""

    soft_prompt: SoftPrompt
    inputs: tuple[str, ...] = ()
    outputs: tuple[str, ...] = ()
    """The subject's output for each input under the soft prompt."""
    plain: tuple[str, ...] = ()
    """Its output for each input without any prompt; empty where it has nothing to read then."""
    number: int = 0
    """Its place among the soft prompts, on whose behalf models are run."""

    def random(self, *of: object) -> Random:
        """Random numbers that depend on these values and on what the soft prompt is, whatever others are beside it."""
        return Random(f"{of}/{self.soft_prompt.embeddings.double().sum().item()!r}/{self.inputs}")


@runtime_checkable
class Proposer(Protocol):
    """Something that has ideas about what soft prompts say. Whether they are true is found by running them."""

    name: ClassVar[ProposerName]

    def propose(self, observed: Sequence[Observed], seed: int) -> list[list[str]]:
        """Texts for each soft prompt, all in shared batches; the same for the same soft prompt and seed."""
        ...


def distinct(texts: Sequence[str]) -> list[str]:
    """Texts on one line, without quotes around them, each once; empty ones are left out."""
    cleaned = (" ".join(text.split()).strip(" :\"'") for text in texts)
    return list(dict.fromkeys(text for text in cleaned if text))
