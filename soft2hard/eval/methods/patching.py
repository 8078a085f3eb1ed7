"""Hidden states of soft prompts patched into a target prompt, and what the model then writes.

Patchscopes (Ghandeharioun et al. 2024, arXiv 2401.06102) as InSPEcT uses it (Ramati et al., arXiv 2410.11660): the
hidden states of a soft prompt at a *source layer* take the place of those of placeholder tokens in a target prompt at
a *target layer*, and greedy search goes on from there. What a layer is, `patching_blocks` says.

A patch changes the target prompt's keys and values once and for all, so one pass over the prompt (with the patch) fills
a key-value cache, and every further token costs one position. Soft prompts and layer pairs are rows of one batch; what
stands before the placeholders is the same in all rows and is run once. Rows of a batch are equally long, so that
nothing is padded.

The published code counts layers by what *leaves* a block (from -1, the embeddings): its layer l is l + 1 here.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from jaxtyping import Float, Int
from torch import Tensor
from transformers.cache_utils import Cache

from soft2hard.eval.methods.patching_blocks import Blocks, Patch
from soft2hard.eval.methods.patching_cache import repeated
from soft2hard.lm.batching import batches_by_length, positions
from soft2hard.lm.frozen_model import FrozenModel
from soft2hard.lm.subject import Subject
from soft2hard.prompts.soft_prompt import SoftPrompt

Pair = tuple[int, int]
"""Source layer and target layer."""

CACHE_TOKENS = 65536
"""Default number of tokens in the cache of one batch: 8 GB for a Llama of 8 billion parameters in bfloat16."""
_ROOM = 16  # tokens behind the target prompt that there is room for at first


@dataclass(frozen=True, eq=False)
class EncodedTarget:
    """A target prompt as the subject reads it."""

    before: Float[Tensor, "n_before d_model"]
    """BOS, if sequences begin with it, and the text before the placeholders."""
    placeholder: Float[Tensor, "1 d_model"]
    """One placeholder; there are as many as the soft prompt has tokens."""
    after: Float[Tensor, "n_after d_model"]

    def n_read(self, soft_prompt: SoftPrompt) -> int:
        """Tokens of the target prompt around this soft prompt's placeholders."""
        return len(self.before) + soft_prompt.n_tokens + len(self.after)


@dataclass(frozen=True, eq=False)
class PatchedPrompt:
    """A soft prompt and the target prompt it is patched into."""

    soft_prompt: SoftPrompt
    target: EncodedTarget


class Patcher:
    """Writes what a subject says under patched soft prompts.

    A row ends at a stop token (`stop_ids`), or after `max_new_tokens`; stop tokens that come before anything else are
    written and passed over. Raises UserError for a subject whose blocks cannot be found.
    """

    def __init__(
        self, subject: Subject, stop_ids: Sequence[int], max_new_tokens: int, batch_tokens: int = CACHE_TOKENS
    ) -> None:
        self.subject, self.max_new_tokens, self.batch_tokens = subject, max_new_tokens, batch_tokens
        self.model = FrozenModel(subject.model)
        self.blocks = Blocks(self.model)
        self.stop = torch.tensor(list(stop_ids), device=subject.device)
        self.n_sequences = 0
        """Sequences run so far."""
        self.n_tokens = 0
        """Tokens of these, a shared beginning counted once."""

    def pairs(self, sources: Sequence[int] | None = None, targets: Sequence[int] | None = None) -> list[Pair]:
        """All pairs of these source and target layers, or of all layers."""
        layers = range(len(self.blocks))
        return [
            (s, t) for s in (layers if sources is None else sources) for t in (layers if targets is None else targets)
        ]

    @torch.no_grad()
    def source_states(self, soft_prompts: Sequence[SoftPrompt]) -> list[Float[Tensor, "n_layers _n d_hidden"]]:
        """What each soft prompt is at every layer, run behind BOS alone."""
        rows = [self.subject.prompt_embeddings(soft_prompt) for soft_prompt in soft_prompts]
        mask = torch.zeros(len(rows), max(map(len, rows)), dtype=torch.bool, device=self.subject.device)
        for i, row in enumerate(rows):
            mask[i, : len(row)] = True
        with self.blocks.reading() as found:
            self.model.decode(torch.nn.utils.rnn.pad_sequence(rows, batch_first=True), mask, positions(mask))
        self._count(len(rows), int(mask.sum()))
        layers = torch.stack(found)
        return [
            layers[:, i, len(row) - soft_prompt.n_tokens : len(row)]
            for i, (row, soft_prompt) in enumerate(zip(rows, soft_prompts, strict=True))
        ]

    @torch.no_grad()
    def write(self, prompts: Sequence[PatchedPrompt], pairs: Sequence[Pair]) -> list[list[list[int]]]:
        """Tokens that greedy search writes for each prompt under each pair of layers, stop tokens included."""
        sources = self.source_states([prompt.soft_prompt for prompt in prompts]) if prompts else []
        written: list[list[list[int]]] = [[[] for _ in pairs] for _ in prompts]
        for group in _alike(prompts):
            before = prompts[group[0]].target.before
            prefix = self._prefix(before)
            first = self._first_layer([prompts[i] for i in group], prefix)
            states = {i: torch.cat([layer0[None], sources[i][1:]]) for i, layer0 in zip(group, first, strict=True)}
            rows = [(i, j) for i in group for j in range(len(pairs))]
            width = prompts[group[0]].target.n_read(prompts[group[0]].soft_prompt) + self.max_new_tokens
            for batch in batches_by_length([width] * len(rows), self.batch_tokens):
                chosen = [rows[k] for k in batch]
                embeddings = torch.stack([self._suffix(prompts[i]) for i, _ in chosen])
                patches = _patches([(prompts[i], states[i], pairs[j]) for i, j in chosen])
                for (i, j), ids in zip(chosen, self._generate(embeddings, patches, prefix), strict=True):
                    written[i][j] = ids
        return written

    def _prefix(self, before: Float[Tensor, "n d_model"]) -> "_Prefix":
        if not len(before):
            return _Prefix(0, None)
        self._count(1, len(before))
        return _Prefix(len(before), self.model.decode(before[None], None, None, use_cache=True)[1])

    def _suffix(self, prompt: PatchedPrompt, filled: bool = False) -> Float[Tensor, "width d_model"]:
        """Placeholders, or the soft prompt in their place, and what stands after them."""
        n = prompt.soft_prompt.n_tokens
        after = prompt.target.after
        middle = prompt.soft_prompt.embeddings.to(after) if filled else prompt.target.placeholder.expand(n, -1)
        return torch.cat([middle, after])

    def _first_layer(self, prompts: list[PatchedPrompt], prefix: "_Prefix") -> list[Float[Tensor, "_n d_hidden"]]:
        """Each soft prompt at layer 0, at the positions of its placeholders.

        Nothing has been computed at layer 0 but what learned positions add, and those must be the positions where it
        will stand: so patched from 0 to 0, a soft prompt is read as a text of its tokens would be.
        """
        embeddings = torch.stack([self._suffix(prompt, filled=True) for prompt in prompts])
        cache, position = prefix.repeated(len(prompts), 0), prefix.positions(embeddings)
        hidden = self.blocks.entering_first(
            lambda: self.model.decode(embeddings, None, position, cache, use_cache=True)
        )
        return [row[: prompt.soft_prompt.n_tokens] for row, prompt in zip(hidden, prompts, strict=True)]

    def _generate(
        self, embeddings: Float[Tensor, "rows width d_model"], patches: list[Patch], prefix: "_Prefix"
    ) -> list[list[int]]:
        n_rows, width = embeddings.shape[:2]
        position = prefix.positions(embeddings)
        with self.blocks.replacing(patches):
            hidden, cache = self.model.decode(
                embeddings, None, position, prefix.repeated(n_rows, width + _ROOM), use_cache=True
            )
        written = torch.full((n_rows, self.max_new_tokens), -1, device=embeddings.device)
        rows = torch.arange(n_rows, device=embeddings.device)  # rows still in the batch
        going = torch.ones_like(rows, dtype=torch.bool)  # which of them have not ended
        begun = torch.zeros_like(going)  # which have written anything but stop tokens
        position = position[:, -1:]
        for step in range(self.max_new_tokens):
            ids = self.model.head(hidden[:, -1]).argmax(dim=-1)
            written[rows[going], step] = ids[going]
            stopping = torch.isin(ids, self.stop)
            going, begun = going & ~(stopping & begun), begun | ~stopping
            n_going = int(going.sum())
            if n_going == 0 or step + 1 == self.max_new_tokens:
                break
            if n_going <= len(rows) // 2:  # dropping rows copies the cache, so not at every ending
                kept = going.nonzero()[:, 0]
                cache.reorder_cache(kept)  # an index_select on every kind of cache
                rows, ids, going, begun, position = (x[kept] for x in (rows, ids, going, begun, position))
            position = position + 1
            hidden, cache = self.model.decode(self.model.embed(ids[:, None]), None, position, cache, use_cache=True)
        found = [[token for token in row if token >= 0] for row in written.tolist()]
        self._count(n_rows, n_rows * width + sum(len(row) for row in found))
        return found

    def _count(self, n_sequences: int, n_tokens: int) -> None:
        self.n_sequences += n_sequences
        self.n_tokens += n_tokens


@dataclass(frozen=True, eq=False)
class _Prefix:
    """The keys and values of what stands before the placeholders."""

    length: int
    cache: Cache | None

    def repeated(self, n_rows: int, room: int) -> Cache | None:
        """A copy of its own for each row of a batch, for `room` more tokens."""
        if self.cache is None:
            return None
        return repeated(self.cache, n_rows, room)

    def positions(self, embeddings: Float[Tensor, "rows width d_model"]) -> Int[Tensor, "rows width"]:
        """Positions of what comes next."""
        n_rows, width = embeddings.shape[:2]
        return (self.length + torch.arange(width, device=embeddings.device)).expand(n_rows, -1)


def _alike(prompts: Sequence[PatchedPrompt]) -> list[list[int]]:
    """Indices of prompts with the same beginning and length, together."""
    groups: dict[tuple[bytes, int], list[int]] = {}
    for i, prompt in enumerate(prompts):
        before = prompt.target.before.float().cpu().numpy().tobytes()
        groups.setdefault((before, prompt.target.n_read(prompt.soft_prompt)), []).append(i)
    return list(groups.values())


def _patches(rows: list[tuple[PatchedPrompt, Float[Tensor, "n_layers _n d_hidden"], Pair]]) -> list[Patch]:
    """One patch for each target layer of the batch; placeholders stand at the beginning of every row."""
    by_layer: dict[int, list[tuple[int, Tensor]]] = {}
    for number, (_, states, (source, target)) in enumerate(rows):
        by_layer.setdefault(target, []).append((number, states[source]))
    patches = []
    for layer, found in by_layer.items():
        states = torch.cat([patch for _, patch in found])
        sizes = torch.tensor([len(patch) for _, patch in found])
        numbers = torch.tensor([number for number, _ in found]).repeat_interleave(sizes)
        columns = torch.cat([torch.arange(len(patch)) for _, patch in found])
        patches.append(Patch(layer, numbers.to(states.device), columns.to(states.device), states))
    return patches
