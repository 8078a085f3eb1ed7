"""What the card of a published translator, corpus or set of soft prompts says."""

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from soft2hard.errors import UserError
from soft2hard.storage.hub import is_repository_name

if TYPE_CHECKING:
    from soft2hard.prompts.soft_prompt import SoftPrompt

_TAGS = ["soft2hard", "soft-prompt", "prompt-tuning"]
_MOST_ROWS = 100


@dataclass(frozen=True)
class About:
    """What a card is written from."""

    repository: str
    licence: str
    """An identifier of the hub, such as apache-2.0."""


def translator_card(folder: Path, about: About) -> str:
    """The card of a translator. Raises UserError where the folder holds none."""
    from soft2hard.translator.card import read_card

    card = read_card(folder)
    return _document(
        about,
        _header(about, "text2text-generation", card.subject),
        [
            "A translator of soft2hard: it reads soft prompts tuned on one "
            "frozen language model, the subject, and writes them as text.",
            *_subject(card.subject, card.fingerprint, card.d_subject),
            "## Training",
            _block(card.training) if card.training else "The checkpoint does not say how it was trained.",
            "## Use",
            f"```python\nfrom soft2hard import SoftPrompt, Subject, Translator, translate\n\n"
            f'translator = Translator.from_pretrained("{about.repository}")\n'
            f'subject = Subject.from_pretrained("{card.subject}")\n'
            f'print(translate([SoftPrompt.from_pretrained("mine.safetensors")], translator, subject))\n```',
            f"or `soft2hard translate mine.safetensors --translator {about.repository} --subject {card.subject}`",
        ],
    )


def corpus_card(folder: Path, about: About) -> str:
    """The card of a corpus. Raises UserError where the folder holds none, or a half-made one."""
    from soft2hard.data_gen.corpus import corpus_plan, load_corpus
    from soft2hard.data_gen.corpus_folder import PLAN_FILE

    corpus = load_corpus(folder)
    plan = corpus_plan(folder)
    name = json.loads((folder / PLAN_FILE).read_text(encoding="utf-8")).get("subject_name", "")
    best = [loss for loss, is_best in zip(corpus["validation_loss"], corpus["is_best"], strict=True) if is_best]
    return _document(
        about,
        _header(about, None, name),
        [
            "Soft prompts beside the tasks that they were tuned for, made by soft2hard to train a translator on.",
            f"{len(corpus):,} soft prompts of {len(best):,} tasks ({plan['split']} tasks of the collection "
            f"`{plan['dod']}`), {plan['tuning']['n_tokens']} virtual tokens each; their mean validation loss is "
            f"{sum(best) / len(best):.4f} nats a token.",
            *_subject(name, plan["subject"], corpus.features["embeddings"].shape[1]),
            "## How they were tuned",
            _block(plan),
            "## Use",
            "```python\nfrom soft2hard.data_gen.corpus import load_corpus\n\n"
            f'corpus = load_corpus("{about.repository}")\n```',
            f"or `soft2hard train {about.repository} --validation ... --subject {name or '...'} --output ...`",
        ],
    )


def soft_prompts_card(prompts: Mapping[str, "SoftPrompt"], about: About) -> str:
    """The card of soft prompts, by their paths in the repository. Raises UserError where their subjects differ."""
    subjects = {(prompt.subject, prompt.fingerprint, prompt.d_model) for prompt in prompts.values()}
    if len(subjects) > 1:
        names = ", ".join(sorted({str(name) for name, _, _ in subjects}))
        raise UserError(f"The soft prompts belong to several subjects ({names}).", "Publish each subject's by itself.")
    [(name, fingerprint, width)] = subjects
    rows = [
        f"| `{_cell(path)}` | {prompt.n_tokens} | {_cell(prompt.provenance.get('task', ''))} "
        f"| {_cell(prompt.provenance.get('validation_loss', ''))} |"
        for path, prompt in list(prompts.items())[:_MOST_ROWS]
    ]
    first = about.repository if len(prompts) == 1 else f"{about.repository}/{next(iter(prompts))}"
    return _document(
        about,
        _header(about, None, name),
        [
            f"{len(prompts)} soft prompts: vectors tuned in front of a frozen language model, the subject, in place of "
            "an instruction. soft2hard reads them and puts them into words.",
            *_subject(name, fingerprint, width),
            "\n".join(["| file | virtual tokens | task | validation loss |", "|---|---|---|---|", *rows]),
            *([f"... and {len(prompts) - _MOST_ROWS} more."] if len(prompts) > _MOST_ROWS else []),
            "## Use",
            f'```python\nfrom soft2hard import SoftPrompt\n\nsoft_prompt = SoftPrompt.from_pretrained("{first}")\n```',
            f"or `soft2hard translate {about.repository}`",
        ],
    )


def _header(about: About, pipeline: str | None, subject: str | None) -> dict[str, Any]:
    base = {"base_model": subject} if subject and "/" in subject and is_repository_name(subject, "subject") else {}
    return {
        "license": about.licence,
        "library_name": "soft2hard",
        **({"pipeline_tag": pipeline} if pipeline else {}),
        "tags": _TAGS,
        **base,
    }


def _document(about: About, header: Mapping[str, Any], parts: Sequence[str]) -> str:
    import yaml

    front = yaml.safe_dump(dict(header), sort_keys=False, allow_unicode=True)
    return f"---\n{front}---\n\n" + "\n\n".join([f"# {about.repository}", *parts]) + "\n"


def _subject(name: str | None, fingerprint: str | None, width: int) -> list[str]:
    return [
        "## Subject",
        f"`{name or 'unknown'}`, {width} wide; fingerprint (SHA-256 of its input embeddings and model type): "
        f"`{fingerprint or 'unknown'}`.",
    ]


def _block(settings: Mapping[str, Any]) -> str:
    return f"```json\n{json.dumps(settings, indent=2, ensure_ascii=False)}\n```"


def _cell(text: str) -> str:
    """Text that cannot leave its cell of a table."""
    return " ".join(text.replace("|", "\\|").replace("`", "'").split())
