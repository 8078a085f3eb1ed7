"""How a subject's model is held in memory, its reading, and saying plainly what is wrong when that fails."""

import os
from dataclasses import replace
from importlib.util import find_spec
from pathlib import Path
from typing import TypedDict

import torch
from huggingface_hub.errors import StrictDataclassError
from safetensors import SafetensorError
from transformers import (
    AutoConfig,
    AutoModelForCausalLM,
    AutoModelForImageTextToText,
    AutoModelForMaskedLM,
    AutoModelForSeq2SeqLM,
    AutoTokenizer,
    BitsAndBytesConfig,
    PreTrainedConfig,
    PreTrainedModel,
    PreTrainedTokenizerBase,
)
from transformers.models.auto.modeling_auto import (
    MODEL_FOR_CAUSAL_LM_MAPPING_NAMES,
    MODEL_FOR_IMAGE_TEXT_TO_TEXT_MAPPING_NAMES,
    MODEL_FOR_MASKED_LM_MAPPING_NAMES,
)
from transformers.utils import is_flash_attn_2_available
from transformers.utils.quantization_config import QuantizationConfigMixin

from soft2hard.errors import UserError, first_line
from soft2hard.lm.frozen_model import is_masked_class
from soft2hard.lm.settings import Loading

READING_ERRORS = (OSError, ValueError, KeyError, TypeError, RuntimeError, SafetensorError, StrictDataclassError)
"""Errors of transformers for a damaged config, tokenizer or weights, and for a config that does not fit them."""


class LoadingNames(TypedDict, total=False):
    """Parts of a `Loading` as transformers' `from_pretrained` names them; subjects run on one device."""

    dtype: torch.dtype | str
    torch_dtype: torch.dtype | str
    """The older name of `dtype`."""
    device: torch.device | str
    device_map: torch.device | str | dict[str, int | str | torch.device]
    """'auto', a device, or {"": device}."""
    attn_implementation: str
    quantization_config: QuantizationConfigMixin
    """Any of transformers' quantizations, its packages installed."""


def loading_of(loading: Loading, asked: LoadingNames) -> Loading:
    """`loading` with the parts that were asked for by transformers' names; raises UserError for a name unknown."""
    if unknown := set(asked) - set(LoadingNames.__annotations__):
        raise UserError(
            f"Subjects are not loaded with {', '.join(sorted(unknown))}.",
            f"Use {', '.join(LoadingNames.__annotations__)}, or load the model yourself and call Subject(...).",
        )
    changes: dict[str, str] = {}
    for name in ("dtype", "torch_dtype"):
        if name in asked:
            changes["dtype"] = str(asked[name]).removeprefix("torch.")
    for name in ("device", "device_map"):
        if name in asked:
            changes["device"] = str(_one_device(asked[name]))
    if "attn_implementation" in asked:
        changes["attention"] = asked["attn_implementation"]
    return replace(loading, **changes)


def _one_device(wanted: torch.device | str | dict) -> torch.device | str:
    if not isinstance(wanted, dict):
        return wanted
    if set(wanted) != {""}:
        raise UserError("A subject runs on one device, not on several.", 'Give device_map="auto" or {"": device}.')
    return f"cuda:{wanted['']}" if isinstance(wanted[""], int) else wanted[""]


def load_model(
    folder: str, loading: Loading = Loading(), quantization: QuantizationConfigMixin | None = None
) -> PreTrainedModel:
    """A causal, encoder-decoder or masked language model from a folder, or from a GGUF file, whose weights are
    dequantised.

    `quantization` goes before that of `loading`. Weights are read from safetensors or GGUF, and code that comes with a
    model is never run. Raises UserError for what cannot be read, and where this machine lacks what `loading` asks for.
    """
    device, settings = loading.torch_device, _settings(loading)
    if quantization is not None:
        settings["quantization_config"] = quantization
    where, gguf = _place(folder)
    try:
        config = _config(folder)
        model, loaded = _auto_class(config).from_pretrained(
            where,
            config=config,
            dtype=loading.torch_dtype or "auto",
            use_safetensors=None if gguf else True,
            trust_remote_code=False,
            output_loading_info=True,
            **settings,
            **gguf,
        )
    except (*READING_ERRORS, ImportError) as error:
        if isinstance(error, torch.OutOfMemoryError):
            raise no_room(folder) from error
        raise _unreadable(folder, error) from error
    if loaded["missing_keys"]:
        raise UserError(
            f"The subject model '{folder}' lacks weights: {', '.join(sorted(loaded['missing_keys'])[:3])}.",
            "Save the whole language model, output head included, with save_pretrained.",
        )
    model = _plain(model) if gguf else model
    return model if "device_map" in settings else model.to(device)


def _auto_class(config: PreTrainedConfig) -> type:
    """The class that reads a model: the masked one where its own is one, for RoBERTa and others may be causal too. Of a
    model that also reads images (LLaVA, Qwen-VL) the words are what is used."""
    if config.is_encoder_decoder:
        return AutoModelForSeq2SeqLM
    if is_masked_config(config):
        return AutoModelForMaskedLM
    of_type = config.model_type
    sees = of_type in MODEL_FOR_IMAGE_TEXT_TO_TEXT_MAPPING_NAMES and of_type not in MODEL_FOR_CAUSAL_LM_MAPPING_NAMES
    return AutoModelForImageTextToText if sees else AutoModelForCausalLM


def is_masked_config(config: PreTrainedConfig) -> bool:
    """Whether a model is a masked LM, by its class, or by its type where the configuration names no class."""
    if config.architectures:
        return any(map(is_masked_class, config.architectures))
    of_type = MODEL_FOR_MASKED_LM_MAPPING_NAMES.get(config.model_type, "")
    return is_masked_class(of_type) and not getattr(config, "is_decoder", False)


def is_gguf(name_or_path: str) -> bool:
    """True for the path of a model file of llama.cpp."""
    return name_or_path.lower().endswith(".gguf")


def _place(name_or_path: str) -> tuple[str, dict[str, str]]:
    """The folder to read, and for a GGUF file the argument that names it there."""
    if not is_gguf(name_or_path):
        return name_or_path, {}
    path = Path(name_or_path)
    return str(path.parent), {"gguf_file": path.name}


def _plain(model: PreTrainedModel) -> PreTrainedModel:
    """The model without the marks of its quantisation, which it no longer has, and with which it cannot be saved."""
    values = model.config.to_dict()
    values.pop("quantization_config", None)
    with torch.device("meta"):
        plain = type(model)(type(model.config).from_dict(values))
    plain.load_state_dict(model.state_dict(), assign=True, strict=False)
    plain.tie_weights()
    for name, buffer in model.named_buffers():  # rotary frequencies and the like are no part of a state
        owner, _, attribute = name.rpartition(".")
        setattr(plain.get_submodule(owner), attribute, buffer)
    plain.generation_config, plain.name_or_path = model.generation_config, model.name_or_path
    return plain


def _unreadable(folder: str, error: Exception) -> UserError:
    """The error for a subject that could not be read, with the remedy for its usual causes."""
    if isinstance(error, ImportError):
        return UserError(
            f"The subject '{folder}' needs a package that is not installed ({first_line(error)}).",
            "Install it with pip, or take weights that are not quantised.",
        )
    if pointer := _lfs_pointer(Path(folder)):
        return UserError(
            f"{pointer} is a pointer of git-lfs, not the weights themselves.", "Run git lfs pull in that folder."
        )
    if _is_missing_folder(folder):
        return UserError(
            f"The subject model '{folder}' could not be read (there is no such folder).",
            "Give a folder that holds config.json and model.safetensors; where a soft prompt names it as its base "
            "model, --subject says where that lies here.",
        )
    return UserError(
        f"The subject model '{folder}' could not be read ({first_line(error)}).",
        "Give a folder that holds config.json and model.safetensors, a GGUF file, or the name of a causal, "
        "encoder-decoder or masked language model in the local cache or on the hub; --subject names it, where the soft "
        "prompt does so otherwise.",
    )


def _is_missing_folder(name_or_path: str) -> bool:
    """Whether this is the path of something that is not there, rather than a name on the hub."""
    is_path = name_or_path.startswith((".", "~", os.sep)) or name_or_path.count("/") > 1
    return is_path and not os.path.exists(name_or_path)


def _lfs_pointer(path: Path) -> Path | None:
    """The first file of weights there that git-lfs has not fetched yet."""
    files = [path] if path.is_file() else sorted(path.glob("*.safetensors")) if path.is_dir() else []
    for file in files:
        with open(file, "rb") as stream:
            if stream.read(40).startswith(b"version https://git-lfs"):
                return file
    return None


def no_room(folder: str) -> UserError:
    """The error for a subject that does not fit."""
    return UserError(
        f"The GPU has no room for the subject '{folder}'.",
        "Load it with --dtype bfloat16 or --quantization 4bit, or use a larger GPU.",
    )


def _settings(loading: Loading) -> dict:
    """Arguments of `from_pretrained` beside the dtype. Raises UserError for what this machine does not have."""
    device, settings = loading.torch_device, {}
    if device.type == "cuda":
        settings["device_map"] = {"": device}  # straight to the GPU: the machine's memory may be the smaller one
    if loading.quantization != "none":
        _need_bitsandbytes(device)
        bits = {"load_in_8bit": True} if loading.quantization == "8bit" else _FOUR_BITS
        settings["quantization_config"] = BitsAndBytesConfig(**bits)
    _check_flash_attention(loading)
    if loading.attention != "auto":
        settings["attn_implementation"] = loading.attention
    return settings


def on_cpu(loading: Loading) -> str:
    """The attention of a copy on the CPU that is moved later. Raises UserError for one that is not available."""
    _check_flash_attention(loading)
    return "auto" if loading.attention == "flash_attention_2" else loading.attention


def _check_flash_attention(loading: Loading) -> None:
    on_gpu = loading.torch_device.type == "cuda"
    if loading.attention == "flash_attention_2" and not (on_gpu and is_flash_attn_2_available()):
        raise UserError(
            "FlashAttention 2 needs a GPU and its package, and one of them is missing here.",
            "Run pip install flash-attn on a machine with a GPU, or use --attention sdpa.",
        )


_FOUR_BITS = {"load_in_4bit": True, "bnb_4bit_quant_type": "nf4", "bnb_4bit_compute_dtype": torch.bfloat16}


def _need_bitsandbytes(device: torch.device) -> None:
    if device.type != "cuda":
        raise UserError("8-bit and 4-bit weights need a GPU.", "Use --quantization none, or a machine with a GPU.")
    if find_spec("bitsandbytes") is None:
        raise UserError("bitsandbytes is not installed.", "Run pip install bitsandbytes, or use --quantization none.")


def saved_dtype(folder: str) -> torch.dtype | None:
    """The dtype that a model's config says its weights were saved in; None where it does not say, or is damaged."""
    try:
        dtype = getattr(_config(folder), "dtype", None)
    except (*READING_ERRORS, ImportError):
        return None
    return dtype if isinstance(dtype, torch.dtype) else None


def would_round(folder: str, loading: Loading) -> bool:
    """Whether the dtype asked for has not all the digits of the saved weights."""
    asked = loading.torch_dtype
    return loading.quantization == "none" and asked not in (None, torch.float32, saved_dtype(folder))


def round_weights(model: PreTrainedModel, dtype: torch.dtype) -> None:
    """Bring the weights to another precision, as loading them in it does: not what is computed, such as rotary
    frequencies, which rounded would be others than those that the weights were trained with."""
    computed = [
        (module, name, module._buffers[name])
        for module in model.modules()
        for name in module._non_persistent_buffers_set
    ]
    model.to(dtype)
    for module, name, buffer in computed:
        module._buffers[name] = buffer


def _config(folder: str) -> PreTrainedConfig:
    where, gguf = _place(folder)
    return AutoConfig.from_pretrained(where, trust_remote_code=False, **gguf)


def load_tokenizer(name_or_path: str) -> PreTrainedTokenizerBase:
    """The tokenizer that lies beside a model. Raises UserError where there is none."""
    remedy = "Save its tokenizer in the same folder with tokenizer.save_pretrained."
    try:
        where, gguf = _place(name_or_path)
        found = AutoTokenizer.from_pretrained(where, trust_remote_code=False, **gguf)
    except (*READING_ERRORS, ImportError) as error:
        raise UserError(
            f"The subject '{name_or_path}' has no tokenizer that can be read ({first_line(error)}).", remedy
        ) from error
    if len(found) <= len(found.all_special_ids):  # where there are no files, transformers may make one without words
        raise UserError(f"The subject '{name_or_path}' has no tokenizer that can be read (it has no words).", remedy)
    return found


def with_end(tokenizer: PreTrainedTokenizerBase, model: PreTrainedModel) -> PreTrainedTokenizerBase:
    """A tokenizer that names no end-of-sequence token with the one of the model's configuration, if that names one
    which is no word: configurations have one by default."""
    if tokenizer.eos_token_id is None and not is_masked_config(model.config):
        found = [getattr(c, "eos_token_id", None) for c in (model.generation_config, model.config.get_text_config())]
        first = next((one[0] if isinstance(one, list) else one for one in found if one not in (None, [])), None)
        special = {i for i, token in tokenizer.added_tokens_decoder.items() if token.special}
        if first in special | set(tokenizer.all_special_ids):
            tokenizer.eos_token = tokenizer.convert_ids_to_tokens(first)
    return tokenizer
