"""Tiny language models with random weights, and a word-level tokenizer, built in memory."""

from copy import deepcopy
from functools import cache

import torch
from tokenizers import Tokenizer
from tokenizers.models import WordLevel
from tokenizers.pre_tokenizers import Whitespace
from tokenizers.processors import TemplateProcessing
from transformers import (
    AlbertConfig,
    AutoModelForCausalLM,
    AutoModelForMaskedLM,
    AutoModelForSeq2SeqLM,
    BartConfig,
    BertConfig,
    BloomConfig,
    CohereConfig,
    DebertaV2Config,
    DistilBertConfig,
    ElectraConfig,
    Gemma2Config,
    Gemma3TextConfig,
    GemmaConfig,
    GPT2Config,
    GraniteConfig,
    LlamaConfig,
    MistralConfig,
    ModernBertConfig,
    OPTConfig,
    PhiConfig,
    PreTrainedConfig,
    PreTrainedModel,
    PreTrainedTokenizerFast,
    Qwen3Config,
    RobertaConfig,
    T5Config,
)

from soft2hard.lm.subject import Subject

WORDS = "Input Output : cat dog bird fish red green blue one two three four big small up down left right".split()
SPECIAL = ["<pad>", "<s>", "</s>", "<unk>"]
VOCAB_SIZE = len(SPECIAL) + len(WORDS)
CONTEXT = 64
WINDOW = 8
"""Tokens that sliding attention looks back on, where an architecture has it."""

_IDS = {"vocab_size": VOCAB_SIZE, "pad_token_id": 0, "bos_token_id": 1, "eos_token_id": 2}
_ROPE = _IDS | {
    "hidden_size": 16,
    "intermediate_size": 24,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "head_dim": 4,
    "max_position_embeddings": CONTEXT,
}
_T5 = _IDS | {"d_model": 16, "d_kv": 4, "d_ff": 24, "num_layers": 2, "num_heads": 4, "decoder_start_token_id": 0}

CONFIGS: dict[str, PreTrainedConfig] = {
    "llama": LlamaConfig(**_ROPE),
    "qwen3": Qwen3Config(**_ROPE),
    "gpt2": GPT2Config(**_IDS, n_embd=16, n_layer=2, n_head=4, n_positions=CONTEXT),
    "opt": OPTConfig(
        **_IDS,
        hidden_size=16,
        ffn_dim=24,
        num_hidden_layers=2,
        num_attention_heads=4,
        word_embed_proj_dim=12,
        max_position_embeddings=CONTEXT,
    ),
    "bloom": BloomConfig(**_IDS, hidden_size=16, n_layer=2, n_head=4),
    "t5": T5Config(**_T5),
}
"""One of each kind of architecture: rotary, learned and no positions, narrow embeddings, encoder and decoder."""

ODD_HEADS: dict[str, PreTrainedConfig] = {
    "t5_untied": T5Config(**_T5, tie_word_embeddings=False, feed_forward_proj="gated-gelu"),
    "bart": BartConfig(
        **_IDS,
        d_model=16,
        encoder_layers=2,
        decoder_layers=2,
        encoder_attention_heads=4,
        decoder_attention_heads=4,
        encoder_ffn_dim=24,
        decoder_ffn_dim=24,
        decoder_start_token_id=2,
        max_position_embeddings=CONTEXT,
        scale_embedding=True,
        forced_eos_token_id=None,  # else transformers' generate writes EOS as the last token allowed
    ),
    "gemma2": Gemma2Config(**_ROPE, final_logit_softcapping=2.0, sliding_window=WINDOW),
    "cohere": CohereConfig(**{k: v for k, v in _ROPE.items() if k != "head_dim"}, logit_scale=0.3),
    "granite": GraniteConfig(
        **{k: v for k, v in _ROPE.items() if k != "head_dim"}, logits_scaling=3.0, embedding_multiplier=2.0
    ),
}
"""Architectures that scale, cap or shift their embeddings or logits."""

OTHERS: dict[str, PreTrainedConfig] = {
    "gemma": GemmaConfig(**_ROPE),
    "gemma3": Gemma3TextConfig(
        **_ROPE, sliding_window=WINDOW, layer_types=["sliding_attention", "full_attention"], query_pre_attn_scalar=4
    ),
    "mistral": MistralConfig(**_ROPE, sliding_window=WINDOW),
    "phi": PhiConfig(
        **_IDS,
        hidden_size=16,
        intermediate_size=24,
        num_hidden_layers=2,
        num_attention_heads=2,  # of their 8 dimensions, partial rotary positions turn 4
        max_position_embeddings=CONTEXT,
    ),
}
"""More architectures that people tune soft prompts on; two of them see no further back than a window."""

_BERT = {
    "vocab_size": VOCAB_SIZE + 1,  # a mask besides
    "pad_token_id": 0,
    "hidden_size": 16,
    "intermediate_size": 24,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "max_position_embeddings": CONTEXT,
}
MASKED: dict[str, PreTrainedConfig] = {
    "bert": BertConfig(**_BERT),
    "roberta": RobertaConfig(**_BERT),
    "albert": AlbertConfig(**_BERT, embedding_size=12),
    "distilbert": DistilBertConfig(**_BERT, dim=16, hidden_dim=24, n_layers=2, n_heads=4),
    "electra": ElectraConfig(**_BERT, embedding_size=12),
    "modernbert": ModernBertConfig(**_BERT, bos_token_id=1, eos_token_id=2, cls_token_id=1, sep_token_id=2),
    "deberta-v2": DebertaV2Config(**_BERT),
}
"""Masked language models: each with another output head, and other ways to count positions."""

_SEEDS = {
    "gpt2": 4,
    "bloom": 4,
    "t5": 6,
    "bart": 9,
    "gemma2": 9,
    "cohere": 5,
}  # where greedy outputs differ in words and in length; elsewhere 1
_BEGINS_WITH_BOS = {"llama", "opt", "gemma", "gemma2", "gemma3", "mistral", "cohere", "bart", *MASKED}
_ENDS_WITH_EOS = {"t5", "t5_untied", "bart", *MASKED}


def tokenizer(architecture: str) -> PreTrainedTokenizerFast:
    """Splits at white space and punctuation; adds BOS and EOS around a text as the architecture's own tokenizers do."""
    mask = ["<mask>"] if architecture in MASKED else []
    words = Tokenizer(WordLevel({word: i for i, word in enumerate([*SPECIAL, *WORDS, *mask])}, unk_token="<unk>"))
    words.pre_tokenizer = Whitespace()
    begin = "<s> " if architecture in _BEGINS_WITH_BOS else ""
    end = " </s>" if architecture in _ENDS_WITH_EOS else ""
    words.post_processor = TemplateProcessing(single=f"{begin}$A{end}", special_tokens=[("<s>", 1), ("</s>", 2)])
    names = {"pad_token": "<pad>", "bos_token": "<s>", "eos_token": "</s>", "unk_token": "<unk>"}
    if mask:
        names |= {"mask_token": "<mask>", "sep_token": "</s>"}
    return PreTrainedTokenizerFast(tokenizer_object=words, **names)


def config(architecture: str, **changes: object) -> PreTrainedConfig:
    """A configuration of one's own, with some of its fields changed, such as `vocab_size`."""
    found = deepcopy((CONFIGS | ODD_HEADS | OTHERS | MASKED)[architecture])
    for name, value in changes.items():
        setattr(found, name, value)
    return found


def model(architecture: str, seed: int = 0, **changes: object) -> PreTrainedModel:
    """Random weights large enough that outputs depend on everything that is read; biases and norms are random too.

    Initialised as for training, a model this small repeats its last token and hides differences between prompts.
    `changes` are to its configuration.
    """
    made_to = config(architecture, **changes)
    auto = AutoModelForSeq2SeqLM if made_to.is_encoder_decoder else AutoModelForCausalLM
    if architecture in MASKED:
        auto = AutoModelForMaskedLM
    made = auto.from_config(made_to).float()
    generator = torch.Generator().manual_seed(_SEEDS.get(architecture, 1) + seed)
    with torch.no_grad():
        for parameter in made.parameters():
            noise = torch.randn(parameter.shape, generator=generator)
            parameter.copy_(0.7 * noise if parameter.dim() > 1 else parameter + 0.2 * noise)
        table = made.get_input_embeddings()
        table.weight.div_(float(getattr(table, "embed_scale", 1.0)))  # else what was read last drowns all the rest
        if hasattr(made, "final_logits_bias"):
            made.final_logits_bias.copy_(torch.randn(made.final_logits_bias.shape, generator=generator))
    return made.eval()


@cache
def subject(architecture: str, seed: int = 0) -> Subject:
    """A subject shared by all tests: frozen, so that none can change it."""
    return Subject(model(architecture, seed), tokenizer(architecture), name=f"tiny-{architecture}")
