"""Hidden states of soft prompts patched into a target prompt, and the texts that the model then writes.

Patchscopes (Ghandeharioun et al. 2024, arXiv 2401.06102) as InSPEcT uses it (Ramati et al., arXiv 2410.11660): the
hidden states of a soft prompt at a *source layer* take the place of those of placeholder tokens in a target prompt at
a *target layer*, and greedy search continues from there.

*Layer l* is the hidden state that **enters** block l, for l = 0 ... n - 1 with n blocks: layer 0 is what the model
makes of its input embeddings before the first block (learned position embeddings, projections and norms included),
layer l what block l - 1 has left. The published code counts layers by what *leaves* a block: its layer l is l + 1
here. It also lets a soft prompt enter its own pass there: not as embeddings, but in the place of what the first block
makes of placeholders (`Entry` 'first_block'), so that layer 1 is the soft prompt itself and layer 0 knows nothing of
it. Blocks are found by what they do, not by the name of the architecture.

A patch changes the target prompt's keys and values once and for all, so one pass over the prompt (with the patch) fills
a key-value cache, and every further token costs one position. Soft prompts and layer pairs are rows of one batch; the
text before the placeholders is the same in all rows and is run once. Rows of a batch are equally long, so that
nothing is padded.
"""

from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager, contextmanager, suppress
from dataclasses import dataclass
from functools import partial
from itertools import product
from typing import Literal

import torch
from jaxtyping import Bool, Float, Int
from more_itertools import map_reduce
from torch import Tensor, nn

from soft2hard.errors import UserError
from soft2hard.lm.batching import batches_by_length, positions
from soft2hard.lm.frozen_model import FrozenModel
from soft2hard.lm.generation import CausalDecoding, write_greedily
from soft2hard.lm.prefix import ROOM, Prefix
from soft2hard.lm.subject import Subject
from soft2hard.prompts.soft_prompt import SoftPrompt

Pair = tuple[int, int]
"""Source layer and target layer."""

Entry = Literal["embeddings", "first_block"]
"""Where a soft prompt enters its own pass: as embeddings, as it was tuned; or in the place of the first block's output,
as in the published code."""

CACHE_TOKENS = 65536
"""Default number of tokens in the cache of one batch: 8 GB for a Llama of 8 billion parameters in bfloat16."""


@contextmanager
def hooked(blocks: Sequence[nn.Module], hooks: Sequence[Callable[[Tensor], Tensor | None]]) -> Iterator[None]:
    """While within, each hook is given the states that enter its block, and replaces them unless it returns None."""

    def call(see: Callable[[Tensor], Tensor | None], module: nn.Module, args: tuple, kwargs: dict) -> tuple | None:
        new = see(args[0] if args else kwargs["hidden_states"])
        if new is None:
            return None
        return ((new, *args[1:]), kwargs) if args else (args, kwargs | {"hidden_states": new})

    handles = [
        block.register_forward_pre_hook(partial(call, see), with_kwargs=True)
        for block, see in zip(blocks, hooks, strict=True)
    ]
    try:
        yield
    finally:
        for handle in handles:
            handle.remove()


def put(
    rows: Int[Tensor, " n"],
    columns: Int[Tensor, " n"],
    states: Float[Tensor, "n d_hidden"],
    hidden: Float[Tensor, "batch length d_hidden"],
) -> Float[Tensor, "batch length d_hidden"]:
    """Hidden states with others in the place of some; columns are counted without a cached prefix."""
    return hidden.index_put((rows, columns), states.to(hidden))


def _entered(found: list[Tensor], enter: Callable[[Tensor], Tensor], hidden: Tensor) -> Tensor:
    """Hidden states with what enters here in its place; they are kept like those of other layers."""
    found.append(enter(hidden))
    return found[-1]


def _find_blocks(lm: FrozenModel) -> list[nn.Module]:
    """The first list of modules, one a layer, that a pass runs through in order and with hidden states.

    Raises UserError for a model that is not decoder-only, and where there is none.
    """
    if not lm.continues_text:
        raise UserError(
            "Hidden states can be patched in decoder-only subjects alone.",
            "Use a subject such as Llama, Qwen, GPT-2, OPT or BLOOM for this method.",
        )
    for blocks in lm.model.base_model.modules():
        is_one_a_layer = isinstance(blocks, nn.ModuleList) and len(blocks) == lm.config.num_hidden_layers
        if is_one_a_layer and _runs_through(lm, list(blocks)):
            return list(blocks)
    raise UserError(
        f"The decoder blocks of subjects of type '{lm.config.model_type}' could not be found.",
        "Choose a subject whose blocks stand in one list, such as Llama, Qwen, GPT-2, OPT or BLOOM.",
    )


@torch.no_grad()
def _runs_through(lm: FrozenModel, blocks: list[nn.Module]) -> bool:
    """True if a pass over two tokens enters each of the blocks once, in order, with one state a token."""
    order: list[int] = []

    def seen(number: int, hidden: Tensor) -> None:
        order.append(number if hidden.shape[:2] == (1, 2) and hidden.ndim == 3 else -1)

    ids = torch.zeros(1, 2, dtype=torch.long, device=lm.device)
    try:
        with hooked(blocks, [partial(seen, number) for number in range(len(blocks))]):
            lm.backbone(lm.embed(ids))
    except (AttributeError, KeyError):  # a list of modules that are not called with hidden states
        return False
    return order == list(range(len(blocks)))


@dataclass(frozen=True, eq=False)
class PatchedPrompt:
    """A soft prompt and the target prompt it is patched into, as the subject reads it."""

    soft_prompt: SoftPrompt
    before: Float[Tensor, "n_before d_model"]
    """BOS, if sequences begin with it, and the text before the placeholders."""
    placeholder: Float[Tensor, "1 d_model"]
    """One placeholder; there are as many as the soft prompt has tokens."""
    after: Float[Tensor, "n_after d_model"]

    @property
    def n_read(self) -> int:
        """Tokens of the target prompt, its placeholders included."""
        return len(self.before) + self.soft_prompt.n_tokens + len(self.after)

    def embedded(self, filled: bool = False) -> Float[Tensor, "width d_model"]:
        """The placeholders, or the soft prompt in their place, and the text after them."""
        placeholders = self.placeholder.expand(self.soft_prompt.n_tokens, -1)
        return torch.cat([self.soft_prompt.embeddings.to(self.after) if filled else placeholders, self.after])


class Patcher:
    """Writes the subject's texts under patched soft prompts.

    A row ends at a stop token (`stop_ids`), or after `max_new_tokens`; stop tokens that come before anything else are
    written and passed over. Raises UserError for a subject whose blocks cannot be found, and for the entry
    'first_block' where there is no second block or blocks are not as wide as embeddings.
    """

    def __init__(
        self,
        subject: Subject,
        stop_ids: Sequence[int],
        max_new_tokens: int,
        batch_tokens: int = CACHE_TOKENS,
        entry: Entry = "embeddings",
    ) -> None:
        self.subject, self.max_new_tokens, self.batch_tokens = subject.prompts_first(), max_new_tokens, batch_tokens
        self.model = FrozenModel(subject.model)
        self.blocks = _find_blocks(self.model)
        """The decoder blocks, in order."""
        self.first_source = 1 if entry == "first_block" else 0
        """The lowest layer that knows of the soft prompt."""
        width = self.model.config.get_text_config().hidden_size
        if self.first_source and (len(self.blocks) < 2 or width != subject.d_model):
            raise UserError(
                f"The blocks of '{subject.name}' are {len(self.blocks)} of width {width}, and its embeddings are"
                f" {subject.d_model} wide: a soft prompt cannot take the place of the first block's output.",
                "Set the option entry to 'embeddings'.",
            )
        self.stop = torch.tensor(list(stop_ids), device=subject.device)
        self.n_sequences = 0
        """Sequences run so far."""
        self.n_tokens = 0
        """Tokens of these, a shared beginning counted once."""

    def pairs(self, sources: Sequence[int] | None = None, targets: Sequence[int] | None = None) -> list[Pair]:
        """All pairs of these source and target layers, or of all layers that know of the soft prompt and all others."""
        layers = range(len(self.blocks))
        known = layers[self.first_source :]
        return list(product(known if sources is None else sources, layers if targets is None else targets))

    @torch.no_grad()
    def source_states(
        self, soft_prompts: Sequence[SoftPrompt], placeholder: Float[Tensor, "1 d_model"] | None = None
    ) -> list[Float[Tensor, "n_layers _n d_hidden"]]:
        """Each soft prompt's hidden states at every layer, run behind BOS alone.

        For the entry 'first_block' the pass is over placeholders, and the soft prompts enter the second block.
        """
        rows = [self.subject.prompt_embeddings(soft_prompt) for soft_prompt in soft_prompts]
        own = [slice(len(row) - prompt.n_tokens, len(row)) for row, prompt in zip(rows, soft_prompts, strict=True)]
        lengths = torch.tensor([len(row) for row in rows], device=self.subject.device)
        mask = torch.arange(max(map(len, rows)), device=self.subject.device) < lengths[:, None]
        found: list[Tensor] = []
        hooks: list[Callable[[Tensor], Tensor | None]] = [found.append] * len(self.blocks)
        padded = torch.nn.utils.rnn.pad_sequence(rows, batch_first=True)
        if self.first_source:
            places = torch.tensor([(i, k) for i, part in enumerate(own) for k in range(part.start, part.stop)])
            i, k = places.to(padded.device).T
            hooks[self.first_source] = partial(_entered, found, partial(put, i, k, padded[i, k]))
            padded = put(i, k, placeholder.expand(len(i), -1), padded)
        with hooked(self.blocks, hooks):
            self.model.decode(padded, mask, positions(mask))
        self._count(len(rows), int(mask.sum()))
        layers = torch.stack(found)
        return [layers[:, i, part] for i, part in enumerate(own)]

    @torch.no_grad()
    def write(self, prompts: Sequence[PatchedPrompt], pairs: Sequence[Pair]) -> list[list[list[int]]]:
        """Tokens that greedy search writes for each prompt under each pair of layers, stop tokens included."""
        own = [prompt.soft_prompt for prompt in prompts]
        sources = self.source_states(own, prompts[0].placeholder) if prompts else []
        written: list[list[list[int]]] = [[[] for _ in pairs] for _ in prompts]
        for group in _alike(prompts):
            prefix = Prefix(self.model, prompts[group[0]].before)
            self._count(prefix.length > 0, prefix.length)
            first = self._first_layer([prompts[i] for i in group], prefix)
            states = {i: torch.cat([layer0[None], sources[i][1:]]) for i, layer0 in zip(group, first, strict=True)}
            rows = [(i, j) for i in group for j in range(len(pairs))]
            width = prompts[group[0]].n_read + self.max_new_tokens
            for batch in batches_by_length([width] * len(rows), self.batch_tokens):
                chosen = [rows[k] for k in batch]
                embeddings = torch.stack([prompts[i].embedded() for i, _ in chosen])
                of_rows, layers = [states[i][pairs[j][0]] for i, j in chosen], [pairs[j][1] for _, j in chosen]
                found = self._generate(embeddings, self._patched(of_rows, layers), prefix)
                for (i, j), ids in zip(chosen, found, strict=True):
                    written[i][j] = ids
        return written

    def _first_layer(self, prompts: list[PatchedPrompt], prefix: "Prefix") -> list[Float[Tensor, "_n d_hidden"]]:
        """Each soft prompt at layer 0, at the positions of its placeholders.

        Nothing has been computed at layer 0 but what learned positions add, and those must be the positions where it
        will stand: so patched from 0 to 0, a soft prompt is read as a text of its tokens would be.
        """
        embeddings = torch.stack([prompt.embedded(filled=True) for prompt in prompts])
        found: list[Tensor] = []

        def stop(hidden: Tensor) -> None:
            found.append(hidden)
            raise _Reached

        with hooked(self.blocks[:1], [stop]), suppress(_Reached):
            cache, position = prefix.repeated(len(prompts), 0), prefix.positions(embeddings)
            self.model.decode(embeddings, None, position, cache, use_cache=True)
        return [row[: prompt.soft_prompt.n_tokens] for row, prompt in zip(found[0], prompts, strict=True)]

    def _generate(
        self, embeddings: Float[Tensor, "rows width d_model"], patched: AbstractContextManager, prefix: "Prefix"
    ) -> list[list[int]]:
        n_rows, width = embeddings.shape[:2]
        cache = prefix.repeated(n_rows, width + ROOM)
        decoding = CausalDecoding(self.model, embeddings, None, prefix.positions(embeddings), cache)
        with patched:
            hidden = decoding.start()
        found = write_greedily(self.model, decoding, hidden, self._has_ended, self.max_new_tokens)
        self._count(n_rows, n_rows * width + sum(map(len, found)))
        return found

    def _has_ended(self, written: Int[Tensor, "rows n"]) -> Bool[Tensor, "rows"]:
        """True for rows whose last token is a stop token, and not all before it are."""
        stops = torch.isin(written, self.stop)
        return stops[:, -1] & ~stops.all(dim=1)

    def _patched(self, states: Sequence[Float[Tensor, "_n d_hidden"]], layers: Sequence[int]) -> AbstractContextManager:
        """While within, each row's states enter the block of its layer, at the beginning of the row."""
        hooks = []
        for layer in dict.fromkeys(layers):
            rows = [i for i, of_row in enumerate(layers) if of_row == layer]
            places = torch.tensor([(i, column) for i in rows for column in range(len(states[i]))])
            hooks.append(partial(put, *places.to(states[0].device).T, torch.cat([states[i] for i in rows])))
        return hooked([self.blocks[layer] for layer in dict.fromkeys(layers)], hooks)

    def _count(self, n_sequences: int, n_tokens: int) -> None:
        self.n_sequences += n_sequences
        self.n_tokens += n_tokens


class _Reached(Exception):
    """The first block was reached, and nothing after it is wanted."""


def _alike(prompts: Sequence[PatchedPrompt]) -> list[list[int]]:
    """Indices of prompts with the same beginning and length, together."""
    key = lambda i: (prompts[i].before.float().cpu().numpy().tobytes(), prompts[i].n_read)  # noqa: E731
    return list(map_reduce(range(len(prompts)), key).values())
