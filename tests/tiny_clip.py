"""A tiny CLIP with random weights and a word-level tokenizer, built in memory or saved as users have one."""

from pathlib import Path

import torch
from tokenizers import Tokenizer
from tokenizers.models import WordLevel
from tokenizers.pre_tokenizers import Whitespace
from tokenizers.processors import TemplateProcessing
from transformers import CLIPConfig, CLIPImageProcessorPil, CLIPModel, PreTrainedTokenizerFast

from soft2hard.lm.clip import Clip

CONSONANTS, VOWELS = "bdgklmnprstv", "aeiou"
WORDS = [c + v for c in CONSONANTS for v in VOWELS]
"""Sixty syllables."""
SPECIAL = ["<pad>", "<unk>", "<s>", "</s>"]
CONTEXT, PIXELS = 12, 16
_TEXT = {"hidden_size": 64, "intermediate_size": 64, "num_hidden_layers": 1, "num_attention_heads": 4}
_VISION = {"hidden_size": 16, "intermediate_size": 32, "num_hidden_layers": 1, "num_attention_heads": 2}
_STDS = {"embedding": 0.3, "q_proj": 0.15, "k_proj": 0.15, "v_proj": 0.3, "out_proj": 0.3, "mlp": 0.05}
"""Standard deviations of the text side's weights."""


def tokenizer() -> PreTrainedTokenizerFast:
    """One token a word; BOS and EOS stand around a text, as CLIP's own tokenizer does it."""
    words = Tokenizer(WordLevel({word: i for i, word in enumerate([*SPECIAL, *WORDS])}, unk_token="<unk>"))
    words.pre_tokenizer = Whitespace()
    words.post_processor = TemplateProcessing(single="<s> $A </s>", special_tokens=[("<s>", 2), ("</s>", 3)])
    names = {"pad_token": "<pad>", "unk_token": "<unk>", "bos_token": "<s>", "eos_token": "</s>"}
    return PreTrainedTokenizerFast(tokenizer_object=words, **names)


def model(seed: int = 0) -> CLIPModel:
    """One block, whose attention carries the words to a text's end.

    As transformers initialises a CLIP, a text's vector is that of its end, whatever it says. So values are large here,
    and the end of three words, where the text is read off, says little by itself.
    """
    ids = {"vocab_size": len(SPECIAL) + len(WORDS), "pad_token_id": 0, "bos_token_id": 2, "eos_token_id": 3}
    config = CLIPConfig(
        text_config=_TEXT | ids | {"max_position_embeddings": CONTEXT},
        vision_config=_VISION | {"image_size": PIXELS, "patch_size": 8},
        projection_dim=64,
    )
    torch.manual_seed(seed)
    made = CLIPModel(config).eval()
    with torch.no_grad():
        for name, parameter in made.text_model.named_parameters():
            if parameter.dim() > 1:
                parameter.normal_(std=next(std for part, std in _STDS.items() if part in name))
        made.text_model.embeddings.token_embedding.weight[: len(SPECIAL)].mul_(0.1)
        made.text_model.embeddings.position_embedding.weight[4].mul_(0.1)
    return made


def processor() -> CLIPImageProcessorPil:
    """Makes images small enough for the model."""
    square = {"height": PIXELS, "width": PIXELS}
    return CLIPImageProcessorPil(size={"shortest_edge": PIXELS}, crop_size=square)


def clip(seed: int = 0) -> Clip:
    """In memory."""
    return Clip(model(seed), tokenizer(), name="tiny-clip", processor=processor())


def saved(folder: Path) -> Path:
    """A folder as `save_pretrained` leaves it."""
    for part in (model(), tokenizer(), processor()):
        part.save_pretrained(folder)
    return folder
