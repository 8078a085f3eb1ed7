"""The checkpoints that come with the package: a small world in which everything runs offline."""

from pathlib import Path

from soft2hard.errors import UserError

EMBEDDED = Path(__file__).parent / "embedded"


def embedded_path(name: str) -> Path:
    """The folder of an embedded checkpoint: 'subject', 'api_model', 'translator' or 'soft_prompts'.

    Raises UserError where it is missing, as in a checkout whose checkpoints have been removed.
    """
    path = EMBEDDED / name
    if not path.exists():
        raise UserError(f"The embedded checkpoint '{name}' is missing.", "Make it with scripts/train_embedded.")
    return path


def is_embedded_subject(name_or_path: str) -> bool:
    """True for the embedded subject, by its name or by its folder."""
    return name_or_path == "embedded" or Path(name_or_path).resolve() == (EMBEDDED / "subject").resolve()


def resolve(name_or_path: str, embedded: str) -> str:
    """`name_or_path`, with the word 'embedded' standing for the checkpoint of that name in the package."""
    return str(embedded_path(embedded)) if name_or_path == "embedded" else name_or_path
