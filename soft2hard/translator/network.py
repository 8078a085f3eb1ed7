"""The network of a translator: a reader of soft prompts, and a language model that writes.

An architecture (`encoder_decoder`, `causal`) says how the language model reads and writes.
"""

from abc import ABC, abstractmethod
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import ClassVar

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor, nn
from transformers import GenerationConfig, PretrainedConfig, PreTrainedModel, PreTrainedTokenizerBase
from transformers.cache_utils import Cache
from transformers.modeling_outputs import Seq2SeqLMOutput

from soft2hard.errors import UserError
from soft2hard.lm.prefix import roomy
from soft2hard.lm.subject import Subject
from soft2hard.translator.data import IGNORE, n_runs, runs_of_like_length
from soft2hard.translator.settings import Design, TranslatorCard

_EPSILON = 1e-6

SoftPrompts = Float[Tensor, "batch n d_subject"]
"""Padded on the right."""
Mask = Int[Tensor, "batch n"] | Bool[Tensor, "batch n"]
"""Where a soft prompt has a vector."""
Labels = Int[Tensor, "batch length"]
"""Token ids of instructions with their ends; -100 where padded, on the right."""
Logits = Float[Tensor, "batch length vocab"]
"""For each label, given the soft prompt and the labels before it."""
_TOKENS_OF_GENERATION = (
    "bos_token_id",
    "eos_token_id",
    "pad_token_id",
    "decoder_start_token_id",
    "forced_bos_token_id",
    "forced_eos_token_id",
)


class SoftPromptReader(nn.Module):
    """Maps soft-prompt vectors, and hidden states beside them, into the input space of a language model.

    `x -> (x / scale) W`, where `scale` is the subject's embedding scale and W starts as the identity times the model's
    own embedding scale where the widths agree, else as a random matrix. Each layer's hidden state is added, divided by
    its root mean square, through a matrix of its own that starts at zero: an untrained reader ignores hidden states.
    """

    def __init__(
        self,
        d_subject: int,
        d_model: int,
        subject_scale: float = 1.0,
        model_scale: float = 1.0,
        *,
        d_hidden: int = 0,
        n_layers: int = 0,
    ):
        super().__init__()
        self.register_buffer("scale", torch.tensor(float(subject_scale)))
        self.projection = nn.Linear(d_subject, d_model, bias=False)
        self.of_layers = nn.ModuleList(nn.Linear(d_hidden, d_model, bias=False) for _ in range(n_layers))
        with torch.no_grad():
            if d_subject == d_model:
                self.projection.weight.copy_(torch.eye(d_model) * model_scale)
            else:
                self.projection.weight.normal_(std=model_scale * d_subject**-0.5)
            for layer in self.of_layers:
                layer.weight.zero_()

    @classmethod
    def between(cls, subject: Subject, lm: PreTrainedModel, hidden: "HiddenStates | None") -> "SoftPromptReader":
        """A new one, from a subject's soft prompts to a language model."""
        table = lm.get_input_embeddings().weight
        scales = [t.detach().float().square().mean().sqrt().item() for t in (subject.embedding, table)]
        sizes = {"d_hidden": hidden.d_hidden, "n_layers": len(hidden.layers)} if hidden else {}
        return cls(subject.d_model, table.shape[1], *scales, **sizes)

    @classmethod
    def saved(cls, card: TranslatorCard, weights: dict[str, Tensor]) -> "SoftPromptReader":
        """One of the saved one's sizes, to be filled with its weights."""
        n_layers = len(card.hidden_layers)
        d_hidden = weights["of_layers.0.weight"].shape[1] if n_layers else 0
        return cls(card.d_subject, weights["projection.weight"].shape[0], d_hidden=d_hidden, n_layers=n_layers)

    def forward(
        self,
        soft_prompts: SoftPrompts,
        hidden: Sequence[Float[Tensor, "batch n d_hidden"]] = (),
    ) -> Float[Tensor, "batch n d_model"]:
        read = self.projection(soft_prompts / self.scale)
        for projection, states in zip(self.of_layers, hidden, strict=True):
            rms = states.square().mean(-1, keepdim=True).add(_EPSILON).sqrt()
            read = read + projection(states / rms)
        return read


class HiddenStates:
    """The subject's hidden states at chosen layers over the positions of soft prompts.

    Layer 1 is the output of the first block; a soft prompt stands where it stands in use, after BOS and before the
    rest. Raises UserError for a layer that the subject has not.
    """

    def __init__(self, subject: Subject, layers: Sequence[int]):
        n_layers = subject.model.config.get_text_config().num_hidden_layers
        wrong = [layer for layer in layers if not 1 <= layer <= n_layers]
        if wrong or len(set(layers)) < len(layers):
            raise UserError(
                f"The hidden layers are {', '.join(map(str, layers))}; the subject '{subject.name}' has {n_layers}.",
                f"Give distinct layers from 1 to {n_layers}.",
            )
        self.subject, self.layers = subject, tuple(layers)

    @property
    def d_hidden(self) -> int:
        """Width of a hidden state."""
        return self(torch.zeros(1, 1, self.subject.d_model), torch.ones(1, 1, dtype=torch.long))[0].shape[-1]

    @torch.no_grad()
    def __call__(self, soft_prompts: SoftPrompts, mask: Mask) -> list[Float[Tensor, "batch n d_hidden"]]:
        """One tensor a layer, float32, on the device of `soft_prompts`; padding, on the right, is not attended to."""
        subject, home = self.subject, soft_prompts.device
        bos = subject.leading_embeddings
        read = torch.cat([bos.expand(len(soft_prompts), -1, -1), soft_prompts.to(bos)], 1)
        seen = torch.cat([mask.new_ones(len(mask), len(bos)), mask], 1).long().to(read.device)
        model = subject.model.get_encoder() if subject.is_encoder_decoder else subject.model.base_model
        extra = {"use_cache": False} if subject.continues_text else {}
        states = model(inputs_embeds=read, attention_mask=seen, output_hidden_states=True, **extra).hidden_states
        return [states[layer][:, len(bos) :].float().to(home) for layer in self.layers]


@dataclass(frozen=True)
class Memory:
    """Soft prompts as a translator has read them, ready to be written from."""

    states: Float[Tensor, "batch n d_model"]
    mask: Int[Tensor, "batch n"]
    cache: Cache | None = None
    """Keys and values of all places but the last, where a causal model has them."""
    cached: Int[Tensor, "batch"] | None = None
    """The row of the cache that each soft prompt's are."""

    def select(self, rows: Sequence[int]) -> "Memory":
        """These of the soft prompts; where nothing is cached, without places that are padding in all of them."""
        states, mask = self.states[rows], self.mask[rows]
        if self.cached is not None:
            return Memory(states, mask, self.cache, self.cached[rows])
        used = mask.bool().any(0)
        return Memory(states, mask) if used.all() else Memory(states[:, used], mask[:, used])

    def repeat(self, times: int) -> "Memory":
        """Each soft prompt `times` times, one after another."""
        states, mask = self.states.repeat_interleave(times, 0), self.mask.repeat_interleave(times, 0)
        return Memory(states, mask, self.cache, None if self.cached is None else self.cached.repeat_interleave(times))

    def own_cache(self, room: int, times: int = 1) -> Cache | None:
        """A cache with a row for each soft prompt, `times` times one after another, to which `room` tokens may be
        added."""
        return None if self.cached is None else roomy(self.cache, self.cached.repeat_interleave(times), room)


class TranslatorModel(nn.Module, ABC):
    """Reader and language model together, as the Trainer sees them."""

    n_start: ClassVar[int]
    """Tokens that stand before the first written one in the ids that logits processors are given."""
    beside_reader: ClassVar[tuple[str, ...]] = ()
    """Parameters of its own that are neither the reader's nor the language model's."""
    eos_id: int
    """The token that ends an instruction."""

    def __init__(self, reader: SoftPromptReader):
        super().__init__()
        self.reader = reader
        self.hidden_states: HiddenStates | None = None
        """Of the subject, which is no part of this model: neither trained nor saved with it."""
        # Shared tables stand under several names, which safetensors refuses to write.
        self.register_state_dict_post_hook(_drop_aliases)
        self.register_load_state_dict_pre_hook(_restore_left_out)

    @classmethod
    @abstractmethod
    def new(cls, subject: Subject, design: Design, hidden: HiddenStates | None) -> "Made":
        """An untrained one with its tokenizer, and the fields of the card that name its base."""

    @classmethod
    @abstractmethod
    def load(
        cls, folder: Path, card: TranslatorCard, reader: SoftPromptReader, base: str | None, subject: Subject | None
    ) -> "TranslatorModel":
        """The saved one, but for the weights in `READER_FILE`; see `Translator.from_pretrained`."""

    @abstractmethod
    def save_lm(self, folder: Path, dtype: torch.dtype | None) -> None:
        """Write what was trained of the language model into a folder."""

    @property
    @abstractmethod
    def lm(self) -> PreTrainedModel:
        """The language model that writes."""

    def to_train(self) -> None:
        """Take the precision that trains, where a saved one was loaded in another."""

    @abstractmethod
    def encode(self, soft_prompts: SoftPrompts, attention_mask: Mask) -> Memory:
        """Read soft prompts."""

    @abstractmethod
    def logits(self, memory: Memory, labels: Labels) -> Logits:
        """How likely each next token is."""

    @abstractmethod
    def generate(self, memory: Memory, **settings: object) -> Int[Tensor, "rows length"]:
        """The tokens that transformers' `generate` writes with these settings, from the first written one on."""

    @property
    def config(self) -> PretrainedConfig:
        """Of the language model; the Trainer and DeepSpeed look here."""
        return self.lm.config

    @property
    def room(self) -> int | None:
        """Rows that may be read at most beside the longest instruction; None where there is no bound."""
        return None

    @property
    def device(self) -> torch.device:
        return self.reader.projection.weight.device

    def forward(self, soft_prompts: SoftPrompts, attention_mask: Mask, labels: Labels) -> Seq2SeqLMOutput:
        """The mean cross-entropy of `labels` (-100 where padded), nats a token; and the logits, but in training.

        In training the batch is written in runs of instructions of like length: the loss is the same up to rounding.
        """
        memory, n_tokens = self.encode(soft_prompts, attention_mask), (labels != IGNORE).sum()
        if not self.training:
            logits = self.logits(memory, labels)
            return Seq2SeqLMOutput(loss=_summed_loss(logits, labels) / n_tokens, logits=logits)
        lengths = (labels != IGNORE).sum(1).tolist()
        losses = []
        for run in runs_of_like_length(_to_pad(lengths, memory), n_runs(len(lengths))):
            some = labels[run, : max(lengths[i] for i in run)]
            losses.append(_summed_loss(self.logits(memory.select(run), some), some))
        return Seq2SeqLMOutput(loss=torch.stack(losses).sum() / n_tokens)

    def read(self, soft_prompts: SoftPrompts, attention_mask: Mask) -> Float[Tensor, "batch n d_model"]:
        """Soft prompts, and the subject's hidden states over them if wanted, in the language model's input space."""
        hidden = self.hidden_states(soft_prompts, attention_mask) if self.hidden_states else ()
        return self.reader(soft_prompts, hidden).to(self.lm.dtype)

    def gradient_checkpointing_enable(self, **kwargs: object) -> None:
        """Trade time for memory in training, as the Trainer asks for by this name."""
        self.lm.gradient_checkpointing_enable(**kwargs)

    def aliases(self) -> dict[str, str]:
        """Second and further names of shared parameters, each with the first name."""
        first: dict[int, str] = {}
        named = self.named_parameters(remove_duplicate=False)
        return {name: first[id(p)] for name, p in named if first.setdefault(id(p), name) != name}

    def kept_elsewhere(self) -> dict[str, Tensor]:
        """Weights by name that this model has from another and never changes; they are not part of its state."""
        return {}

    def telling_weights(self) -> list[Tensor]:
        """Some of the weights, none of which any training leaves as it is: they tell translators apart."""
        return [*self.reader.parameters(), self.lm.get_input_embeddings().weight]

    def beside_lm(self) -> dict[str, Tensor]:
        """All weights that are neither the language model's nor its adapters', by their names in `READER_FILE`."""
        own = {name: getattr(self, name).detach() for name in self.beside_reader}
        return {name: tensor.contiguous() for name, tensor in (self.reader.state_dict() | own).items()}

    def load_beside_lm(self, weights: dict[str, Tensor]) -> None:
        """Fill in the weights that `beside_lm` gave."""
        for name in self.beside_reader:
            getattr(self, name).data.copy_(weights.pop(name))
        self.reader.load_state_dict(weights)


Made = tuple[TranslatorModel, PreTrainedTokenizerBase, dict[str, str]]


def plain_generation(model: PreTrainedModel) -> GenerationConfig:
    """A model's generation settings without those by which it would write something else than what is likeliest:
    penalties, forbidden tokens, sampling. What a model is published with is meant for chats."""
    return GenerationConfig(**{name: getattr(model.generation_config, name, None) for name in _TOKENS_OF_GENERATION})


def _to_pad(lengths: list[int], memory: Memory) -> list[int]:
    """What runs are formed by: lengths of instructions, and of what is read too where that differs more."""
    read = memory.mask.sum(1).tolist()
    if max(read) - min(read) <= max(lengths) - min(lengths):
        return lengths
    return [n + m for n, m in zip(lengths, read, strict=True)]


def _summed_loss(logits: Logits, labels: Labels) -> Float[Tensor, ""]:
    return nn.functional.cross_entropy(
        logits.flatten(0, 1).float(), labels.flatten(), ignore_index=IGNORE, reduction="sum"
    )


def _drop_aliases(model: TranslatorModel, state: dict[str, Tensor], prefix: str, *_: object) -> None:
    for name in (*model.aliases(), *model.kept_elsewhere()):
        state.pop(prefix + name, None)


def _restore_left_out(model: TranslatorModel, state: dict[str, Tensor], prefix: str, *_: object) -> None:
    for name, tensor in model.kept_elsewhere().items():
        state.setdefault(prefix + name, tensor)
    for alias, name in model.aliases().items():
        if prefix + name in state:
            state.setdefault(prefix + alias, state[prefix + name])
