"""The Hugging Face Hub: folders fetched by name, folders published, and what its errors mean for a user.

Only weights in safetensors, JSON, Arrow tables and tokenizer files are ever fetched: no pickles, no code. A name that
has been fetched before is read from the local cache where the hub cannot be reached or HF_HUB_OFFLINE is set.
"""

import os
from collections.abc import Iterator
from pathlib import Path
from typing import Literal, NoReturn

from huggingface_hub import CommitOperationAdd, HfApi, constants, snapshot_download
from huggingface_hub.errors import (
    GatedRepoError,
    HfHubHTTPError,
    HFValidationError,
    HTTPError,
    LocalEntryNotFoundError,
    LocalTokenNotFoundError,
    OfflineModeIsEnabled,
    RepositoryNotFoundError,
    RevisionNotFoundError,
)
from huggingface_hub.utils import validate_repo_id

from soft2hard.errors import UserError, first_line

Kind = Literal["subject", "translator", "corpus", "soft-prompts"]

SAFE_FILES = ("*.safetensors", "*.json", "*.jsonl", "*.arrow", "*.model", "*.txt", "*.jinja", "README.md")
"""All that is fetched, and all that is published; of soft prompts also adapters of older PEFT, which are read without
running anything in them."""
_ALSO_FETCHED = {"soft-prompts": ("adapter_model.bin",)}
_IGNORED = {"subject": ("*/*", "consolidated*", "*.fp16.*")}  # other copies of the same weights
_HUB_ERRORS = (OSError, HFValidationError, HTTPError)


def local_folder(name_or_path: str | os.PathLike[str], kind: Kind) -> Path:
    """The folder that holds a thing of this kind: a path stays as it is, a repository's name is fetched.

    A name is `organisation/name`, of a subject also `name` alone; `@` and a branch, tag or commit may follow. Anything
    else comes back as a path, for the caller to say what it lacks. Raises UserError where a name cannot be fetched.
    """
    path = Path(name_or_path)
    name, revision = name_and_revision(name_or_path)
    if path.exists() or not is_repository_name(name, kind):
        return path
    try:
        return Path(
            snapshot_download(
                name,
                revision=revision,
                repo_type=_repository_type(kind),
                allow_patterns=[*SAFE_FILES, *_ALSO_FETCHED.get(kind, ())],
                ignore_patterns=list(_IGNORED.get(kind, ())),
            )
        )
    except _HUB_ERRORS as error:
        _raise(error, name, kind, revision)


def name_and_revision(name_or_path: str | os.PathLike[str]) -> tuple[str, str | None]:
    """The name of a repository, and the branch, tag or commit behind an `@`; a path that is there has none."""
    text = str(name_or_path)
    if "@" not in text or os.path.exists(text):
        return text, None
    name, _, revision = text.partition("@")
    return name, revision or None


def local_file(name_or_path: str | os.PathLike[str], kind: Kind) -> Path:
    """A file or folder; `organisation/name/a/b` is the file or folder a/b of a repository.

    Raises UserError where the repository cannot be fetched or holds no such file.
    """
    path, parts = Path(name_or_path), Path(name_or_path).parts
    if path.exists() or len(parts) < 3:
        return local_folder(path, kind)
    name = "/".join(parts[:2])
    folder = Path(*parts[:2])
    if path.is_absolute() or folder.exists() or not is_repository_name(name_and_revision(name)[0], kind):
        return path
    found = local_folder(name, kind) / Path(*parts[2:])
    if not found.exists():
        raise UserError(f"'{name}' on the hub has no {'/'.join(parts[2:])}.", "Check the name of the file.")
    return found


def is_repository_name(name: str, kind: Kind) -> bool:
    """True if a text may be the name of a repository rather than a mistyped path."""
    if name.count("/") != 1 and not (kind == "subject" and "/" not in name):
        return False
    try:
        validate_repo_id(name)
    except HFValidationError:
        return False
    return not any(Path(name).match(pattern) for pattern in (*SAFE_FILES, *_PATHS))


_PATHS = ("*.csv", "*.np[yz]", "*.pt", "*.pth", "*.bin", "*.yaml", ".*/*", "~/*")
"""Texts that are meant as a path; no repository is named so."""


def publish(files: dict[str, Path], card: str, repository: str, kind: Kind, *, private: bool = True) -> str:
    """Commit these files (by their path in the repository) and a card; the repository is made if need be.

    Returns its address. Raises UserError where the hub refuses or cannot be reached.
    """
    api, repository_type = HfApi(), _repository_type(kind)
    contents = [CommitOperationAdd(name, str(path)) for name, path in files.items()]
    try:
        api.create_repo(repository, repo_type=repository_type, private=private, exist_ok=True)
        commit = api.create_commit(
            repository,
            [*contents, CommitOperationAdd("README.md", card.encode())],
            commit_message=f"{kind} by soft2hard",
            repo_type=repository_type,
        )
    except _HUB_ERRORS as error:
        _raise(error, repository, kind)
    return str(commit.repo_url)


def safe_files(folder: Path) -> dict[str, Path]:
    """The files of a folder that may be published, by their path within it; hidden ones and its card are left out."""
    found = {path.relative_to(folder): path for path in sorted(folder.rglob("*")) if path.is_file()}
    return {
        name.as_posix(): path
        for name, path in found.items()
        if not any(part.startswith(".") for part in name.parts)
        and any(name.match(pattern) for pattern in SAFE_FILES)
        and name != Path("README.md")
        and not name.name.startswith("cache-")  # what `datasets` leaves beside a shard
    }


def hub_error(error: BaseException, name: str, kind: Kind) -> UserError | None:
    """The meaning of an error for a user if the hub is behind it, else None."""
    causes = list(_causes(error))

    def cause(*types: type[BaseException]) -> bool:
        return any(isinstance(one, types) for one in causes)

    log_in = "log in with 'hf auth login' or set HF_TOKEN."
    address = f"{constants.ENDPOINT}/{'datasets/' if _repository_type(kind) == 'dataset' else ''}{name}"
    if cause(GatedRepoError):
        return UserError(
            f"The {kind} '{name}' is gated.",
            f"Accept its licence at {address}, then {log_in}",
        )
    if cause(RepositoryNotFoundError):
        return UserError(
            f"There is no folder and no {kind} on the hub named '{name}', or you may not see it.",
            f"Check the name; if it is private, {log_in}",
        )
    if cause(HFValidationError):
        return UserError(f"'{name}' is no name of a repository.", "Give one such as organisation/name.")
    if cause(LocalTokenNotFoundError) or {_status(one) for one in causes} & {401, 403}:
        return UserError(f"The hub does not let you read or write '{name}'.", f"L{log_in[1:]}")
    if cause(OfflineModeIsEnabled) or (cause(LocalEntryNotFoundError) and constants.HF_HUB_OFFLINE):
        return UserError(
            f"There is no folder '{name}', no {kind} of that name is in the local cache, and offline mode is on.",
            "Fetch it where there is a network, or unset HF_HUB_OFFLINE.",
        )
    if cause(HfHubHTTPError, LocalEntryNotFoundError, HTTPError):
        return UserError(
            f"The hub cannot be reached for '{name}' ({first_line(causes[-1])}), and there is no folder of that name.",
            "See to the network, or, where a folder was meant, to its path, or name another model.",
        )
    return None


def _raise(error: Exception, name: str, kind: Kind, revision: str | None = None) -> NoReturn:
    found = hub_error(error, name, kind)
    if any(isinstance(one, RevisionNotFoundError) for one in _causes(error)):
        found = UserError(f"The {kind} '{name}' has no revision '{revision}'.", "Name a branch, tag or commit of it.")
    if found is None:
        raise error
    raise found from error


def _repository_type(kind: Kind) -> str:
    return "dataset" if kind == "corpus" else "model"


def _causes(error: BaseException | None) -> Iterator[BaseException]:
    seen: set[int] = set()
    while error is not None and id(error) not in seen:
        yield error
        seen.add(id(error))
        error = error.__cause__ or error.__context__


def _status(error: BaseException) -> int | None:
    return getattr(getattr(error, "response", None), "status_code", None)
