"""Soft prompts in PEFT adapter folders: adapter_config.json beside adapter_model.safetensors or .bin.

For prompt tuning, p-tuning and CPT alike, PEFT saves the virtual tokens' vectors themselves, under the
name `prompt_embeddings` (peft/utils/save_and_load.py, get_peft_model_state_dict): of p-tuning, the
encoder's outputs, so its encoder is not needed, and of CPT the tokens with the learned change added.
For encoder-decoder models PEFT by default saves twice as many rows as it uses: one set for each half,
of which PeftModelForSeq2SeqLM.forward feeds the first to the encoder and leaves the second aside.
"""

import json
import os
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

import torch
from jaxtyping import Float
from torch import Tensor

from soft2hard.errors import UserError
from soft2hard.prompts.files import (
    ADAPTER_CONFIG,
    FORMAT,
    MATRIX_NAME,
    Fields,
    check_is_file,
    decode_metadata,
    encode_metadata,
    foreign_provenance,
    is_adapter,
    on_disk,
    read_file,
    read_safetensors,
    read_torch,
    reading,
    to_bytes,
)
from soft2hard.prompts.matrix import as_matrix
from soft2hard.prompts.template import Template
from soft2hard.storage.files import atomic_folder
from soft2hard.storage.hub import name_and_revision

if TYPE_CHECKING:
    from peft import PeftModel

_SAFETENSORS_NAME = "adapter_model.safetensors"
_TORCH_NAME = "adapter_model.bin"
_ADAPTER_FILES = {ADAPTER_CONFIG, _SAFETENSORS_NAME, _TORCH_NAME}
_REPLACEABLE = _ADAPTER_FILES | {"README.md"}

_READABLE_KINDS = ("PROMPT_TUNING", "P_TUNING", "CPT")
_TABLES = {"embed_tokens", "wte", "word_embeddings", "embed_in", "shared", "lm_head", "embed_out"}
"""What tables of words are called. PEFT saves them with any adapter where the vocabulary was resized; they are tuned
only if the training let them."""
_TASK_TYPES = ("CAUSAL_LM", "SEQ_2_SEQ_LM")
_KIND_NAMES = {
    "LORA": "LoRA",
    "PREFIX_TUNING": "prefix-tuning",
    "MULTITASK_PROMPT_TUNING": "multitask prompt-tuning",
}
_TUNE_INSTEAD = "Tune a soft prompt for the task instead (peft.PromptTuningConfig) and give its folder."
_REMEDIES = {
    "PREFIX_TUNING": f"It holds keys and values for every layer, not input vectors. {_TUNE_INSTEAD}",
    "MULTITASK_PROMPT_TUNING": "Save one task's prompt: np.save('prompt.npy', peft_model.get_prompt(1, "
    "task_ids=torch.tensor([0])).detach().cpu().numpy()).",
}
_BOS_ROWS = "bos_rows"
"""Metadata: how many leading rows are a BOS embedding that `write_adapter` was asked to put there."""


def adapter_of(path: Path) -> Path | None:
    """Return the adapter folder that `path` is, or is a file of; None when it is neither."""
    if path.is_dir():
        return path
    return path.parent if path.name in _ADAPTER_FILES and is_adapter(path.parent) else None


def read_any(name_or_path: str | os.PathLike[str]) -> Fields:
    """See `SoftPrompt.from_pretrained`."""
    path = on_disk(Path(name_or_path))
    with reading(path):
        folder = adapter_of(path)
        fields = read_file(path) if folder is None else read_adapter(folder)
    return fields | {"embeddings": as_matrix(fields["embeddings"], str(path))}


def read_adapter(folder: Path) -> Fields:
    """Read the soft prompt of a prompt-tuning or p-tuning adapter.

    Raises:
        UserError: not an adapter folder, an adapter of another kind, a damaged file, or a config
            that disagrees with the tensor.
    """
    config = _read_config(folder)
    kind = _readable_kind(config, folder)
    tensors, metadata, weights = _read_weights(folder)
    if MATRIX_NAME not in tensors:
        raise UserError(
            f"{weights} has no tensor {MATRIX_NAME} (it has {', '.join(sorted(tensors)[:5]) or 'none'}).",
            "Save the adapter with peft_model.save_pretrained(folder), which computes the vectors of the prompt.",
        )
    tables = _tables(tensors, config)
    if others := sorted(set(tensors) - {MATRIX_NAME} - tables):
        raise UserError(
            f"{weights} holds more than a soft prompt: {', '.join(others[:3])}{' ...' if len(others) > 3 else ''}.",
            "Its soft prompt works with these weights only; tune one alone, without modules_to_save.",
        )
    rows = _used_rows(as_matrix(tensors[MATRIX_NAME], str(weights)), config, folder)
    if metadata.get("format") == FORMAT:
        bos_rows = 1 if metadata.get(_BOS_ROWS) == "1" else 0
        return {"embeddings": rows[bos_rows:], **decode_metadata(metadata, weights)}
    provenance = foreign_provenance(folder, f"peft {kind}", metadata) | _task_type(config) | _sub_adapters(folder)
    named = _text(config, "base_model_name_or_path")
    if (subject := _beside(folder, named)) != named:
        provenance["base_as_named"] = named
    if tables:
        provenance["left_aside"] = ", ".join(sorted(tables))
    subject = _at_revision(subject, config)
    return {"embeddings": rows, "subject": subject, "place": "first", "provenance": provenance}


def _at_revision(subject: str | None, config: Mapping[str, Any]) -> str | None:
    """A base model's name on the hub with the branch, tag or commit of it that the adapter was tuned on."""
    revision = _text(config, "revision")
    return subject if not subject or revision in (None, "main") or os.path.exists(subject) else f"{subject}@{revision}"


def _tables(tensors: Mapping[str, Tensor], config: Mapping[str, Any]) -> set[str]:
    """The tables of words that PEFT has saved beside a soft prompt without having been asked to tune them."""
    if config.get("modules_to_save") or config.get("trainable_token_indices"):
        return set()
    parts = {name: name.split(".") for name in tensors}
    return {name for name, of in parts.items() if of[-1] in ("weight", "bias") and of[-2:-1] and of[-2] in _TABLES}


def _beside(folder: Path, base: str | None) -> str | None:
    """The base model's name; of a relative path that leads nowhere from here, the same from the adapter's folder or
    one above it, since PEFT keeps paths as the training had them."""
    if not base or os.path.exists(base):  # unlike Path's, of what cannot be a path it says no
        return base
    found = (above / base for above in (folder, *folder.resolve().parents))
    return next((str(model.resolve()) for model in found if os.path.isfile(model / "config.json")), base)


def _read_config(folder: Path) -> dict[str, Any]:
    path = folder / ADAPTER_CONFIG
    if not path.exists():
        raise UserError(
            f"{folder} has no {ADAPTER_CONFIG}, so it is not a PEFT adapter.",
            "Give an adapter folder, or the soft prompt file within.",
        )
    check_is_file(path)
    with reading(path, ValueError, RecursionError):
        config = json.loads(path.read_text(encoding="utf-8"))
        if not isinstance(config, dict):
            raise ValueError("it is JSON, but not an object")
    return config


def _readable_kind(config: Mapping[str, Any], folder: Path) -> str:
    kind = config.get("peft_type")
    if not isinstance(kind, str):
        raise UserError(
            f"{folder / ADAPTER_CONFIG} does not say what kind of adapter it is (peft_type).",
            "Save the adapter again with peft_model.save_pretrained(folder).",
        )
    if kind not in _READABLE_KINDS:
        default = f"It changes the model itself and has no soft prompt. {_TUNE_INSTEAD}"
        raise UserError(
            f"{folder} is a {_KIND_NAMES.get(kind, kind)} adapter, not a soft prompt.", _REMEDIES.get(kind, default)
        )
    task_type = config.get("task_type")
    if task_type not in (None, *_TASK_TYPES):
        raise UserError(
            f"{folder} is an adapter for {task_type}, not for a language model that writes text.",
            f"Soft prompts of the task types {' and '.join(_TASK_TYPES)} can be put into words.",
        )
    return kind


def _sub_adapters(folder: Path) -> dict[str, str]:
    """Further adapters in the folder, which PEFT puts there when a model has several; checkpoints are none."""
    names = [entry.name for entry in sorted(folder.iterdir()) if entry.is_dir() and is_adapter(entry)]
    names = [name for name in names if not name.startswith("checkpoint-")]
    return {"sub_adapters": ", ".join(names)} if names else {}


def _read_weights(folder: Path) -> tuple[dict[str, Tensor], dict[str, str], Path]:
    """Return the tensors, their file's metadata, and its path; as in PEFT, safetensors come first."""
    for name, reader in ((_SAFETENSORS_NAME, read_safetensors), (_TORCH_NAME, read_torch)):
        path = folder / name
        if path.exists():
            check_is_file(path)
            return *reader(path), path
    raise UserError(
        f"{folder} has neither {_SAFETENSORS_NAME} nor {_TORCH_NAME}.",
        "Save or copy the adapter again with its weights.",
    )


def _used_rows(
    matrix: Float[Tensor, "rows d_model"], config: Mapping[str, Any], folder: Path
) -> Float[Tensor, "n_tokens d_model"]:
    """Return the rows PEFT puts before the input, after comparing the matrix with its config."""
    n_tokens = _count(config, "num_virtual_tokens", folder) or len(matrix)
    default_halves = 2 if config.get("task_type") == "SEQ_2_SEQ_LM" else 1
    halves = _count(config, "num_transformer_submodules", folder) or default_halves
    width = _count(config, "token_dim", folder) or matrix.shape[1]
    if len(matrix) not in (n_tokens, n_tokens * halves) or matrix.shape[1] != width:
        raise UserError(
            f"{folder / ADAPTER_CONFIG} says {n_tokens} virtual tokens of width {width} "
            f"(num_virtual_tokens, token_dim), but {MATRIX_NAME} has shape {tuple(matrix.shape)}.",
            "The two files are of different adapters: save or copy both again.",
        )
    return matrix[:n_tokens]


def _count(config: Mapping[str, Any], name: str, folder: Path) -> int | None:
    """Return a count of the config, None when it does not say."""
    value = config.get(name)
    if value is not None and (not isinstance(value, int) or value < 1):
        raise UserError(
            f"{folder / ADAPTER_CONFIG} has {name} = {json.dumps(value)}, not a positive whole number.",
            "Save the adapter again with peft_model.save_pretrained(folder).",
        )
    return value


def _text(config: Mapping[str, Any], name: str) -> str | None:
    value = config.get(name)
    return value if isinstance(value, str) and value else None


def _task_type(config: Mapping[str, Any]) -> dict[str, str]:
    task_type = _text(config, "task_type")
    return {"task_type": task_type} if task_type else {}


def of_model(model: "PeftModel", adapter_name: str | None) -> Fields:
    """See `SoftPrompt.from_peft`."""
    name = adapter_name or model.active_adapter
    config = model.peft_config[name].to_dict()
    kind = _readable_kind(
        config | {"peft_type": getattr(config["peft_type"], "value", config["peft_type"])}, Path(name)
    )
    encoder = model.prompt_encoder[name]
    # P-tuning that was read back has its vectors, and no longer the network that made them.
    is_read_back = kind == "P_TUNING" and not (hasattr(encoder, "mlp_head") or hasattr(encoder, "lstm_head"))
    rows = encoder.embedding.weight if is_read_back else model.get_prompt_embedding_to_save(name)
    return {
        "embeddings": rows[: config["num_virtual_tokens"]],
        "subject": _at_revision(_text(config, "base_model_name_or_path"), config),
        "place": "first",
        "provenance": {"source": "PeftModel", "source_format": f"peft {kind}"},
    }


def write_adapter(
    folder: Path,
    fields: Fields,
    base_model: str,
    task_type: Literal["CAUSAL_LM", "SEQ_2_SEQ_LM"],
    bos_embedding: Float[Tensor, " d_model"] | None,
) -> None:
    """See `SoftPrompt.save_pretrained`. An adapter already in the folder is replaced, whole or not at all."""
    # PEFT takes seconds to import, and nothing else here needs it.
    from peft import PromptTuningConfig

    rows, (base, revision) = fields["embeddings"], name_and_revision(base_model)
    if bos_embedding is not None:
        rows = torch.cat([_bos_row(bos_embedding, rows.shape[1]), rows])
    config = PromptTuningConfig(
        task_type=task_type,
        base_model_name_or_path=base,
        revision=revision,
        num_virtual_tokens=rows.shape[0],
        token_dim=rows.shape[1],
        num_transformer_submodules=1,
        inference_mode=True,
    )
    metadata = encode_metadata(fields) | ({_BOS_ROWS: "1"} if bos_embedding is not None else {})
    with atomic_folder(folder, overwrite=_holds_only_an_adapter(folder)) as temporary:
        config.save_pretrained(str(temporary))
        (temporary / _SAFETENSORS_NAME).write_bytes(to_bytes(rows, metadata))
        (temporary / "README.md").write_text(
            _how_to_call(fields.get("template"), base_model, bos_embedding is not None, task_type), encoding="utf-8"
        )


_README = """---
base_model: {base}
library_name: peft
tags: [prompt-tuning, soft2hard]
---

# A soft prompt for {base}

```python
from peft import PeftModel
from transformers import AutoTokenizer, {auto}

tokenizer = AutoTokenizer.from_pretrained({base!r}{revision})
model = PeftModel.from_pretrained({auto}.from_pretrained({base!r}{revision}), "this folder")
text = {before!r} + "your input" + {after!r}
query = tokenizer(text, return_tensors="pt", add_special_tokens={special})
written = model.generate(**query, do_sample=False, max_new_tokens=16)
answer = tokenizer.decode(written[0]{cut}, skip_special_tokens=True)
answer = min((answer.split(stop)[0] for stop in {stops!r}), key=len, default=answer).strip()
```

The virtual tokens were tuned before exactly this text.{remark}
"""


def _how_to_call(template: Template | None, base_model: str, with_bos: bool, task_type: str) -> str:
    template = template or Template()
    if template.input_first:
        raise UserError("PEFT knows no virtual tokens behind the input.", "Save the soft prompt as safetensors.")
    seq2seq = task_type == "SEQ_2_SEQ_LM"
    base, revision = name_and_revision(base_model)
    return _README.format(
        base=base,
        revision=f", revision={revision!r}" if revision else "",
        auto="AutoModelForSeq2SeqLM" if seq2seq else "AutoModelForCausalLM",
        before=template.opening + template.lead_of("soft") + template.input_prefix,
        after=template.output_prefix,
        special=not with_bos and template.bos is not False,
        cut="" if seq2seq else "[query.input_ids.shape[1] :]",
        stops=list(template.stops),
        remark=_BOS_REMARK if with_bos else _AFTER_REMARK if template.place == "after" else "",
    )


_BOS_REMARK = " Its first row is the BOS token's, so the tokenizer adds none."
_AFTER_REMARK = (
    " They were tuned behind the tokenizer's leading tokens (BOS), if it has any; PEFT puts virtual tokens before "
    "them, and answers then differ: save the soft prompt with `bos_embedding`."
)


def _bos_row(bos_embedding: Float[Tensor, " d_other"], d_model: int) -> Float[Tensor, "1 d_model"]:
    if len(bos_embedding) != d_model:
        raise UserError(
            f"The BOS embedding has width {len(bos_embedding)}, the soft prompt {d_model}.",
            "Take it from the subject the soft prompt was tuned on.",
        )
    return as_matrix(bos_embedding[None], "The BOS embedding")


def _holds_only_an_adapter(folder: Path) -> bool:
    return folder.is_dir() and {entry.name for entry in folder.iterdir()} <= _REPLACEABLE
