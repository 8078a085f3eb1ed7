"""The tokens that discrete prompts are made of, and the way from tokens to text and back."""

from collections.abc import Sequence
from functools import cached_property
from random import Random

import torch
import torch.nn.functional as F
from jaxtyping import Float, Int
from torch import Tensor

from soft2hard.errors import UserError
from soft2hard.lm.subject import Subject

Ids = Sequence[int]


class Vocabulary:
    """The writable tokens of a subject: all but special tokens and rows of the embedding table without a token."""

    def __init__(self, subject: Subject):
        self.subject = subject
        special = set(subject.tokenizer.all_special_ids)
        n_tokens = min(len(subject.tokenizer), len(subject.embedding))
        ordinary = [i for i in range(n_tokens) if i not in special]
        self.writable = torch.tensor(ordinary, dtype=torch.long, device=subject.device)
        """Token ids, ascending."""

    def random(self, n: int, rng: Random) -> list[int]:
        """`n` writable tokens, drawn independently."""
        return rng.choices(self.writable.tolist(), k=n)

    def text(self, ids: Ids) -> str:
        """The text of a prompt; what the subject reads of it is `ids` of this text."""
        tokenizer = self.subject.tokenizer
        return tokenizer.decode(list(ids), skip_special_tokens=True, clean_up_tokenization_spaces=False)

    def ids(self, text: str) -> list[int]:
        """How the subject reads a text: often, but not always, the tokens it was made of."""
        return list(self.subject.tokenizer(text, add_special_tokens=False)["input_ids"])

    def nearest(self, vectors: Float[Tensor, "*n d_model"]) -> Int[Tensor, "*n"]:
        """The writable token whose embedding has the highest cosine with each vector.

        Cosine, as in the code published with arXiv 2302.03668 (a dot product of normalised vectors).
        """
        cosines = F.normalize(vectors.float(), dim=-1) @ self._directions.T
        return self.writable[cosines.argmax(dim=-1)]

    @cached_property
    def _directions(self) -> Float[Tensor, "n_writable d_model"]:
        return F.normalize(self.subject.embedding[self.writable].float(), dim=-1)


def check_same_vocabulary(subject: Subject, other: Subject, role: str) -> None:
    """Raise UserError where the tokens of `other` are not those of the subject."""
    if subject.tokenizer.get_vocab() != other.tokenizer.get_vocab():
        raise UserError(
            f"The {role} '{other.name}' has another vocabulary than the subject '{subject.name}'.",
            f"Take a {role} with the subject's tokenizer, or the subject itself.",
        )


def check_decoder_only(model: Subject, role: str) -> None:
    """Raise UserError for an encoder-decoder model, which does not continue a text."""
    if model.is_encoder_decoder:
        raise UserError(f"The {role} '{model.name}' is an encoder-decoder model.", "Take a decoder-only model.")


def check_room(subject: Subject, n_prompt: int, n_read: int, task: str) -> None:
    """Raise UserError where the longest example of a task, `n_read` tokens, does not fit beside a prompt."""
    needed = len(subject.prompt_embeddings(None)) + n_prompt + n_read
    if subject.context_length is not None and needed > subject.context_length:
        raise UserError(
            f"An example of task '{task}' needs {needed} tokens with its prompt; the subject reads "
            f"{subject.context_length}.",
            "Shorten the example or the prompt, or use a subject with a longer context.",
        )
