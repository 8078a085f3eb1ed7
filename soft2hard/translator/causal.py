"""The second architecture: a frozen causal language model with LoRA, the soft prompt as its prefix.

The design of arXiv 2605.27642: the subject itself, or any causal LM, reads the soft prompt's vectors in the place of
token embeddings, through a learned projection where widths differ, and continues with the instruction. Only the
projection, a vector after which writing begins, and the low-rank adapters (Hu et al. 2021, arXiv 2106.09685) learn.
"""

import copy
import inspect
import sys
from functools import cached_property
from pathlib import Path

import torch
from jaxtyping import Float, Int
from peft import LoraConfig, PeftModel, get_peft_model
from peft.utils import get_peft_model_state_dict
from safetensors.torch import save_file
from torch import Tensor, nn
from transformers import PreTrainedModel
from transformers.cache_utils import Cache, DynamicLayer

from soft2hard.compute.precision import has_fast_bf16
from soft2hard.errors import UserError
from soft2hard.lm.batching import positions
from soft2hard.lm.loading import Loading
from soft2hard.lm.subject import Subject
from soft2hard.storage.names import is_embedded_subject
from soft2hard.translator.model import is_rounding, read_rows
from soft2hard.translator.network import (
    HiddenStates,
    Labels,
    Logits,
    Made,
    Mask,
    Memory,
    SoftPromptReader,
    SoftPrompts,
    TranslatorModel,
    plain_generation,
)
from soft2hard.translator.settings import Design, TranslatorCard

ADAPTER = "adapter"
"""Folder of the LoRA weights within a translator's, in PEFT's own format."""
_ADAPTER_WEIGHTS = "adapter_model.safetensors"


class CausalTranslator(TranslatorModel):
    """A causal LM under LoRA that reads `BOS, soft prompt, begin` and writes the instruction.

    Memories are padded on the left, so that writing begins in one place.
    """

    n_start = 0
    beside_reader = ("begin",)

    def __init__(self, peft: PeftModel, reader: SoftPromptReader, base: Subject, instruction_tokens: int):
        super().__init__(reader)
        self.peft, self._instruction_tokens = peft, instruction_tokens
        self.eos_id, self._bos_id, self._context = base.eos_ids[0], base.tokenizer.bos_token_id, base.context_length
        pad_id = base.tokenizer.pad_token_id
        self._pad_id = self.eos_id if pad_id is None else pad_id
        self.begin = nn.Parameter(self.lm.get_input_embeddings().weight.detach().float().mean(0))
        self.lm.generation_config = plain_generation(self.lm)
        self.lm.get_output_embeddings().register_forward_pre_hook(_in_one_piece)
        self._in_one_precision: tuple[PreTrainedModel, ...] = ()  # of one at most, lest it be part of the state
        self.register_load_state_dict_post_hook(_forget_copy)
        # As the card has it; PEFT would write where this machine keeps the base.
        self.peft.peft_config["default"].base_model_name_or_path = _base_name(base)

    @classmethod
    def new(cls, subject: Subject, design: Design, hidden: HiddenStates | None) -> Made:
        base = subject if design.base is None else Subject.from_pretrained(design.base, loading=subject.loading)
        _refuse_other_than_causal(base)
        peft = _with_adapters(base, design.lora_rank, design.dropout)
        reader = SoftPromptReader.between(subject, base.model, hidden)
        of_base = {"base": _base_name(base), "base_fingerprint": base.fingerprint}
        return cls(peft, reader, base, design.instruction_tokens), base.tokenizer, of_base

    @classmethod
    def load(
        cls, folder: Path, card: TranslatorCard, reader: SoftPromptReader, base: str | None, subject: Subject | None
    ) -> TranslatorModel:
        """Raises UserError where the base is not the model that the adapters were trained on."""
        lm = _saved_base(folder, card, base, subject)
        _refuse_other_than_causal(lm)
        if not _is_base(lm, folder, card):
            raise UserError(
                f"The translator '{folder}' writes with another model than '{lm.name}'.",
                "Give the model that it was trained on.",
            )
        if not (folder / ADAPTER / _ADAPTER_WEIGHTS).is_file():
            raise ValueError(f"{ADAPTER}/{_ADAPTER_WEIGHTS} is missing")
        peft = PeftModel.from_pretrained(_sharing_weights(lm.model), folder / ADAPTER, is_trainable=True)
        return cls(peft, reader, lm, card.instruction_tokens)

    def save_lm(self, folder: Path, dtype: torch.dtype | None) -> None:
        """Write the LoRA weights as PEFT does, into the folder `ADAPTER` within `folder`."""
        (folder / ADAPTER).mkdir()
        weights = get_peft_model_state_dict(self.peft, save_embedding_layers=False)
        tensors = {name: t.detach().to(dtype or t.dtype).cpu().contiguous() for name, t in weights.items()}
        save_file(tensors, folder / ADAPTER / _ADAPTER_WEIGHTS)
        self.peft.peft_config["default"].save_pretrained(folder / ADAPTER)

    @property
    def lm(self) -> PreTrainedModel:
        return self.peft.get_base_model()

    @property
    def _reads_and_writes(self) -> PreTrainedModel:
        """The language model; on a CPU in bfloat16, but for training, with adapters in bfloat16, too: the products of
        adapters in another precision than the weights beside them take longer than all others."""
        lm = self.lm
        if self.training or torch.is_grad_enabled() or lm.device.type != "cpu" or lm.dtype == torch.float32:
            return lm
        if not self._in_one_precision:
            self._in_one_precision = (_sharing_weights(lm, but="lora_"),)
            for name, parameter in self._in_one_precision[0].named_parameters():
                if "lora_" in name:
                    parameter.data = parameter.data.to(lm.dtype)
        return self._in_one_precision[0]

    def to_train(self) -> None:
        if self.lm.device.type == "cpu" and self.lm.dtype != torch.float32:
            self.peft, self._in_one_precision = copy.deepcopy(self.peft).float(), ()

    @property
    def room(self) -> int | None:
        if self._context is None:
            return None
        around = (self._bos_id is not None) + 1 + self._instruction_tokens + 1  # BOS, begin, the text and its end
        return self._context - around

    def kept_elsewhere(self) -> dict[str, Tensor]:
        state = self.peft.state_dict(prefix="peft.", keep_vars=True)
        return {name: tensor for name, tensor in state.items() if not tensor.requires_grad}

    def telling_weights(self) -> list[Tensor]:
        return list(self.state_dict().values())

    def encode(self, soft_prompts: SoftPrompts, attention_mask: Mask) -> Memory:
        mask = attention_mask.long()
        self._need_room(mask.shape[1])
        states = self.read(soft_prompts, mask)
        if self._bos_id is not None:
            bos = self._embed(torch.full((len(mask), 1), self._bos_id, device=mask.device))
            states, mask = torch.cat([bos.to(states), states], 1), torch.cat([mask.new_ones(len(mask), 1), mask], 1)
        states, mask = _to_the_right(states, mask)
        begin = self.begin.to(states).expand(len(states), 1, -1)
        memory = Memory(torch.cat([states, begin], 1), torch.cat([mask, mask.new_ones(len(mask), 1)], 1))
        return memory if self.training or torch.is_grad_enabled() else self._cached(memory)

    def _cached(self, memory: Memory) -> Memory:
        """The same with its keys and values, so that the many texts of a soft prompt do not each read it again; as it
        is where the model keeps other things than these."""
        before, mask = memory.states[:, :-1], memory.mask[:, :-1]
        if not mask.any(1).all():  # of an empty soft prompt without BOS there are none
            return memory
        taken = self._taken({"position_ids": positions(mask.bool()), "logits_to_keep": 1})
        found = self._reads_and_writes(inputs_embeds=before, attention_mask=mask, use_cache=True, **taken)
        cache = getattr(found, "past_key_values", None)
        if not isinstance(cache, Cache) or {type(layer) for layer in cache.layers} != {DynamicLayer}:
            return memory
        return Memory(memory.states, memory.mask, cache, torch.arange(len(mask), device=mask.device))

    def logits(self, memory: Memory, labels: Labels) -> Logits:
        before = labels[:, :-1]  # what each label but the first is written after
        cache = memory.own_cache(room=labels.shape[1])
        unread = memory.states if cache is None else memory.states[:, -1:]
        read = torch.cat([unread, self._embed(before.clamp(min=0)).to(unread)], 1)
        mask = torch.cat([memory.mask, (before >= 0).long()], 1)
        place = positions(mask.bool())[:, -read.shape[1] :]
        taken = self._taken({"position_ids": place, "logits_to_keep": labels.shape[1], "past_key_values": cache})
        lm = self._reads_and_writes
        logits = lm(inputs_embeds=read, attention_mask=mask, use_cache=cache is not None, **taken).logits
        return logits[:, -labels.shape[1] :]

    def generate(self, memory: Memory, **settings: object) -> Int[Tensor, "rows length"]:
        ends = {"eos_token_id": self.eos_id, "pad_token_id": self._pad_id}
        # generate() makes rows of its own for its beams, but none of a cache.
        cache = memory.own_cache(self._instruction_tokens, settings.get("num_beams", 1))
        read = {"inputs_embeds": memory.states, "attention_mask": memory.mask}
        read |= {} if cache is None else {"past_key_values": cache}
        return self._reads_and_writes.generate(**read, **ends | settings)

    def _taken(self, wanted: dict[str, object]) -> dict[str, object]:
        """Of these arguments, those that this language model takes."""
        return {name: value for name, value in wanted.items() if name in self._parameters_of_forward}

    def _need_room(self, n_read: int) -> None:
        """Raise UserError unless the longest instruction fits after so many rows, whatever the batch holds."""
        if self.room is not None and n_read > self.room:
            raise UserError(
                f"The translator's language model reads {self._context} tokens; with an instruction of up to "
                f"{self._instruction_tokens}, these soft prompts need {n_read + self._context - self.room}.",
                "Choose a --base with a longer context, fewer --instruction-tokens, or tune shorter soft prompts.",
            )

    @cached_property
    def _parameters_of_forward(self) -> frozenset[str]:
        return frozenset(inspect.signature(self.lm.forward).parameters)

    def _embed(self, ids: Int[Tensor, "*shape"]) -> Float[Tensor, "*shape d_model"]:
        return self.lm.get_input_embeddings()(ids)


def _with_adapters(base: Subject, rank: int, dropout: float) -> PeftModel:
    """New adapters on all linear layers but the head, and on the matrices of experts, which PEFT cannot drop out."""
    config = LoraConfig(
        r=rank,
        lora_alpha=2 * rank,
        lora_dropout=dropout,
        target_modules="all-linear",
        task_type="CAUSAL_LM",
    )
    try:
        return get_peft_model(_to_be_trained(base.model), config)
    except ValueError as error:
        if not dropout or "lora_dropout" not in str(error):
            raise
        print(f"'{base.name}' has experts, whose adapters have no dropout: it is 0.", file=sys.stderr)
        return _with_adapters(base, rank, 0.0)


def _forget_copy(model: CausalTranslator, *_: object) -> None:
    model._in_one_precision = ()


def _in_one_piece(head: nn.Module, read: tuple[Tensor, ...]) -> tuple[Tensor, ...]:
    """Hidden states in one piece for the head. They are cut off from those of what was read before, and for a tensor in
    pieces PyTorch copies the head's matrix once for each row: 30 times the time in bfloat16 on a CPU."""
    return tuple(tensor.contiguous() for tensor in read)


def _to_be_trained(model: PreTrainedModel) -> PreTrainedModel:
    """A copy for training. On a CPU in float32, from which autocast rounds as it goes: adapters are in float32, and
    twice as slow beside weights of another precision."""
    if model.device.type != "cpu" or model.dtype == torch.float32:
        return _sharing_weights(model)
    return copy.deepcopy(model).float()


def _sharing_weights(model: PreTrainedModel, but: str | None = None) -> PreTrainedModel:
    """A copy to which adapters can be added without changing `model`: its weights are the same tensors, but for those
    with `but` in their names."""
    named = (*model.named_parameters(), *model.named_buffers())
    return copy.deepcopy(model, {id(t): t for name, t in named if but is None or but not in name})


def _is_base(lm: Subject, folder: Path, card: TranslatorCard) -> bool:
    """True for the causal LM that adapters were trained on; where that is the subject, also in another rounding."""
    if lm.fingerprint == card.base_fingerprint:
        return True
    return card.base_fingerprint == card.fingerprint and is_rounding(read_rows(folder), lm)


def _saved_base(folder: Path, card: TranslatorCard, name: str | None, subject: Subject | None) -> Subject:
    """The causal LM under a saved translator: the subject that is loaded, or, where that computes slowly, its weights
    read again in float32."""
    if name is None and subject is not None and _is_base(subject, folder, card):
        quick = (torch.float32, torch.bfloat16) if has_fast_bf16(subject.device) else (torch.float32,)
        if subject.device.type != "cpu" or subject.embedding.dtype in quick:
            return subject
        name = subject.name
    loading = Loading(dtype="float32", device="cpu", attention="sdpa")
    return Subject.from_pretrained(name or card.base, loading=loading)


def _refuse_other_than_causal(base: Subject) -> None:
    if not base.continues_text:
        raise UserError(
            f"'{base.name}' is {base.family}; a LoRA translator writes with a causal language model.",
            "Give one with --base, or choose the encoder-decoder architecture.",
        )
    if not base.generates_from_vectors:
        raise UserError(
            f"'{base.name}' ({base.model.config.model_type}) does not write from vectors, as a LoRA translator has to.",
            "Give another with --base, or choose the encoder-decoder architecture.",
        )


def _base_name(base: Subject) -> str:
    """'embedded', a hub's name, or an absolute path."""
    if is_embedded_subject(base.name):
        return "embedded"
    path = Path(base.name)
    return str(path.resolve()) if path.is_dir() else base.name


def _to_the_right(
    states: Float[Tensor, "batch n d_model"], mask: Int[Tensor, "batch n"]
) -> tuple[Float[Tensor, "batch n d_model"], Int[Tensor, "batch n"]]:
    """Rows padded on the right as rows padded on the left."""
    n = mask.shape[1]
    n_padding = n - mask.sum(1, keepdim=True)
    order = (torch.arange(n, device=mask.device)[None] - n_padding) % n
    return states.gather(1, order[..., None].expand_as(states)), mask.gather(1, order)
