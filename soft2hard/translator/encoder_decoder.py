"""The default architecture: an encoder reads the soft prompt in both directions, a decoder writes.

Without a base it is made, where that can be, from a decoder-only subject's own weights, following the idea of T5Gemma
(arXiv 2504.06225): encoder and decoder take the layers of the causal model, the encoder reads in both directions, and
the decoder gains cross-attention. Here the result is a T5 model. A Llama block is a T5 block (RMS norm, attention,
gated feed-forward) but for three things: the attention scale, which is folded into the query matrix; attention biases,
which T5 has not and which are dropped; and rotary positions, in whose place T5 learns a relative bias. That bias starts
with one head that looks at the token before and one at the token before that, as language models need them. So what the
subject knows of the meaning of each token's vector is there from the start.
"""

from collections.abc import Mapping
from pathlib import Path

import torch
from jaxtyping import Int
from torch import Tensor, nn
from transformers import AutoModelForSeq2SeqLM, PreTrainedModel, T5Config, T5ForConditionalGeneration
from transformers.modeling_outputs import BaseModelOutput

from soft2hard.lm.loading import load_tokenizer
from soft2hard.lm.subject import Subject
from soft2hard.storage.names import folder_of
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

WARM_START_TYPES = ("llama", "mistral")
_LOOK_BACK = 5.0  # attention logit, in nats


class EncoderDecoderTranslator(TranslatorModel):
    """Any encoder-decoder of transformers that takes input embeddings (T5, T5Gemma, BART and their kin)."""

    n_start = 1

    def __init__(self, seq2seq: PreTrainedModel, reader: SoftPromptReader):
        super().__init__(reader)
        self.seq2seq, seq2seq.generation_config = seq2seq, plain_generation(seq2seq)
        eos_id = seq2seq.config.eos_token_id
        self.eos_id = eos_id[0] if isinstance(eos_id, list) else eos_id

    @classmethod
    def new(cls, subject: Subject, design: Design, hidden: HiddenStates | None) -> Made:
        if design.base is not None:
            base = str(folder_of(design.base, "subject"))
            seq2seq, tokenizer = _from_pretrained(base), load_tokenizer(base)
        else:
            tokenizer, dropout, is_like_t5 = subject.tokenizer, design.dropout, can_warm_start(subject.model)
            seq2seq = seq2seq_from_causal(subject.model, dropout) if is_like_t5 else _random_t5(subject, dropout)
        return cls(seq2seq, SoftPromptReader.between(subject, seq2seq, hidden)), tokenizer, {}

    @classmethod
    def load(
        cls, folder: Path, card: TranslatorCard, reader: SoftPromptReader, base: str | None, subject: Subject | None
    ) -> TranslatorModel:
        seq2seq, loaded = _from_pretrained(str(folder), output_loading_info=True)
        if loaded["missing_keys"]:
            raise ValueError(f"weights are missing, such as {min(loaded['missing_keys'])}")
        return cls(seq2seq, reader)

    def save_lm(self, folder: Path, dtype: torch.dtype | None) -> None:
        inner = "seq2seq."
        state = {n.removeprefix(inner): t.detach() for n, t in self.state_dict().items() if n.startswith(inner)}
        state = {name: tensor.to(dtype or tensor.dtype).contiguous() for name, tensor in state.items()}
        self.seq2seq.save_pretrained(folder, state_dict=state)

    @property
    def lm(self) -> PreTrainedModel:
        return self.seq2seq

    def encode(self, soft_prompts: SoftPrompts, attention_mask: Mask) -> Memory:
        mask = attention_mask.long()
        encoder = self.seq2seq.get_encoder()
        states = encoder(inputs_embeds=self.read(soft_prompts, mask), attention_mask=mask).last_hidden_state
        return Memory(states, mask)

    def logits(self, memory: Memory, labels: Labels) -> Logits:
        encoded = BaseModelOutput(last_hidden_state=memory.states)
        # With labels the model would compute a loss that nobody takes.
        shift = getattr(self.seq2seq, "prepare_decoder_input_ids_from_labels", None)
        given = {"decoder_input_ids": shift(labels=labels), "use_cache": False} if shift else {"labels": labels}
        return self.seq2seq(encoder_outputs=encoded, attention_mask=memory.mask, **given).logits

    def generate(self, memory: Memory, **settings: object) -> Int[Tensor, "rows length"]:
        # generate() changes the object it is given, so each call gets its own.
        encoded = BaseModelOutput(last_hidden_state=memory.states)
        written = self.seq2seq.generate(encoder_outputs=encoded, attention_mask=memory.mask, **settings)
        return written[:, self.n_start :]


def _from_pretrained(folder: str, **settings: object):
    safely = {"use_safetensors": True, "trust_remote_code": False}
    return AutoModelForSeq2SeqLM.from_pretrained(folder, dtype=torch.float32, **safely, **settings)


def _random_t5(subject: Subject, dropout: float) -> T5ForConditionalGeneration:
    """A small T5 with random weights that writes with the subject's tokenizer."""
    tokenizer, sizes = subject.tokenizer, {"d_model": 256, "d_kv": 64, "d_ff": 704, "num_layers": 4, "num_heads": 4}
    return T5ForConditionalGeneration(
        _t5_config(len(tokenizer), subject.eos_ids[0], tokenizer.pad_token_id, dropout_rate=dropout, **sizes)
    )


def _t5_config(vocab_size: int, eos_id: int, pad_id: int | None, **settings: object) -> T5Config:
    """Of a T5 with gated layers, that begins with its padding, or its end where it has none."""
    pad_id = eos_id if pad_id is None else pad_id
    ids = {"pad_token_id": pad_id, "eos_token_id": eos_id, "decoder_start_token_id": pad_id}
    return T5Config(vocab_size=vocab_size, feed_forward_proj="gated-silu", **ids, **settings)


def can_warm_start(model: PreTrainedModel) -> bool:
    """True if `seq2seq_from_causal` knows the architecture (all heads with their own keys and values), unquantized."""
    config = model.config
    return (
        getattr(model, "hf_quantizer", None) is None
        and config.model_type in WARM_START_TYPES
        and config.num_attention_heads == config.num_key_value_heads
        and config.hidden_act == "silu"
    )


@torch.no_grad()
def seq2seq_from_causal(model: PreTrainedModel, dropout: float = 0.1) -> T5ForConditionalGeneration:
    """A T5 model that starts from the weights of a Llama-type causal model (see `can_warm_start`).

    Cross-attention starts as a copy of self-attention with its output matrix at zero, so that the
    decoder is the causal model until training opens it.
    """
    target = _shaped_like(model, dropout)
    scale = target.config.d_kv**-0.5
    table, head = model.get_input_embeddings().weight, model.get_output_embeddings().weight
    target.shared.weight.copy_(table)
    if head is not table:
        # T5 ties its head to its table whatever the configuration says; both are saved where they differ.
        target.lm_head.weight = nn.Parameter(head.float().clone())
        target.config.tie_word_embeddings = False
    for stack in (target.encoder, target.decoder):
        stack.final_layer_norm.weight.copy_(model.model.norm.weight)
        for block, layer in zip(stack.block, model.model.layers, strict=True):
            _copy(block.layer[0].SelfAttention, layer.self_attn, _ATTENTION, q=scale)
            block.layer[0].layer_norm.weight.copy_(layer.input_layernorm.weight)
            if stack is target.decoder:
                _copy(block.layer[1].EncDecAttention, layer.self_attn, _ATTENTION, q=scale)
                block.layer[1].EncDecAttention.o.weight.zero_()
                block.layer[1].layer_norm.weight.copy_(layer.input_layernorm.weight)
            _copy(block.layer[-1].DenseReluDense, layer.mlp, _FEED_FORWARD)
            block.layer[-1].layer_norm.weight.copy_(layer.post_attention_layernorm.weight)
        stack.block[0].layer[0].SelfAttention.relative_attention_bias.weight.zero_()
    # Near distances have a bucket each in a decoder: bucket n is n tokens back.
    bias = target.decoder.block[0].layer[0].SelfAttention.relative_attention_bias.weight
    for head in range(min(2, bias.shape[1] - 1)):
        bias[head + 1, head] = _LOOK_BACK
    return target


def _shaped_like(model: PreTrainedModel, dropout: float) -> T5ForConditionalGeneration:
    """A T5 of the shape of a Llama-type causal model."""
    config = model.config
    eos_id = config.eos_token_id[0] if isinstance(config.eos_token_id, list) else config.eos_token_id
    return T5ForConditionalGeneration(
        _t5_config(
            config.vocab_size,
            eos_id,
            config.pad_token_id,
            d_model=config.hidden_size,
            d_kv=getattr(config, "head_dim", None) or config.hidden_size // config.num_attention_heads,
            d_ff=config.intermediate_size,
            num_layers=config.num_hidden_layers,
            num_heads=config.num_attention_heads,
            relative_attention_max_distance=32,
            relative_attention_num_buckets=16,
            dropout_rate=dropout,
            layer_norm_epsilon=config.rms_norm_eps,
            tie_word_embeddings=False,  # for T5 this says that the head's input is not scaled
        )
    )


_ATTENTION = {"q": "q_proj", "k": "k_proj", "v": "v_proj", "o": "o_proj"}
_FEED_FORWARD = {"wi_0": "gate_proj", "wi_1": "up_proj", "wo": "down_proj"}
"""T5's matrices with Llama's names for them."""


def _copy(target: nn.Module, source: nn.Module, names: Mapping[str, str], **scale: float) -> None:
    """Fill in matrices with those of the other model, some of them scaled."""
    for ours, theirs in names.items():
        target.get_submodule(ours).weight.copy_(source.get_submodule(theirs).weight * scale.get(ours, 1.0))
