"""What --examples holds for each soft prompt, and what the outputs there tell about how it was tuned."""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import TYPE_CHECKING

from soft2hard.cli.common import say
from soft2hard.errors import UserError

if TYPE_CHECKING:
    from soft2hard.data_gen.tasks import Example
    from soft2hard.lm.subject import Subject
    from soft2hard.prompts.soft_prompt import SoftPrompt
    from soft2hard.translator.layout import LayoutCheck

_SUFFIXES = (".jsonl", ".csv", ".txt")
_SHOWN = 2  # remarks of one kind


@dataclass(frozen=True)
class ExampleFile:
    """A file of inputs."""

    path: Path
    inputs: tuple[str, ...]
    """Those to see a soft prompt at work on, and to verify on."""
    written: tuple["Example", ...]
    """All rows that have an output, those among them that test the text later."""

    @property
    def labelled(self) -> "tuple[Example, ...]":
        """Those that test nothing."""
        used = set(self.inputs)
        return tuple(example for example in self.written if example.input in used)


def example_files(examples: Path, soft_prompts: Sequence[Path]) -> list[ExampleFile]:
    """The file of each soft prompt: the same for all, or in a folder that which has its name.

    Raises UserError where a soft prompt has none or several, or one cannot be read.
    """
    if not examples.is_dir():
        return [_read(examples)] * len(soft_prompts)
    of_name: dict[str, list[Path]] = {}
    for path in sorted(examples.iterdir()):
        if path.suffix.lower() in _SUFFIXES and path.is_file():
            of_name.setdefault(path.stem, []).append(path)
    names = [_name(path) for path in soft_prompts]
    if missing := [i for i, name in enumerate(names) if name not in of_name]:
        few = "" if len(missing) == 1 else f" (and {len(missing) - 1} more)"
        raise UserError(
            f"The folder {examples} has no examples for '{soft_prompts[missing[0]]}'{few}.",
            f"Name their file {names[missing[0]]}.jsonl, .csv or .txt, or give one file for all soft prompts.",
        )
    if several := next((of_name[name] for name in names if len(of_name[name]) > 1), None):
        raise UserError(f"{several[0]} and {several[1]} both have the name of a soft prompt.", "Leave one of them.")
    read = {name: _read(of_name[name][0]) for name in dict.fromkeys(names)}
    return [read[name] for name in names]


def _name(soft_prompt: Path) -> str:
    """Of an adapter its folder's, as it was given; of one from the hub the repository's."""
    path = soft_prompt if soft_prompt.name else soft_prompt.resolve()
    if not path.is_dir() and path.stem.startswith("adapter_model"):
        path = path.absolute().parent
    if path.parent.name == "snapshots":  # of the cache: models--ORGANISATION--NAME/snapshots/COMMIT
        path = Path(path.parent.parent.name.rpartition("--")[2])
    return path.name if path.is_dir() or not path.suffix else path.stem


def _read(path: Path) -> ExampleFile:
    from soft2hard.data_gen.taskfiles import read_examples, read_inputs

    return ExampleFile(path, tuple(read_inputs(path)), tuple(read_examples(path)))


@dataclass(frozen=True)
class Group:
    """Soft prompts that are translated together: under one template, compared up to one length."""

    places: list[int]
    subject: "Subject | None"
    longest: int | None
    """Tokens of outputs that are compared; None: as `TranslateConfig.max_new_tokens` has it."""


@dataclass(frozen=True)
class Understood:
    """Soft prompts with what the outputs of their examples tell."""

    soft_prompts: list["SoftPrompt"]
    groups: list[Group]
    checks: "dict[int, LayoutCheck]" = field(default_factory=dict)
    """How well outputs fit those that do not say their own template, by place."""
    remarks: dict[int, str] = field(default_factory=dict)
    """What to say of the templates of some, by place."""

    def is_borne_out(self, i: int) -> bool:
        """Whether the outputs of its examples are as a soft prompt writes them under the template that is taken."""
        return i in self.checks and self.checks[i].fits_well and not self.checks[i].is_idle


def understand(
    lm: "Subject",
    soft_prompts: "Sequence[SoftPrompt]",
    files: Sequence[ExampleFile],
    asked: str | None,
    max_new_tokens: int | None,
) -> Understood:
    """Scale and template of soft prompts that do not say theirs, where outputs tell them, and how long outputs are. A
    template that was `asked` for is kept, and a better one only named. What is found for a soft prompt depends on its
    own examples alone."""
    found = list(soft_prompts)
    checks: dict[int, LayoutCheck] = {}
    remarks: dict[int, str] = {}
    groups: dict[tuple[object, int | None], Group] = {}
    distinct = {file.path: file for file in files}  # one file may serve many
    ending = {path: lm.for_outputs(one.output for one in file.written) for path, file in distinct.items()}
    for i, file in enumerate(files):
        own = ending[file.path]
        found[i] = _with_scale(own, found[i], file.labelled)
        if found[i].template is None and file.labelled:
            found[i], remark, check = _laid_out(own, found[i], file, asked)
            remarks |= {i: remark} if remark else {}
            checks |= {i: check} if check else {}
        goes_on = i in checks and checks[i].goes_on
        longest = max_new_tokens or _longest_output(file, own, goes_on=goes_on)
        key = (own.for_prompts([found[i]]).template, longest)
        groups.setdefault(key, Group([], own, longest)).places.append(i)
    going_on = [i for i, check in checks.items() if check.goes_on and max_new_tokens is None]
    say_some(
        f"{found[i].origin} writes on behind the outputs of its examples: only as much is compared as the longest of "
        f"them has."
        for i in going_on
    )
    return Understood(found, list(groups.values()), checks, remarks)


def say_some(remarks: Iterable[str]) -> None:
    """The first of many remarks of one kind, and how many there are."""
    remarks = list(remarks)
    for remark in remarks[:_SHOWN]:
        say(remark)
    if len(remarks) > _SHOWN:
        say(f"(and the like of {len(remarks) - _SHOWN} more)")


def say_template(known: Understood) -> None:
    """Soft prompts of other programs do not say the text around their inputs, and under another they are nonsense."""
    say_some(
        f"{prompt.origin} does not say its template: 'Input: ...' and 'Output:' are taken, under which it writes the "
        f"outputs of its examples ({known.checks[i].soft:.2f} nats a token)."
        for i, prompt in enumerate(known.soft_prompts)
        if prompt.template is None and known.is_borne_out(i)
    )
    unsaid = [i for i, prompt in enumerate(known.soft_prompts) if prompt.template is None]
    doubtful = [i for i in unsaid if not known.is_borne_out(i)]
    if doubtful:
        otherwise = ", or give eight examples or more with outputs, by which it is looked for"
        say(
            f"{known.soft_prompts[doubtful[0]].origin} does not say what text stood around its inputs when it was "
            "tuned: 'Input: ...' and 'Output:' on lines of their own are assumed. If it was another, give it with "
            f"--template{'' if doubtful[0] in known.checks else otherwise}."
        )


def _longest_output(file: ExampleFile, lm: "Subject", *, goes_on: bool) -> int | None:
    """Tokens of the longest output of the examples, where these have outputs; 16 at least, and 64 at most. Where a soft
    prompt goes on behind these outputs, no more than they have: what follows means nothing."""
    from soft2hard.translator.verification import LONG_OUTPUT, SHORT_OUTPUT

    if not file.written:
        return None
    longest = max(len(lm.encode_output(example.output)) for example in file.written)
    return min(max(longest - 1, 1) if goes_on else max(longest, SHORT_OUTPUT), LONG_OUTPUT)


def _with_scale(lm: "Subject", soft_prompt: "SoftPrompt", labelled: "Sequence[Example]") -> "SoftPrompt":
    """A soft prompt for Gemma 1 and 2 that does not say if it holds the scale of its embeddings: as outputs tell."""
    from soft2hard.translator.layout import likelier_scale

    if not lm.scale_has_moved or lm.loading.embedding_scale or not labelled or soft_prompt.scale is not None:
        return soft_prompt
    if (scale := likelier_scale(lm, soft_prompt, labelled)) is None:
        return soft_prompt
    say(
        f"The outputs are likelier if {soft_prompt.origin} has the factor {lm.embedding_scale:.2f} of "
        f"'{lm.name}' {'in its vectors' if scale == 'included' else 'left out of its vectors'} "
        f"(--embedding-scale {scale})."
    )
    return replace(soft_prompt, scale=lm.embedding_scale if scale == "included" else 1.0)


def _laid_out(
    lm: "Subject", soft_prompt: "SoftPrompt", file: ExampleFile, asked: str | None
) -> "tuple[SoftPrompt, str | None, LayoutCheck | None]":
    """A soft prompt with the template that outputs tell, where they tell one; a remark on it, and how well it fits."""
    from soft2hard.translator.layout import better_layout, check_layout

    check = check_layout(lm, soft_prompt, file.labelled)
    layout = better_layout(lm, soft_prompt, file.labelled, say, known=check)
    if layout is None:
        return soft_prompt, _remark(check, soft_prompt, file.path), check
    shown = layout.text.replace("\n", "\\n")
    fits = f"{soft_prompt.origin} makes the outputs in {file.path} likeliest under the template '{shown}'"
    fits += f" ({layout.nll:.2f} nats a token)"
    if asked is not None:
        return soft_prompt, f"{fits}: try --template '{shown}'.", check
    say(f"{fits}, which is taken. If it was tuned under another, give that with --template.")
    soft_prompt = replace(soft_prompt, template=layout.template)
    check = check_layout(lm, soft_prompt, file.labelled)
    return soft_prompt, _remark(check, soft_prompt, file.path), check


def _remark(found: "LayoutCheck | None", soft_prompt: "SoftPrompt", path: Path) -> str | None:
    """What outputs in the examples tell about the template of a soft prompt that does not say its own, if anything."""
    if found is None:
        return None
    if found.fits_badly:
        beside = "" if found.without is None else f"; {found.without:.2f} without a prompt"
        return (
            f"Under this template {soft_prompt.origin} makes the outputs in {path} unlikely ({found.soft:.2f} nats "
            f"a token{beside}). If it was tuned under another, give that with --template; or are these examples of "
            "another task?"
        )
    if found.is_often_wrong:
        return (
            f"Under this template {soft_prompt.origin} writes the outputs of {found.n_right} of {found.n} examples in "
            f"{path}. If it was tuned under another, give that with --template."
        )
    return None
