"""The subject itself is asked what a soft prompt says: its hidden states are patched into a text that asks.

InSPEcT (Ramati et al., arXiv 2410.11660) puts them behind descriptions of other tasks, in the place of a further one;
self-interpretation (Chen et al., arXiv 2403.10949) before a question about them. `eval/methods/inspect_patching.py` has
InSPEcT as a rival, which chooses its pair of layers on validation tasks; here all pairs propose, and running the texts
decides.
"""

from collections.abc import Sequence
from dataclasses import dataclass

from jaxtyping import Float
from torch import Tensor

from soft2hard.compute import metering
from soft2hard.errors import UserError
from soft2hard.lm.patching import PatchedPrompt, Patcher
from soft2hard.lm.subject import Subject
from soft2hard.prompts.soft_prompt import SoftPrompt
from soft2hard.translator.proposers.base import Observed, distinct

BUILT_IN: dict[str, tuple[str, ...]] = {
    "classes_after": (
        "Say which feeling the message conveys: happiness, grief, rage, dread",
        "Decide whether the claim holds: yes, no",
        "Name the kind of story this excerpt comes from: mystery, comedy, western",
        "Tell which composer wrote the piece that is described: Bach or Mozart",
        "Work out the time of day in this scene: morning, noon, evening or night",
        "Sort a support ticket by its subject: billing, delivery, refund",
        "Mark the review as written by a buyer or a bot: human or machine",
        "Find the field a headline belongs to: medicine or finance",
    ),
    "classes_before": (
        "yes or no: Decide whether the claim holds",
        "morning, noon, evening or night: Work out the time of day in this scene",
        "happiness, grief, rage or dread: Say which feeling the message conveys",
        "Bach or Mozart: Tell which composer wrote the piece that is described",
        "human or machine: Mark the review as written by a buyer or a bot",
        "mystery, comedy, western: Name the kind of story this excerpt comes from",
        "medicine or finance: Find the field a headline belongs to",
        "billing, delivery, refund: Sort a support ticket by its subject",
    ),
}
"""Demonstrations of the form that InSPEcT's have (arXiv 2410.11660: eight short descriptions of classification tasks
with their classes after or before); the wording is ours."""

STOPS = "\n$.|"
"""Characters at which a description ends (InSPEcT's published code)."""
PLACEHOLDER = "x"
"""The token in whose place a soft prompt stands."""
_NEW_TOKENS = 24


@dataclass(frozen=True)
class TargetText:
    """A target prompt in words; the placeholders stand between the two."""

    before: str
    after: str = ""


def few_shot_target(demonstrations: Sequence[str], separator: str) -> TargetText:
    """Demonstrations with the separator between and behind them; a separator is a word of its own."""
    joint = f" {separator} " if separator else " "
    return TargetText(joint.join(demonstrations) + joint.rstrip())


QUESTION = TargetText("The instruction is:", ". In other words, the instruction asks to")
"""Self-interpretation: the soft prompt in the place of an instruction, which is then said otherwise."""


class Elicit:
    """Two texts that ask, each under pairs of layers spread over the model, all soft prompts in shared batches.

    Raises UserError for a subject without blocks to patch, and for one that does not know the placeholder.
    """

    name = "elicit"

    def __init__(self, subject: Subject, n_layers: int):
        """`n_layers`: source layers, and target layers, that are tried."""
        self.subject = subject
        self.patcher = Patcher(subject, stop_ids(subject), _NEW_TOKENS)
        self.pairs = self.patcher.pairs(*(spread(len(self.patcher.blocks), n_layers) for _ in range(2)))
        placeholder_embedding(subject, PLACEHOLDER)

    def propose(self, observed: Sequence[Observed], seed: int) -> list[list[str]]:
        """Up to two texts for each pair of layers; none for a soft prompt that the context has no room for."""
        texts: list[list[str]] = [[] for _ in observed]
        for target in (few_shot_target(BUILT_IN["classes_after"][:3], "$"), QUESTION):
            made = [encode_target(self.subject, one.soft_prompt, target, PLACEHOLDER) for one in observed]
            fitting = [i for i, prompt in enumerate(made) if self._fits(prompt)]
            for i, rows in zip(fitting, self.patcher.write([made[i] for i in fitting], self.pairs), strict=True):
                texts[i] += [description(self.subject, ids) for ids in rows]
        metering.count(self.patcher.n_sequences, self.patcher.n_tokens)
        self.patcher.n_sequences = self.patcher.n_tokens = 0
        return [distinct(of_one) for of_one in texts]

    def _fits(self, prompt: PatchedPrompt) -> bool:
        limit = self.subject.context_length
        return limit is None or prompt.n_read + _NEW_TOKENS <= limit


def spread(n: int, most: int) -> list[int]:
    """Up to `most` of `n` layers, evenly spread, the first among them."""
    kept = min(n, most)
    return sorted({round(i * (n - 1) / max(kept - 1, 1)) for i in range(kept)})


def encode_target(subject: Subject, soft_prompt: SoftPrompt, text: TargetText, placeholder: str) -> PatchedPrompt:
    """The target prompt of a soft prompt as the subject reads it.

    Raises UserError where the placeholder is not one token that the subject knows.
    """
    before, after = subject.prompts_first().prompt_embeddings(text.before or None), subject.embed_text(text.after)
    return PatchedPrompt(subject.in_own_scale(soft_prompt), before, placeholder_embedding(subject, placeholder), after)


def placeholder_embedding(subject: Subject, word: str) -> Float[Tensor, "1 d_model"]:
    """Raises UserError for a word that is not one token that the subject knows."""
    unknown = subject.tokenizer.unk_token_id
    for text in (f" {word}", word):
        ids = subject.tokenizer(text, add_special_tokens=False)["input_ids"]
        if len(ids) == 1 and ids[0] != unknown:
            return subject.embed_text(text)
    raise UserError(
        f"The placeholder '{word}' is not one token that the subject '{subject.name}' knows.",
        "Give another with the option placeholder: any short word of its vocabulary.",
    )


def stop_ids(subject: Subject) -> list[int]:
    """Tokens that end a description: EOS, and all with one of STOPS in them."""
    n_tokens = min(len(subject.tokenizer), len(subject.embedding))
    texts = subject.tokenizer.batch_decode([[i] for i in range(n_tokens)], clean_up_tokenization_spaces=False)
    return sorted({*subject.eos_ids, *(i for i, text in enumerate(texts) if set(text) & set(STOPS))})


def description(subject: Subject, ids: Sequence[int]) -> str:
    """The text of what was written up to its first stop, a full stop kept; empty where there are no words.

    `released_description` cuts as the published code does.
    """
    text = subject.tokenizer.decode(list(ids), skip_special_tokens=True).lstrip(f"{STOPS} ")
    end = min((i for i in map(text.find, STOPS) if i >= 0), default=len(text))
    return text[: end + 1 if text[end : end + 1] == "." else end].strip()


def released_description(subject: Subject, ids: Sequence[int]) -> str:
    """The text of what was written as InSPEcT's published code cuts it.

    It ends at the first stop that is not within its first fifth, and begins behind the last stop before that; without
    such a stop it is the whole text.
    """
    text = subject.tokenizer.decode(list(ids), skip_special_tokens=True).strip()
    stops = [i for i, character in enumerate(text) if character in STOPS]
    end = next((i for i in stops if i >= len(text) / 5), None)
    if end is None:
        return text
    return text[max((i + 1 for i in stops if i < end), default=0) : end].strip()
