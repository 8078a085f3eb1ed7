"""When two texts say the same, and the texts that soft prompts are translated to for such comparisons."""

from collections.abc import Callable, Sequence

from soft2hard.data_gen.dods.lexical import parse
from soft2hard.prompts.soft_prompt import SoftPrompt
from soft2hard.translator.candidates import propose
from soft2hard.translator.model import Translator

Translate = Callable[[Sequence[SoftPrompt]], list[str]]
"""One text a soft prompt, all in shared batches; empty where there is none."""


def greedy_translation(translator: Translator) -> Translate:
    """What the translator writes first: unverified, so that no search evens out what changes in a soft prompt."""
    return lambda prompts: [texts[0] if texts else "" for texts in propose(translator, list(prompts), 1)]


def translate_rows(translate: Translate | None, rows: Sequence[Sequence[SoftPrompt]]) -> list[list[str]] | None:
    """The texts of rows of soft prompts, from one call; None where there is nothing to translate them with."""
    if translate is None:
        return None
    written = iter(translate([prompt for row in rows for prompt in row]))
    return [[next(written) for _ in row] for row in rows]


def meaning(text: str) -> str | None:
    """What tells texts apart: the task of a text of the lexical DoD whatever its phrasing, else the text itself.

    Case and white space of other texts count for nothing. None for a text without words, which says nothing.
    """
    task = parse(text)
    words = " ".join(text.split()).casefold()
    return f"task {task.key}" if task else f"text {words}" if words else None


def says_the_same(first: str, second: str) -> bool:
    """Whether two texts have one `meaning`; a text without words says the same as none."""
    own = meaning(first)
    return own is not None and own == meaning(second)
