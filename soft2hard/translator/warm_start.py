"""An encoder-decoder made from a decoder-only subject's own weights.

Following the idea of T5Gemma (arXiv 2504.06225): encoder and decoder take the layers of the causal
model, the encoder reads in both directions, and the decoder gains cross-attention. Here the result is a
T5 model. A Llama block is a T5 block (RMS norm, attention, gated feed-forward) but for three things: the
attention scale, which is folded into the query matrix; attention biases, which T5 has not and which are
dropped; and rotary positions, in whose place T5 learns a relative bias. That bias starts with one head that looks at
the token before and one at the token before that, as language models need them. So what the subject knows of
the meaning of each token's vector is there from the start.
"""

import torch
from torch import nn
from transformers import PreTrainedModel, T5Config, T5ForConditionalGeneration

_LOOK_BACK = 5.0  # attention logit, in nats

WARM_START_TYPES = ("llama", "mistral")


def can_warm_start(model: PreTrainedModel) -> bool:
    """Whether `seq2seq_from_causal` knows this architecture (all heads with their own keys and values), unquantized."""
    config = model.config
    return (
        getattr(model, "hf_quantizer", None) is None
        and config.model_type in WARM_START_TYPES
        and config.num_attention_heads == config.num_key_value_heads
        and config.hidden_act == "silu"
    )


def translator_t5_config(model: PreTrainedModel, dropout: float = 0.1) -> T5Config:
    """A T5 configuration of the shape of a Llama-type causal model."""
    config = model.config
    eos = config.eos_token_id[0] if isinstance(config.eos_token_id, list) else config.eos_token_id
    pad = eos if config.pad_token_id is None else config.pad_token_id
    return T5Config(
        vocab_size=config.vocab_size,
        d_model=config.hidden_size,
        d_kv=getattr(config, "head_dim", None) or config.hidden_size // config.num_attention_heads,
        d_ff=config.intermediate_size,
        num_layers=config.num_hidden_layers,
        num_decoder_layers=config.num_hidden_layers,
        num_heads=config.num_attention_heads,
        relative_attention_max_distance=32,
        relative_attention_num_buckets=16,
        dropout_rate=dropout,
        layer_norm_epsilon=config.rms_norm_eps,
        feed_forward_proj="gated-silu",
        tie_word_embeddings=False,  # for T5 this says that the head's input is not scaled
        pad_token_id=pad,
        eos_token_id=eos,
        decoder_start_token_id=pad,
    )


@torch.no_grad()
def seq2seq_from_causal(model: PreTrainedModel, dropout: float = 0.1) -> T5ForConditionalGeneration:
    """A T5 model that starts from the weights of a Llama-type causal model (see `can_warm_start`).

    Cross-attention starts as a copy of self-attention with its output matrix at zero, so that the
    decoder is the causal model until training opens it.
    """
    target = T5ForConditionalGeneration(translator_t5_config(model, dropout))
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
            _copy_attention(block.layer[0].SelfAttention, layer.self_attn, scale)
            block.layer[0].layer_norm.weight.copy_(layer.input_layernorm.weight)
            if stack is target.decoder:
                _copy_attention(block.layer[1].EncDecAttention, layer.self_attn, scale)
                block.layer[1].EncDecAttention.o.weight.zero_()
                block.layer[1].layer_norm.weight.copy_(layer.input_layernorm.weight)
            _copy_feed_forward(block.layer[-1], layer)
        stack.block[0].layer[0].SelfAttention.relative_attention_bias.weight.zero_()
    # Near distances have a bucket each in a decoder: bucket n is n tokens back.
    bias = target.decoder.block[0].layer[0].SelfAttention.relative_attention_bias.weight
    for head in range(min(2, bias.shape[1] - 1)):
        bias[head + 1, head] = _LOOK_BACK
    return target


def _copy_attention(target: nn.Module, source: nn.Module, scale: float) -> None:
    target.q.weight.copy_(source.q_proj.weight * scale)
    target.k.weight.copy_(source.k_proj.weight)
    target.v.weight.copy_(source.v_proj.weight)
    target.o.weight.copy_(source.o_proj.weight)


def _copy_feed_forward(target: nn.Module, source: nn.Module) -> None:
    target.DenseReluDense.wi_0.weight.copy_(source.mlp.gate_proj.weight)
    target.DenseReluDense.wi_1.weight.copy_(source.mlp.up_proj.weight)
    target.DenseReluDense.wo.weight.copy_(source.mlp.down_proj.weight)
    target.layer_norm.weight.copy_(source.post_attention_layernorm.weight)
