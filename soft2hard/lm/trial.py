"""How many tokens of a batch a subject has memory for, found by running it."""

import torch

from soft2hard.compute.memory import affordable
from soft2hard.lm.frozen_model import FrozenModel

MOST_TOKENS = 2**17
"""More in a batch makes nothing faster."""
_LENGTH = 128  # tokens of each sequence of the trial


@torch.no_grad()
def affordable_tokens(model: FrozenModel) -> int:
    """Tokens, padding included, that a batch of scoring or generation may have on this machine.

    The trial reads sequences as generation does, keys and values kept, and takes the output head of a row each.
    """
    length = min(_LENGTH, model.context_length or _LENGTH)

    def read(n_tokens: int) -> None:
        shape = (n_tokens // length, length)
        ids = torch.zeros(shape, dtype=torch.long, device=model.device)
        mask = torch.ones(shape, dtype=torch.bool, device=model.device)
        embeddings = model.embed(ids)
        if model.is_encoder_decoder:
            encoded = model.encode(embeddings, mask)
            hidden, _ = model.cross_decode(embeddings[:, :1], encoded, mask, use_cache=True)
        else:
            hidden, _ = model.decode(embeddings, mask, None, use_cache=True)
        model.head(hidden[:, -1]).float().log_softmax(-1)

    return affordable(read, model.device, at_most=MOST_TOKENS, unit=length)
