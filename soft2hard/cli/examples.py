"""What --examples holds for each soft prompt, and what the outputs there tell about how it was tuned."""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import cache
from itertools import chain
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

    Raises UserError where a soft prompt has none, or one cannot be read.
    """
    if not examples.is_dir():
        return [_read(examples)] * len(soft_prompts)
    names = [path.name if path.is_dir() else path.stem for path in soft_prompts]
    places = [[examples / f"{name}{suffix}" for suffix in _SUFFIXES] for name in names]
    found = [next((path for path in of_one if path.is_file()), None) for of_one in places]
    if missing := [i for i, path in enumerate(found) if path is None]:
        few = "" if len(missing) == 1 else f" (and {len(missing) - 1} more)"
        raise UserError(
            f"The folder {examples} has no examples for '{soft_prompts[missing[0]]}'{few}.",
            f"Name their file {names[missing[0]]}.jsonl, .csv or .txt, or give one file for all soft prompts.",
        )
    return [_read(path) for path in found if path is not None]


@cache
def _read(path: Path) -> ExampleFile:
    from soft2hard.data_gen.taskfiles import read_examples, read_inputs

    return ExampleFile(path, tuple(read_inputs(path)), tuple(read_examples(path)))


@dataclass(frozen=True)
class Understood:
    """Soft prompts with what the outputs of their examples tell."""

    soft_prompts: list["SoftPrompt"]
    checks: dict[int, "LayoutCheck"]
    """How well outputs fit those that do not say their own template, by place."""
    remarks: dict[int, str]
    """What to say of the templates of some, by place."""

    @property
    def goes_on(self) -> int | None:
        """The first that writes on behind the outputs; None where none does."""
        return next((i for i, check in self.checks.items() if check.goes_on), None)


def understand(
    lm: "Subject", soft_prompts: "Sequence[SoftPrompt]", files: Sequence[ExampleFile], asked: str | None
) -> Understood:
    """Scale and template of soft prompts that do not say theirs, where outputs tell them. A template that was `asked`
    for is kept, and a better one only named.

    Raises UserError where different templates are found: one run has one.
    """
    found = [_with_scale(lm, prompt, file.labelled) for prompt, file in zip(soft_prompts, files, strict=True)]
    checks: dict[int, LayoutCheck] = {}
    remarks: dict[int, str] = {}
    for i, file in enumerate(files):
        if found[i].template is None and file.labelled:
            found[i], remark, check = _laid_out(lm, found[i], file, asked)
            remarks |= {i: remark} if remark else {}
            checks |= {i: check} if check else {}
    if any(one.template is not own.template for one, own in zip(found, soft_prompts, strict=True)):
        _check_one_layout(found, lm)
    return Understood(found, checks, remarks)


def say_template(soft_prompts: "Sequence[SoftPrompt]", known: "dict[int, LayoutCheck]") -> None:
    """Soft prompts of other programs do not say the text around their inputs, and under another they are nonsense."""
    unsaid = [prompt for i, prompt in enumerate(soft_prompts) if prompt.template is None]
    fit = [i in known and known[i].fits_well for i, prompt in enumerate(soft_prompts) if prompt.template is None]
    if unsaid and not all(fit):
        prompt = unsaid[fit.index(False)]
        say(
            f"{prompt.origin} does not say what text stood around its inputs when it was tuned: 'Input: ...' and "
            "'Output:' on lines of their own are assumed. If it was another, give it with --template, or give eight "
            "examples or more with outputs, by which it is looked for."
        )


def longest_output(files: Sequence[ExampleFile], lm: "Subject", *, goes_on: bool) -> int | None:
    """Tokens of the longest output of the examples, where these have outputs; 16 at least, and 64 at most. Where a soft
    prompt goes on behind these outputs, no more than they have: what follows means nothing."""
    from soft2hard.translator.verification import LONG_OUTPUT, SHORT_OUTPUT

    outputs = {example.output for example in chain.from_iterable(file.written for file in files)}
    if not outputs:
        return None
    longest = max(len(lm.encode_output(output)) for output in outputs)
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


def _check_one_layout(found: "Sequence[SoftPrompt]", lm: "Subject") -> None:
    """Refuse soft prompts for which different templates were found, before it is said of their files."""
    try:
        lm.for_prompts(found)
    except UserError as error:
        raise UserError(
            "By the outputs of the examples, these soft prompts were tuned under different templates.",
            "Translate them one at a time, each with examples of its own task.",
        ) from error


def _remark(found: "LayoutCheck | None", soft_prompt: "SoftPrompt", path: Path) -> str | None:
    """What outputs in the examples tell about the template of a soft prompt that does not say its own, if anything."""
    if found is None:
        return None
    if found.fits_badly:
        beside = "" if found.without is None else f"; {found.without:.2f} without a prompt"
        return (
            f"Under this template {soft_prompt.origin} makes the outputs in {path} unlikely ({found.soft:.2f} nats "
            f"a token{beside}). If it was tuned under another, give that with --template."
        )
    if found.is_often_wrong:
        return (
            f"Under this template {soft_prompt.origin} writes the outputs of {found.n_right} of {found.n} examples in "
            f"{path}. If it was tuned under another, give that with --template."
        )
    return None
