"""The hidden states that predict queries' outputs, and how likely those outputs are."""

from collections.abc import Sequence as Rows

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from soft2hard.compute import metering
from soft2hard.lm.batching import pad, positions
from soft2hard.lm.frozen_model import FrozenModel
from soft2hard.lm.sequences import TokenSequence, embed_sequences

_LOGITS_AT_ONCE = 2**26  # 256 MB in float32


def target_hidden(model: FrozenModel, batch: Rows[TokenSequence]) -> Float[Tensor, "n_rows d_out"]:
    """The hidden states that predict each sequence's target, one sequence after another."""
    # The last token is not read; an encoder-decoder's decoder reads a start token in its place.
    n_left_out = 0 if model.is_encoder_decoder else len(batch)
    metering.count(len(batch), sum(len(s.ids) + len(s.target) for s in batch) - n_left_out)
    return _cross_hidden(model, batch) if model.is_encoder_decoder else _causal_hidden(model, batch)


def decoder_inputs(model: FrozenModel, targets: Rows[list[int]]) -> Int[Tensor, "batch n_target"]:
    """What an encoder-decoder model's decoder reads to predict these tokens: shifted by one, padded right."""
    return pad([[model.decoder_start_id, *target[:-1]] for target in targets], "right", model.device)[0]


def score_rows(
    model: FrozenModel, hidden: Float[Tensor, "n_rows d_out"], targets: Int[Tensor, " n_rows"]
) -> tuple[Float[Tensor, " n_rows"], Bool[Tensor, " n_rows"]]:
    """Log-probability of each row's target, on the CPU, and whether it is the most likely token."""
    step = max(1, _LOGITS_AT_ONCE // model.vocab_size)
    logs, matches = [], []
    for rows, tokens in zip(hidden.split(step), targets.split(step), strict=True):
        logits = model.head(rows).float()
        logs.append(logits.gather(1, tokens[:, None])[:, 0] - logits.logsumexp(dim=-1))
        matches.append(logits.argmax(dim=-1) == tokens)
    return torch.cat(logs).cpu(), torch.cat(matches).cpu()


def _causal_hidden(model: FrozenModel, batch: Rows[TokenSequence]) -> Float[Tensor, "n_rows d_out"]:
    rows = [sequence.ids + sequence.target[:-1] for sequence in batch]
    embeddings, mask = embed_sequences(model, rows, batch, "right")
    hidden = model.backbone(embeddings, mask, positions(mask))
    starts = [len(sequence.ids) - 1 for sequence in batch]
    return _gather(hidden, starts, [len(sequence.target) for sequence in batch])


def _cross_hidden(model: FrozenModel, batch: Rows[TokenSequence]) -> Float[Tensor, "n_rows d_out"]:
    embeddings, mask = embed_sequences(model, [sequence.ids for sequence in batch], batch, "right")
    read = decoder_inputs(model, [sequence.target for sequence in batch])
    hidden = model.backbone(embeddings, mask, decoder_input_ids=read)
    return _gather(hidden, [0] * len(batch), [len(sequence.target) for sequence in batch])


def _gather(
    hidden: Float[Tensor, "batch length d_out"], starts: list[int], sizes: list[int]
) -> Float[Tensor, "n_rows d_out"]:
    """`sizes[i]` rows of sequence i from `starts[i]` on, for all i one after another."""
    where = [
        (row, start + offset)
        for row, (start, size) in enumerate(zip(starts, sizes, strict=True))
        for offset in range(size)
    ]
    rows, columns = torch.tensor(where, device=hidden.device).unbind(dim=1)
    return hidden[rows, columns]
