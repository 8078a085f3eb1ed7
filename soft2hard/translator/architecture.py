"""What every translator architecture does: read soft prompts, and write instructions from what it has read."""

from abc import ABC, abstractmethod
from collections.abc import Sequence
from dataclasses import dataclass
from typing import ClassVar

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor, nn
from transformers import PretrainedConfig, PreTrainedModel
from transformers.modeling_outputs import Seq2SeqLMOutput

from soft2hard.translator.data import IGNORE
from soft2hard.translator.reader import HiddenStates, SoftPromptReader
from soft2hard.translator.runs import n_runs, runs_of_like_length


@dataclass(frozen=True)
class Memory:
    """What a translator has read of soft prompts, ready to be written from."""

    states: Float[Tensor, "batch n d_model"]
    mask: Int[Tensor, "batch n"]

    def select(self, rows: Sequence[int]) -> "Memory":
        """These of the soft prompts."""
        return Memory(self.states[rows], self.mask[rows])

    def repeat(self, times: int) -> "Memory":
        """Each soft prompt `times` times, one after another."""
        return Memory(self.states.repeat_interleave(times, 0), self.mask.repeat_interleave(times, 0))


class TranslatorModel(nn.Module, ABC):
    """Reader and language model together, as the Trainer sees them."""

    n_start: ClassVar[int]
    """Tokens that stand before the first written one in what logits processors are given."""

    def __init__(self, reader: SoftPromptReader):
        super().__init__()
        self.reader = reader
        self.hidden_states: HiddenStates | None = None
        """Of the subject, which is no part of this model: neither trained nor saved with it."""
        # Shared tables stand under several names, which safetensors refuses to write.
        self.register_state_dict_post_hook(_drop_aliases)
        self.register_load_state_dict_pre_hook(_restore_left_out)

    @property
    @abstractmethod
    def lm(self) -> PreTrainedModel:
        """The language model that writes."""

    @property
    def config(self) -> PretrainedConfig:
        """Of the language model; the Trainer and DeepSpeed look here."""
        return self.lm.config

    @property
    @abstractmethod
    def eos_id(self) -> int:
        """The token that ends an instruction."""

    @property
    def device(self) -> torch.device:
        return self.reader.projection.weight.device

    @abstractmethod
    def encode(
        self,
        soft_prompts: Float[Tensor, "batch n d_subject"],
        attention_mask: Int[Tensor, "batch n"] | Bool[Tensor, "batch n"],
    ) -> Memory:
        """Read soft prompts, padded on the right."""

    @abstractmethod
    def logits(self, memory: Memory, labels: Int[Tensor, "batch length"]) -> Float[Tensor, "batch length vocab"]:
        """Logits for each label given the soft prompt and the labels before it; padding (-100) on the right."""

    @abstractmethod
    def generate(self, memory: Memory, **settings: object) -> Int[Tensor, "rows length"]:
        """What transformers' `generate` writes with these settings, without what stands before the first token."""

    def forward(
        self,
        soft_prompts: Float[Tensor, "batch n d_subject"],
        attention_mask: Int[Tensor, "batch n"] | Bool[Tensor, "batch n"],
        labels: Int[Tensor, "batch length"],
    ) -> Seq2SeqLMOutput:
        """The mean cross-entropy of `labels` (-100 where padded), nats a token; and the logits, but in training.

        In training the batch is written in runs of instructions of like length: the loss is the same up to rounding.
        """
        memory, n_tokens = self.encode(soft_prompts, attention_mask), (labels != IGNORE).sum()
        if not self.training:
            logits = self.logits(memory, labels)
            return Seq2SeqLMOutput(loss=_summed_loss(logits, labels) / n_tokens, logits=logits)
        lengths = (labels != IGNORE).sum(1).tolist()
        losses = []
        for run in runs_of_like_length(lengths, n_runs(len(lengths))):
            some = labels[run, : max(lengths[i] for i in run)]
            losses.append(_summed_loss(self.logits(memory.select(run), some), some))
        return Seq2SeqLMOutput(loss=torch.stack(losses).sum() / n_tokens)

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
        """Some of the weights, none of which any training leaves as it is: what tells translators apart."""
        return [*self.reader.parameters(), self.lm.get_input_embeddings().weight]

    def read(
        self,
        soft_prompts: Float[Tensor, "batch n d_subject"],
        attention_mask: Int[Tensor, "batch n"] | Bool[Tensor, "batch n"],
    ) -> Float[Tensor, "batch n d_model"]:
        """Soft prompts, and the subject's hidden states over them if wanted, in the language model's input space."""
        hidden = self.hidden_states(soft_prompts, attention_mask) if self.hidden_states else ()
        return self.reader(soft_prompts, hidden).to(self.lm.dtype)


def _summed_loss(logits: Float[Tensor, "batch length vocab"], labels: Int[Tensor, "batch length"]) -> Float[Tensor, ""]:
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
