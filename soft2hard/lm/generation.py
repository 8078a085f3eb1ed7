"""Generation over a batch, with a key-value cache: greedy, sampled, or by a choice of one's own.

transformers' own `generate` could be called with embeddings too, but pads and stops by token ids, keeps finished rows
until the last one ends, and applies whatever a model's generation_config holds; here every row is plain greedy
search, and agreement with `generate(do_sample=False)` is tested.
"""

from collections.abc import Callable, Sequence
from random import Random
from typing import Protocol, runtime_checkable

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor
from transformers.cache_utils import Cache

from soft2hard.lm.batching import positions
from soft2hard.lm.endings import Endings
from soft2hard.lm.frozen_model import FrozenModel


@runtime_checkable
class _Decoding(Protocol):
    """The state of a batch while it is being decoded."""

    def start(self) -> Float[Tensor, "batch d_out"]: ...

    def step(self, ids: Int[Tensor, " batch"]) -> Float[Tensor, "batch d_out"]: ...

    def keep(self, rows: Int[Tensor, " kept"]) -> None: ...


Choice = Callable[[Float[Tensor, "rows d_out"], Int[Tensor, "rows"], int], Int[Tensor, "rows"]]
"""The next token of each row of a batch, by hidden states, the rows' numbers and the number of the step."""


class CausalDecoding:
    """A decoder-only model, behind what its cache holds.

    The batch is padded on the left, so that every row continues at the right end; without a mask nothing is padded.
    """

    def __init__(
        self,
        model: FrozenModel,
        embeddings: Float[Tensor, "batch length d_model"],
        mask: Bool[Tensor, "batch seen"] | None,
        position: Int[Tensor, "batch length"],
        cache: Cache | None = None,
    ) -> None:
        self.model, self.embeddings, self.mask, self.position, self.cache = model, embeddings, mask, position, cache

    def start(self) -> Float[Tensor, "batch d_out"]:
        return self._advance(self.embeddings)

    def step(self, ids: Int[Tensor, " batch"]) -> Float[Tensor, "batch d_out"]:
        self.mask = None if self.mask is None else torch.nn.functional.pad(self.mask, (0, 1), value=True)
        self.position = self.position[:, -1:] + 1
        return self._advance(self.model.embed(ids[:, None]))

    def keep(self, rows: Int[Tensor, " kept"]) -> None:
        """Go on with these rows; one that is named several times goes on as often."""
        self.mask, self.position = None if self.mask is None else self.mask[rows], self.position[rows]
        self.cache.reorder_cache(rows)  # an index_select on every kind of cache

    def _advance(self, embeddings: Float[Tensor, "batch new d_model"]) -> Float[Tensor, "batch d_out"]:
        hidden, self.cache = self.model.decode(embeddings, self.mask, self.position, self.cache, use_cache=True)
        return hidden[:, -1]


class _CrossDecoding:
    """An encoder-decoder model; the encoder runs once, over a batch padded on the right."""

    def __init__(
        self, model: FrozenModel, embeddings: Float[Tensor, "batch length d_model"], mask: Bool[Tensor, "batch length"]
    ) -> None:
        self.model, self.mask, self.cache = model, mask, None
        self.encoded = model.encode(embeddings, mask)

    def start(self) -> Float[Tensor, "batch d_out"]:
        first = torch.full((len(self.encoded),), self.model.decoder_start_id, device=self.encoded.device)
        return self.step(first)

    def step(self, ids: Int[Tensor, " batch"]) -> Float[Tensor, "batch d_out"]:
        embeddings = self.model.embed(ids[:, None])
        hidden, self.cache = self.model.cross_decode(embeddings, self.encoded, self.mask, self.cache, use_cache=True)
        return hidden[:, -1]

    def keep(self, rows: Int[Tensor, " kept"]) -> None:
        self.encoded, self.mask = self.encoded[rows], self.mask[rows]
        self.cache.reorder_cache(rows)  # an index_select on every kind of cache


@torch.no_grad()
def generate_greedily(
    model: FrozenModel,
    embeddings: Float[Tensor, "batch length d_model"],
    mask: Bool[Tensor, "batch length"],
    endings: Endings,
    max_new_tokens: int,
) -> list[list[int]]:
    """The most likely token, again and again, until an output ends or has `max_new_tokens` tokens.

    An ending is left out, but for a token with text before it. `embeddings` are padded on the left for a decoder-only
    model, on the right for an encoder-decoder model's encoder; the mask is True at real tokens.
    """
    decoding = _decoding(model, embeddings, mask)
    written = write_greedily(model, decoding, decoding.start(), _ended_by(endings, mask.device), max_new_tokens)
    return [_until_end(row, set(endings.ids)) for row in written]


@torch.no_grad()
def generate_samples(
    model: FrozenModel,
    embeddings: Float[Tensor, "batch length d_model"],
    mask: Bool[Tensor, "batch length"],
    endings: Endings,
    max_new_tokens: int,
    choose: "TopKSampling",
) -> list[list[int]]:
    """As `generate_greedily`, but tokens are drawn; rows of the result are the samples of the first sequence, then
    those of the next. A sequence is read once for all its samples."""
    decoding, n = _decoding(model, embeddings, mask), len(choose.seeds) // len(embeddings)
    hidden = decoding.start()
    each = torch.arange(len(embeddings), device=mask.device).repeat_interleave(n)
    decoding.keep(each)
    written = write_rows(decoding, hidden[each], choose, _ended_by(endings, mask.device), max_new_tokens)
    return [_until_end(row, set(endings.ids)) for row in written]


class TopKSampling:
    """Draws each token from the softmax of the `top_k` likeliest, every row from a random stream of its own, so that
    rows beside it change nothing."""

    def __init__(self, model: FrozenModel, seeds: Sequence[str], top_k: int):
        self.model, self.seeds, self.top_k = model, seeds, top_k
        self._streams = [torch.Generator(model.device).manual_seed(Random(seed).getrandbits(63)) for seed in seeds]

    def __call__(
        self, hidden: Float[Tensor, "rows d_out"], rows: Int[Tensor, " rows"], step: int
    ) -> Int[Tensor, " rows"]:
        logits = self.model.head(hidden).float()
        best = logits.topk(min(self.top_k, logits.shape[-1]), dim=-1)
        waits = torch.empty_like(best.values)
        for wait, row in zip(waits, rows.tolist(), strict=True):
            wait.exponential_(generator=self._streams[row])
        # argmax(logits + Gumbel noise) is distributed as their softmax.
        drawn = (best.values - waits.clamp_min(torch.finfo(torch.float32).tiny).log()).argmax(dim=-1)
        return best.indices.gather(-1, drawn[:, None])[:, 0]


def _decoding(
    model: FrozenModel, embeddings: Float[Tensor, "batch length d_model"], mask: Bool[Tensor, "batch length"]
) -> _Decoding:
    if model.is_encoder_decoder:
        return _CrossDecoding(model, embeddings, mask)
    return CausalDecoding(model, embeddings, mask, positions(mask))


def _ended_by(
    endings: Endings, device: torch.device
) -> Callable[[Int[Tensor, "rows n_written"]], Bool[Tensor, "rows"]]:
    stop = torch.tensor(endings.closing_ids, device=device)

    def has_ended(written: Int[Tensor, "rows n_written"]) -> Bool[Tensor, "rows"]:
        closed = torch.isin(written[:, -1], stop)
        return closed | _have_stopped(written, endings) if endings.long_stops else closed

    return has_ended


def write_greedily(
    model: FrozenModel,
    decoding: _Decoding,
    hidden: Float[Tensor, "batch d_out"],
    has_ended: Callable[[Int[Tensor, "rows n_written"]], Bool[Tensor, "rows"]],
    max_new_tokens: int,
) -> list[list[int]]:
    """What greedy search writes after the hidden states that the decoding began with.

    A row is written on until `has_ended` says so of all that it has written, the last token included.
    """
    return write_rows(
        decoding, hidden, lambda states, rows, step: model.head(states).argmax(dim=-1), has_ended, max_new_tokens
    )


@torch.no_grad()
def write_rows(
    decoding: _Decoding,
    hidden: Float[Tensor, "batch d_out"],
    choose: Choice,
    has_ended: Callable[[Int[Tensor, "rows n_written"]], Bool[Tensor, "rows"]],
    max_new_tokens: int,
) -> list[list[int]]:
    """As `write_greedily`, with each token as `choose` has it."""
    written = torch.full((len(hidden), max_new_tokens), -1, device=hidden.device)
    rows = torch.arange(len(hidden), device=hidden.device)  # rows still in the batch
    going = torch.ones_like(rows, dtype=torch.bool)  # which of them have not ended
    for step in range(max_new_tokens):
        ids = choose(hidden, rows, step)
        written[rows[going], step] = ids[going]
        going = going & ~has_ended(written[rows, : step + 1])
        n_going = int(going.sum())
        if n_going == 0 or step + 1 == max_new_tokens:
            break
        if n_going <= len(rows) // 2:  # dropping rows copies the cache, so not at every ending
            kept = going.nonzero()[:, 0]
            decoding.keep(kept)
            rows, ids, going = rows[kept], ids[kept], going[kept]
        hidden = decoding.step(ids)
    return [[token for token in row if token >= 0] for row in written.tolist()]


def _have_stopped(written: Int[Tensor, "rows n_written"], endings: Endings) -> Bool[Tensor, "rows"]:
    """True for rows whose text holds a stop of several tokens."""
    texts = endings.tokenizer.batch_decode(written.clamp(min=0))
    return torch.tensor([any(stop in text for stop in endings.long_stops) for text in texts], device=written.device)


def _until_end(ids: list[int], ends: set[int]) -> list[int]:
    end = next((index for index, token in enumerate(ids) if token in ends), len(ids))
    return ids[:end]
