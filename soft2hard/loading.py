"""Reading a subject's model and tokenizer, and saying plainly what is wrong when that fails."""

import torch
from huggingface_hub.errors import StrictDataclassError
from safetensors import SafetensorError
from transformers import (
    AutoConfig,
    AutoModelForCausalLM,
    AutoModelForSeq2SeqLM,
    AutoTokenizer,
    PreTrainedModel,
    PreTrainedTokenizerBase,
)

from soft2hard.errors import UserError

READING_ERRORS = (OSError, ValueError, KeyError, TypeError, RuntimeError, SafetensorError, StrictDataclassError)
"""What transformers raises over a damaged config, tokenizer or weights, and over a config that does not fit them."""


def load_model(name_or_path: str, device: torch.device | str | None, dtype: torch.dtype | None) -> PreTrainedModel:
    """A causal or encoder-decoder language model from a folder, the local cache or the hub.

    Weights are read from safetensors, and code that comes with a model is never run. The device is the GPU if there
    is one; the dtype float32 on a CPU and what the weights were saved in elsewhere. Raises UserError.
    """
    device = torch.device(device or ("cuda" if torch.cuda.is_available() else "cpu"))
    chosen = dtype or (torch.float32 if device.type == "cpu" else "auto")
    try:
        config = AutoConfig.from_pretrained(name_or_path, trust_remote_code=False)
        auto = AutoModelForSeq2SeqLM if config.is_encoder_decoder else AutoModelForCausalLM
        model, loaded = auto.from_pretrained(
            name_or_path,
            config=config,
            dtype=chosen,
            use_safetensors=True,
            trust_remote_code=False,
            output_loading_info=True,
        )
    except READING_ERRORS as error:
        raise UserError(
            f"The subject model '{name_or_path}' could not be read ({first_line(error)}).",
            "Give a folder that holds config.json and model.safetensors, or the name of a causal or encoder-decoder "
            "language model in the local cache or on the hub.",
        ) from error
    if loaded["missing_keys"]:
        raise UserError(
            f"The subject model '{name_or_path}' lacks weights: {', '.join(sorted(loaded['missing_keys'])[:3])}.",
            "Save the whole language model, output head included, with save_pretrained.",
        )
    return model.to(device)


def load_tokenizer(name_or_path: str) -> PreTrainedTokenizerBase:
    """The tokenizer that lies beside a model. Raises UserError where there is none."""
    try:
        return AutoTokenizer.from_pretrained(name_or_path, trust_remote_code=False)
    except READING_ERRORS as error:
        raise UserError(
            f"The subject '{name_or_path}' has no tokenizer that can be read ({first_line(error)}).",
            "Save its tokenizer in the same folder with tokenizer.save_pretrained.",
        ) from error


def first_line(error: BaseException) -> str:
    """What an error of another library says, short enough for one line."""
    if "ignore_mismatched_sizes" in str(error):
        return "its weights have other shapes than its config.json says"
    if isinstance(error, KeyError):
        return f"{error} is missing"
    return (str(error).strip().splitlines() or [type(error).__name__])[0].rstrip(".:")[:200]
