"""Translators, corpora and soft prompts on the Hugging Face Hub, each with a card that says what it is."""

import json
import shutil
from collections.abc import Mapping
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any, Literal

from huggingface_hub import ModelCardData
from jinja2 import ChainableUndefined, Environment

from soft2hard.data_gen.corpus.folder import PLAN_FILE
from soft2hard.data_gen.corpus.rows import corpus_plan, load_corpus
from soft2hard.errors import UserError
from soft2hard.prompts.files import find_soft_prompts
from soft2hard.prompts.soft_prompt import SoftPrompt
from soft2hard.storage.files import atomic_folder
from soft2hard.storage.hub import is_repository_name, local_folder, name_and_revision, publish, safe_files
from soft2hard.translator.settings import read_card

Published = Literal["translator", "corpus", "soft-prompts"]

_TEMPLATE = Path(__file__).with_name("published.md.jinja")
_MOST_ROWS = 100


def push(kind: Published, path: Path, repository: str, licence: str, *, private: bool = True) -> tuple[str, int]:
    """Publish a translator, a corpus or soft prompts with a card; returns the address and the number of files.

    Soft prompts of every readable format are published as safetensors; no pickle ever is. `licence` is an identifier
    of the hub, such as apache-2.0. Raises UserError where the path holds no such thing, and where the hub refuses.
    """
    with TemporaryDirectory() as folder:
        if kind == "soft-prompts":
            facts, source = _of_soft_prompts(_staged(path, Path(folder))), Path(folder)
        else:
            facts, source = (_of_translator if kind == "translator" else _of_corpus)(path), path
        files = safe_files(source)
        return publish(files, _card(kind, repository, licence, facts), repository, kind, private=private), len(files)


def pull(kind: Published, repository: str, path: Path) -> None:
    """Fetch one of these into a new folder. Raises UserError where it cannot be fetched or is something else."""
    if not is_repository_name(repository, kind):
        raise UserError(f"'{repository}' is no name of a repository.", "Give one such as organisation/name.")
    if Path(repository).exists():
        raise UserError(f"'{repository}' is a folder here.", "Use it as it is, or call from another folder.")
    found = local_folder(repository, kind)
    {"translator": read_card, "corpus": load_corpus, "soft-prompts": lambda one: find_soft_prompts([one])}[kind](found)
    with atomic_folder(path) as temporary:
        shutil.copytree(found, temporary, dirs_exist_ok=True)  # follows the cache's links to the files themselves


def _staged(path: Path, folder: Path) -> dict[str, SoftPrompt]:
    """Soft prompts by their paths in the repository, and files of them in `folder`, all of them safetensors."""
    root = path if path.is_dir() and not (path / "adapter_config.json").exists() else path.parent
    prompts: dict[str, SoftPrompt] = {}
    for found in find_soft_prompts([path]):
        name = found.relative_to(root)
        name = name.with_suffix(".safetensors") if found.is_file() else name.with_name(f"{name.name}.safetensors")
        if name.as_posix() in prompts:
            raise UserError(f"Two soft prompts would be called {name}.", "Rename one of them.")
        prompts[name.as_posix()] = SoftPrompt.from_pretrained(found)
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        prompts[name.as_posix()].save(folder / name)
    return prompts


# --- the facts on each kind's card ---------------------------------------------------------------


def _of_translator(folder: Path) -> dict[str, Any]:
    card = read_card(folder)
    return {"name": card.subject, "fingerprint": card.fingerprint, "width": card.d_subject, "made": card.training}


def _of_corpus(folder: Path) -> dict[str, Any]:
    corpus, plan = load_corpus(folder), corpus_plan(folder)
    best = [loss for loss, is_best in zip(corpus["validation_loss"], corpus["is_best"], strict=True) if is_best]
    name = json.loads((folder / PLAN_FILE).read_text(encoding="utf-8")).get("subject_name", "")
    of_subject = {"name": name, "fingerprint": plan["subject"], "width": corpus.features["embeddings"].shape[1]}
    return of_subject | {"made": plan, "n_prompts": len(corpus), "n_tasks": len(best), "loss": sum(best) / len(best)}


def _of_soft_prompts(prompts: Mapping[str, SoftPrompt]) -> dict[str, Any]:
    """Of soft prompts by their paths in the repository. Raises UserError where their subjects differ."""
    subjects = {(prompt.subject, prompt.fingerprint, prompt.d_model) for prompt in prompts.values()}
    if len(subjects) > 1:
        names = ", ".join(sorted({str(name) for name, _, _ in subjects}))
        raise UserError(f"The soft prompts belong to several subjects ({names}).", "Publish each subject's by itself.")
    return dict(zip(("name", "fingerprint", "width"), subjects.pop(), strict=True)) | {"prompts": prompts}


def _card(kind: Published, repository: str, licence: str, facts: Mapping[str, Any]) -> str:
    """The card as a file: header, subject, making, use."""
    name = facts["name"] and name_and_revision(facts["name"])[0]
    header = ModelCardData(
        license=licence,
        library_name="soft2hard",
        pipeline_tag="text2text-generation" if kind == "translator" else None,
        tags=["soft2hard", "soft-prompt", "prompt-tuning"],
        base_model=name if name and "/" in name and is_repository_name(name, "subject") else None,
    )
    page = Environment(undefined=ChainableUndefined, keep_trailing_newline=True)
    page.filters["json"] = lambda values: json.dumps(values, indent=2, ensure_ascii=False)
    page.filters["cell"] = lambda text: " ".join(str(text).replace("|", "\\|").replace("`", "'").split())
    template = page.from_string(_TEMPLATE.read_text(encoding="utf-8"))
    return template.render(card_data=header.to_yaml(), kind=kind, repository=repository, most_rows=_MOST_ROWS, **facts)
