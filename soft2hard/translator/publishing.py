"""Translators, corpora and soft prompts on the Hugging Face Hub, each with a card that says what it is."""

import json
import shutil
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any, Literal

from huggingface_hub import ModelCardData

from soft2hard.data_gen.corpus import corpus_plan, load_corpus
from soft2hard.data_gen.corpus_folder import PLAN_FILE
from soft2hard.errors import UserError
from soft2hard.prompts.files import find_soft_prompts
from soft2hard.prompts.soft_prompt import SoftPrompt
from soft2hard.storage.files import atomic_folder
from soft2hard.storage.hub import is_repository_name, local_folder, publish, safe_files
from soft2hard.translator.card import read_card

Published = Literal["translator", "corpus", "soft-prompts"]

_TAGS = ["soft2hard", "soft-prompt", "prompt-tuning"]
_MOST_ROWS = 100


def push(kind: Published, path: Path, repository: str, licence: str, *, private: bool = True) -> tuple[str, int]:
    """Publish a translator, a corpus or soft prompts with a card; returns the address and the number of files.

    Soft prompts of every readable format are published as safetensors; no pickle ever is. `licence` is an identifier
    of the hub, such as apache-2.0. Raises UserError where the path holds no such thing, and where the hub refuses.
    """
    with TemporaryDirectory() as folder:
        if kind == "soft-prompts":
            card, source = _soft_prompts_card(_staged(path, Path(folder)), repository), Path(folder)
        else:
            card, source = (_translator_card if kind == "translator" else _corpus_card)(path, repository), path
        files = safe_files(source)
        return publish(files, card.text(repository, licence), repository, kind, private=private), len(files)


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


@dataclass(frozen=True)
class _Card:
    """What a card says beside its header."""

    subject: tuple[str | None, str | None, int]
    """Name, fingerprint and width."""
    about: str
    made: tuple[str, ...]
    """Paragraphs on how it was made."""
    python: str
    shell: str
    pipeline: str | None = None

    def text(self, repository: str, licence: str) -> str:
        """The card as a file: header, subject, making, use."""
        name, fingerprint, width = self.subject
        header = ModelCardData(
            license=licence,
            library_name="soft2hard",
            pipeline_tag=self.pipeline,
            tags=_TAGS,
            base_model=name if name and "/" in name and is_repository_name(name, "subject") else None,
        )
        parts = [
            f"# {repository}",
            self.about,
            "## Subject",
            f"`{name or 'unknown'}`, {width} wide; fingerprint (SHA-256 of its input embeddings and model type): "
            f"`{fingerprint or 'unknown'}`.",
            *self.made,
            "## Use",
            f"```python\n{self.python}\n```",
            f"or `{self.shell}`",
        ]
        return f"---\n{header.to_yaml()}\n---\n\n" + "\n\n".join(parts) + "\n"


def _translator_card(folder: Path, repository: str) -> _Card:
    card = read_card(folder)
    return _Card(
        (card.subject, card.fingerprint, card.d_subject),
        "A translator of soft2hard: it reads soft prompts tuned on one frozen language model, the subject, and writes "
        "them as text.",
        ("## Training", _block(card.training) if card.training else "The checkpoint does not say how it was trained."),
        "from soft2hard import SoftPrompt, Subject, Translator, translate\n\n"
        f'translator = Translator.from_pretrained("{repository}")\n'
        f'subject = Subject.from_pretrained("{card.subject}")\n'
        'print(translate([SoftPrompt.from_pretrained("mine.safetensors")], translator, subject))',
        f"soft2hard translate mine.safetensors --translator {repository} --subject {card.subject}",
        "text2text-generation",
    )


def _corpus_card(folder: Path, repository: str) -> _Card:
    corpus, plan = load_corpus(folder), corpus_plan(folder)
    name = json.loads((folder / PLAN_FILE).read_text(encoding="utf-8")).get("subject_name", "")
    best = [loss for loss, is_best in zip(corpus["validation_loss"], corpus["is_best"], strict=True) if is_best]
    return _Card(
        (name, plan["subject"], corpus.features["embeddings"].shape[1]),
        "Soft prompts beside the tasks that they were tuned for, made by soft2hard to train a translator on.\n\n"
        f"{len(corpus):,} soft prompts of {len(best):,} tasks ({plan['split']} tasks of the collection "
        f"`{plan['dod']}`), {plan['tuning']['n_tokens']} virtual tokens each; their mean validation loss is "
        f"{sum(best) / len(best):.4f} nats a token.",
        ("## How they were tuned", _block(plan)),
        f'from soft2hard.data_gen.corpus import load_corpus\n\ncorpus = load_corpus("{repository}")',
        f"soft2hard train {repository} --validation ... --subject {name or '...'} --output ...",
    )


def _soft_prompts_card(prompts: Mapping[str, SoftPrompt], repository: str) -> _Card:
    """Of soft prompts by their paths in the repository. Raises UserError where their subjects differ."""
    subjects = {(prompt.subject, prompt.fingerprint, prompt.d_model) for prompt in prompts.values()}
    if len(subjects) > 1:
        names = ", ".join(sorted({str(name) for name, _, _ in subjects}))
        raise UserError(f"The soft prompts belong to several subjects ({names}).", "Publish each subject's by itself.")
    rows = [
        f"| `{_cell(path)}` | {prompt.n_tokens} | {_cell(prompt.provenance.get('task', ''))} "
        f"| {_cell(prompt.provenance.get('validation_loss', ''))} |"
        for path, prompt in list(prompts.items())[:_MOST_ROWS]
    ]
    more = (f"... and {len(prompts) - _MOST_ROWS} more.",) if len(prompts) > _MOST_ROWS else ()
    first = repository if len(prompts) == 1 else f"{repository}/{next(iter(prompts))}"
    return _Card(
        subjects.pop(),
        f"{len(prompts)} soft prompts: vectors tuned in front of a frozen language model, the subject, in place of "
        "an instruction. soft2hard reads them and puts them into words.",
        ("\n".join(["| file | virtual tokens | task | validation loss |", "|---|---|---|---|", *rows]), *more),
        f'from soft2hard import SoftPrompt\n\nsoft_prompt = SoftPrompt.from_pretrained("{first}")',
        f"soft2hard translate {repository}",
    )


def _block(settings: Mapping[str, Any]) -> str:
    return f"```json\n{json.dumps(settings, indent=2, ensure_ascii=False)}\n```"


def _cell(text: str) -> str:
    """Text that cannot leave its cell of a table."""
    return " ".join(text.replace("|", "\\|").replace("`", "'").split())
