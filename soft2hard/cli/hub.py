"""soft2hard push and pull: translators, corpora and soft prompts on the Hugging Face Hub."""

import shutil
from enum import Enum
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import TYPE_CHECKING, Annotated

import typer

from soft2hard.cli.common import quiet, say
from soft2hard.errors import UserError
from soft2hard.storage.files import atomic_folder

if TYPE_CHECKING:
    from soft2hard.prompts.soft_prompt import SoftPrompt


class Published(str, Enum):
    """What can be published."""

    translator = "translator"
    corpus = "corpus"
    soft_prompts = "soft-prompts"


KindName = Annotated[Published, typer.Argument(metavar="KIND", help="translator, corpus or soft-prompts.")]
Repository = Annotated[
    str, typer.Argument(metavar="REPOSITORY", help="Name on the hub, such as organisation/name; HF_ENDPOINT is heeded.")
]


def push(
    kind: KindName,
    path: Annotated[
        Path,
        typer.Argument(
            metavar="PATH", help="Folder of a translator or corpus; file, adapter or folder of soft prompts."
        ),
    ],
    repository: Repository,
    *,
    licence: Annotated[
        str, typer.Option("--licence", "--license", help="Licence for the card, such as apache-2.0 or llama3.1.")
    ],
    private: Annotated[
        bool, typer.Option("--private/--public", help="Who may see the repository, where it is made by this.")
    ] = True,
) -> None:
    """Publish a translator, a corpus or soft prompts on the Hugging Face Hub, with a card.

    The card says which subject they belong to, how they were made, and how they are loaded. Soft prompts of every
    readable format are published as safetensors; no pickle ever is. Log in first: hf auth login.

    [bold]Example:[/bold] soft2hard push translator runs/english/translator me/my-translator --licence apache-2.0
    """
    quiet()
    from soft2hard.cli.hub_cards import About, corpus_card, soft_prompts_card, translator_card
    from soft2hard.storage.hub import publish, safe_files

    about = About(repository, licence)
    with TemporaryDirectory() as folder:
        if kind is Published.soft_prompts:
            card = soft_prompts_card(_staged(path, Path(folder)), about)
            files = safe_files(Path(folder))
        else:
            card = (translator_card if kind is Published.translator else corpus_card)(path, about)
            files = safe_files(path)
        address = publish(files, card, repository, kind.value, private=private)
    say(f"Published {len(files)} files: {address}")


def pull(
    kind: KindName,
    repository: Repository,
    path: Annotated[Path, typer.Argument(metavar="PATH", help="New folder for it.")],
) -> None:
    """Fetch a translator, a corpus or soft prompts from the Hugging Face Hub into a folder.

    There is no need to before using them: every command takes such names in place of paths. Only safetensors, JSON,
    Arrow and tokenizer files are fetched; what has been fetched before comes from the local cache when offline.

    [bold]Example:[/bold] soft2hard pull corpus me/my-corpus runs/corpus
    """
    quiet()
    from soft2hard.storage.hub import is_repository_name, local_folder

    if not is_repository_name(repository, kind.value):
        raise UserError(f"'{repository}' is no name of a repository.", "Give one such as organisation/name.")
    if Path(repository).exists():
        raise UserError(f"'{repository}' is a folder here.", "Use it as it is, or call from another folder.")
    found = local_folder(repository, kind.value)
    _check(kind, found)
    with atomic_folder(path) as temporary:
        shutil.copytree(found, temporary, dirs_exist_ok=True)  # follows the cache's links to the files themselves
    typer.echo(str(path))


def _staged(path: Path, folder: Path) -> "dict[str, SoftPrompt]":
    """Soft prompts by their paths in the repository, and files of them in `folder`, all of them safetensors."""
    from soft2hard.prompts.files import find_soft_prompts
    from soft2hard.prompts.soft_prompt import SoftPrompt

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


def _check(kind: Published, folder: Path) -> None:
    """Raise UserError where a folder does not hold what it should."""
    if kind is Published.translator:
        from soft2hard.translator.card import read_card

        read_card(folder)
    elif kind is Published.corpus:
        from soft2hard.data_gen.corpus import load_corpus

        load_corpus(folder)
    else:
        from soft2hard.prompts.files import find_soft_prompts

        find_soft_prompts([folder])
