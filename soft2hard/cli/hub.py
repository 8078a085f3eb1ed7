"""soft2hard push and pull: translators, corpora and soft prompts on the Hugging Face Hub."""

from pathlib import Path
from typing import Annotated, Literal

from cyclopts import Parameter

from soft2hard.cli.common import quiet, say

KindName = Annotated[Literal["translator", "corpus", "soft-prompts"], Parameter(help="What it is.")]
Repository = Annotated[str, Parameter(help="Name on the hub, such as organisation/name; HF_ENDPOINT is heeded.")]


def push(
    kind: KindName,
    path: Path,
    repository: Repository,
    /,
    *,
    licence: Annotated[str, Parameter(alias="--license")],
    private: Annotated[bool, Parameter(negative="--public")] = True,
) -> None:
    """Publish a translator, a corpus or soft prompts on the Hugging Face Hub, with a card.

    The card says which subject they belong to, how they were made, and how they are loaded. Soft prompts of every
    readable format are published as safetensors; no pickle ever is. Log in first: `hf auth login`.

    **Example:** `soft2hard push translator runs/english/translator me/my-translator --licence apache-2.0`

    Args:
        path: Folder of a translator or corpus; file, adapter or folder of soft prompts.
        licence: Licence for the card, such as apache-2.0 or llama3.1.
        private: Who may see the repository, where it is made by this.
    """
    quiet()
    from soft2hard.translator import publishing

    address, n_files = publishing.push(kind, path, repository, licence, private=private)
    say(f"Published {n_files} files: {address}")


def pull(kind: KindName, repository: Repository, path: Path, /) -> None:
    """Fetch a translator, a corpus or soft prompts from the Hugging Face Hub into a folder.

    There is no need to before using them: every command takes such names in place of paths. Only safetensors, JSON,
    Arrow and tokenizer files are fetched; what has been fetched before comes from the local cache when offline.

    **Example:** `soft2hard pull corpus me/my-corpus runs/corpus`

    Args:
        path: New folder for it.
    """
    quiet()
    from soft2hard.translator import publishing

    publishing.pull(kind, repository, path)
    print(path)
