"""Where an output ends: one event, whatever token says it."""

from collections.abc import Sequence
from functools import cached_property

import torch
from jaxtyping import Float, Int
from torch import Tensor
from transformers import PreTrainedTokenizerBase

_NEVER = -1e9  # logit of an ending that another one stands for: finite, so that differences of two are 0 and not NaN


def special_ids(tokenizer: PreTrainedTokenizerBase) -> set[int]:
    """Tokens that are no text: those with a role, such as EOS, and others that were added as special (`<file_sep>` of
    SmolLM2, the reserved ones of Llama 3), which vanish from a decoded text."""
    added = getattr(tokenizer, "added_tokens_decoder", {})
    return {*tokenizer.all_special_ids, *(i for i, token in added.items() if token.special)}


class Endings:
    """The tokens that end an output: EOS, and all whose text begins with one of the template's stops.

    A stop that no single token begins with (several words, say) ends what is generated, as text; in probabilities
    only EOS stands for it.
    """

    def __init__(
        self, tokenizer: PreTrainedTokenizerBase, eos_ids: Sequence[int], stops: Sequence[str], vocab_size: int
    ) -> None:
        """`vocab_size`: rows of the model's table; a tokenizer may know tokens beyond it, which are never written."""
        self.tokenizer, self.stops, self.eos_ids = tokenizer, tuple(stops), list(eos_ids)
        self._n_tokens = min(len(tokenizer), vocab_size)

    @property
    def eos_id(self) -> int:
        """The token that stands for the event."""
        return self.eos_ids[0]

    @cached_property
    def ids(self) -> list[int]:
        """All tokens that are the event; EOS first."""
        begin = [i for i, text in enumerate(self._texts) if text.startswith(self.stops)] if self.stops else []
        return list(dict.fromkeys([*self.eos_ids, *begin]))

    @cached_property
    def closing_ids(self) -> list[int]:
        """Tokens after which an output is at its end: those of the event, and those with a stop inside their text."""
        inside = [i for i, text in enumerate(self._texts) if any(stop in text for stop in self.stops)]
        return list(dict.fromkeys([*self.ids, *inside]))

    @cached_property
    def long_stops(self) -> tuple[str, ...]:
        """Stops that no token's text begins with, to be looked for in what is generated."""
        return tuple(stop for stop in self.stops if not any(text.startswith(stop) for text in self._texts))

    @cached_property
    def _texts(self) -> list[str]:
        # Alone, a token's text lacks the space that some tokenizers put before words; stops seldom begin with one.
        ids = [[i] for i in range(self._n_tokens)]
        special = special_ids(self.tokenizer)
        texts = self.tokenizer.batch_decode(ids, clean_up_tokenization_spaces=False)
        return ["" if i in special else text for i, text in enumerate(texts)]

    def merged(self, logits: Float[Tensor, "*rows vocab"]) -> Float[Tensor, "*rows vocab"]:
        """Logits in which EOS has the probability of all endings, and each other ending none."""
        if len(self.ids) == 1:
            return logits
        ids = torch.tensor(self.ids, device=logits.device)
        end = logits[..., ids].logsumexp(-1, keepdim=True)
        return logits.index_fill(-1, ids, _NEVER).index_copy(-1, ids[:1], end)

    def log_likelihoods(self, logits: Float[Tensor, "n vocab"], wanted: Int[Tensor, " n"]) -> Float[Tensor, " n"]:
        """Log-probability of each wanted token, in nats; where EOS is wanted, of the event."""
        found = logits.gather(1, wanted[:, None])[:, 0]
        if len(self.ids) > 1:
            end = logits[:, torch.tensor(self.ids, device=logits.device)].logsumexp(-1)
            found = torch.where(wanted == self.eos_id, end, found)
        return found - logits.logsumexp(-1)

    def likeliest(self, logits: Float[Tensor, "*rows vocab"]) -> Int[Tensor, "*rows"]:
        """The most likely token of each row; EOS for any ending, as generation sees it."""
        best = logits.argmax(-1)
        if len(self.ids) == 1:
            return best
        ends = torch.isin(best, torch.tensor(self.ids, device=best.device))
        return best.masked_fill(ends, self.eos_id)
