"""soft2hard analyze: what soft prompts are made of, whether tunings agree, and whom a soft prompt helps."""

import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import TYPE_CHECKING, Annotated, Any

from cyclopts import Parameter
from pydantic import PositiveInt

from soft2hard.cli.analysis_inputs import chosen_table, chosen_tasks, chosen_translator, identities, workers_of
from soft2hard.cli.common import (
    AtLeast0,
    AtLeast1,
    LoadingFlags,
    Output,
    claim,
    flags_of,
    load_subject,
    no_remains,
    progress_bar,
    quiet,
    say,
)
from soft2hard.data_gen.settings import Tuning
from soft2hard.errors import UserError
from soft2hard.eval.analysis.settings import Sizes
from soft2hard.lm.settings import Loading
from soft2hard.settings import settings

if TYPE_CHECKING:
    from soft2hard.data_gen.tasks import Task
    from soft2hard.eval.analysis.material import Material
    from soft2hard.eval.analysis.records import Analysis

_N_TASKS, _N_TUNINGS, _N_CONTROL_TASKS, _N_CONTROL_TUNINGS = 50, 4, 24, 2


@settings
class StudyTuning(Tuning):
    """Tuning with the study's start and patience, and looks close enough together that it can end a tuning."""

    init: str = "vocabulary"
    """Where a prompt starts, as in soft2hard tune."""
    eval_every: PositiveInt = 10
    """Steps between two looks at the validation loss."""
    patience: PositiveInt = 5
    """Looks without improvement after which tuning stops."""
    seed: int = 0
    """Seed of the first tuning and of all else that is random; further tunings count on from it."""


def analyze(
    paths: list[Path] | None = None,
    /,
    *,
    output: Output | None = None,
    subject: str | None = None,
    translator: str | None = None,
    table: str | None = None,
    examples: list[Path] | None = None,
    mapping: Path | None = None,
    dod: str | None = None,
    dod_folder: Path | None = None,
    n_tasks: AtLeast1 | None = None,
    tunings: AtLeast1 | None = None,
    control_tasks: AtLeast0 | None = None,
    control_tunings: AtLeast1 | None = None,
    only: list[str] | None = None,
    positions: AtLeast0 = 8,
    workers: AtLeast1 | None = None,
    json_: Annotated[bool, Parameter(name="--json", negative=())] = False,
    sizes: flags_of(Sizes, "Sizes") = Sizes(),
    tuning: flags_of(StudyTuning, "Tuning") = StudyTuning(),
    loading: LoadingFlags = Loading(),
) -> None:
    """Analyse soft prompts: nearest tokens, distances, maps, transfer, translations, and what carries the meaning.

    **Examples:** `soft2hard analyze prompts/ --table model.safetensors`

    `soft2hard analyze --dod lexical --n-tasks 50 --tunings 4 -o runs/analysis`

    Args:
        paths: Soft prompts of one subject: files, PEFT adapter folders, or folders of them. Without, tasks of --dod or
            --examples are tuned several times each, and these tunings are analysed.
        output: Folder for all figures: analysis.json, arrays, CSV files and the report. Run again to resume. Needed
            for tunings; without it, soft prompts that are given are shown on the terminal alone.
        subject: The frozen language model that the soft prompts belong to, as in soft2hard tune; 'embedded' for
            tunings if not given. Given soft prompts can be analysed without one, in part.
        translator: Translator of the subject's soft prompts: 'embedded', a folder or a name; 'none' for none. If not
            given, 'embedded' beside the embedded subject, else none.
        table: Where nearest tokens are looked up, if not in the subject: a file with a table of input embeddings
            (tokens are then numbers), or a model by folder or name.
        examples: Task files, or folders of them, named like the tasks of the soft prompts: for scores, transfer and
            experiments. Repeatable.
        mapping: A .csv or .jsonl file with columns file and task. Without, the task of a soft prompt is what its file
            says, else what its name says without the number of a run, or the name of its folder.
        dod: Collection to take tasks from, such as 'lexical'.
        dod_folder: Where the published files of the collection lie; 'lexical' has none.
        n_tasks: Tasks to tune, at most; 50 if not given.
        tunings: Tunings of each task, start and order of examples varied; 4 if not given.
        control_tasks: Tasks that are also tuned with the start alone varied, with the order alone, from label words,
            from their instruction, and from the common start that comes with the subject; 24 if not given.
        control_tunings: Tunings of each of these; 2 if not given.
        only: A section to make, and what it builds on; repeatable. All by default.
        positions: Positions of each soft prompt whose nearest tokens are printed.
        workers: Processes that tune and score side by side, each with the subject in its memory and an equal share of
            the cores. If not given, one a core for a subject of under 100 M parameters on a CPU, else 1.
        json_: Print analysis.json instead of tables.
    """
    counts = {
        "--n-tasks": n_tasks,
        "--tunings": tunings,
        "--control-tasks": control_tasks,
        "--control-tunings": control_tunings,
    }
    _check_options(paths, output, dod, dod_folder, examples, mapping, counts)
    usual = (_N_TASKS, _N_TUNINGS, _N_CONTROL_TASKS, _N_CONTROL_TUNINGS)
    n_tasks, tunings, *controls = (
        default if given is None else given for given, default in zip(counts.values(), usual, strict=True)
    )
    quiet()
    from soft2hard.eval.analysis.run import wanted_sections

    wanted_sections(only or ())
    # Given soft prompts may be of any number of tasks.
    tasks = chosen_tasks(dod, dod_folder, examples, None if paths else n_tasks, tuning.seed)
    name = subject or (None if paths else "embedded")
    lm = None if name is None else load_subject(name, fast=True, loading=loading)
    common = {
        "subject": lm,
        "translator": chosen_translator(translator, name, lm),
        "table": chosen_table(table),
        "tuning": tuning,
        "sizes": sizes,
    }
    asked = {"paths": paths, "mapping": mapping, "table": table, "tuning": vars(tuning), "sizes": vars(sizes)}
    if not paths:
        asked |= {"tunings": tunings, "control_tasks": controls[0], "control_tunings": controls[1]}
    models = (common[role] for role in ("subject", "translator", "table"))
    settings = asked | identities(tasks, *models) | loading.rounding
    with TemporaryDirectory() as passing, workers_of(name, lm, loading, workers) as common["workers"]:
        folder = output or Path(passing)
        with no_remains(folder, nothing_to_keep=bool(paths)):
            if paths:
                analysis = _given(paths, mapping, tasks, common, settings, folder, only or ())
            else:
                analysis = _tuned(tasks, tunings, controls, common, settings, folder, only or ())
        _show(analysis, output, positions, json_)


def _check_options(
    paths: list[Path] | None,
    output: Path | None,
    dod: str | None,
    dod_folder: Path | None,
    examples: list[Path] | None,
    mapping: Path | None,
    counts: Mapping[str, int | None],
) -> None:
    if paths and (given := [option for option, n in counts.items() if n is not None]):
        raise UserError(
            f"{given[0]} is about tunings that the command makes, and soft prompts are given.", "Leave it out."
        )
    if paths and dod:
        raise UserError("Soft prompts and --dod exclude each other.", "Give --examples beside soft prompts.")
    if not paths and bool(dod) == bool(examples):
        raise UserError(
            "Give soft prompts, or one of --dod and --examples to tune on.",
            "For instance: soft2hard analyze --dod lexical -o runs/analysis.",
        )
    if not paths and output is None:
        raise UserError("Tunings need a folder.", "Give --output.")
    if not paths and mapping:
        raise UserError("--mapping says the tasks of given soft prompts, and none are given.", "Leave it out.")
    if dod_folder and (dod is None or dod == "lexical"):
        raise UserError("--dod-folder belongs to a published collection.", "Name it with --dod.")


def _given(
    paths: list[Path],
    mapping: Path | None,
    tasks: tuple["Task", ...],
    common: Mapping[str, Any],
    settings: dict[str, Any],
    folder: Path,
    only: list[str] | tuple[str, ...],
) -> "Analysis":
    from soft2hard.eval.analysis.given import content_hash_of, read_given
    from soft2hard.eval.analysis.material import Material
    from soft2hard.eval.analysis.needs import check_material

    rows, prompts = read_given(paths, mapping, {task.name for task in tasks})
    used = {row.task for row in rows}
    kept = tuple(task for task in tasks if task.name in used)
    material = Material(rows, prompts, kept, seed=common["tuning"].seed, **common)
    check_material(material, only)
    named = [[row.name, row.task] for row in rows]
    claim(folder, settings | {"soft prompts": content_hash_of(prompts), "names and tasks": named})
    return _analysed(material, None, settings, folder, only)


def _tuned(
    tasks: tuple["Task", ...],
    n_tunings: int,
    controls: Sequence[int],
    common: Mapping[str, Any],
    settings: dict[str, Any],
    folder: Path,
    only: list[str] | tuple[str, ...],
) -> "Analysis":
    from soft2hard.eval.analysis.material import Material
    from soft2hard.eval.analysis.tunings import has_common_start, plan_groups, tune_groups

    if "stability" in only and common["translator"] is None:
        raise UserError("No translator was given, and stability needs one.", "Give --translator.")
    config: Tuning = common["tuning"]
    common_start = has_common_start(common["subject"], config.n_tokens)
    groups = plan_groups(tasks, config.init, n_tunings, *controls, common_start)
    claim(folder, settings)
    started = time.perf_counter()
    with progress_bar() as progress:
        total = sum(len(group.tasks) * group.n for group in groups) * config.steps
        bar = progress.add_task("Tuning (steps)", total=total)
        rows, prompts = tune_groups(
            common["workers"], groups, config, folder / "tunings", on_step=lambda n: progress.advance(bar, n)
        )
    seconds = time.perf_counter() - started
    known = tuple(group.row() for group in groups)
    material = Material(rows, prompts, tasks, groups=known, seed=config.seed, **common)
    return _analysed(material, seconds, settings, folder, only)


def _analysed(
    material: "Material",
    seconds: float | None,
    settings: dict[str, Any],
    folder: Path,
    only: list[str] | tuple[str, ...],
) -> "Analysis":
    from soft2hard.eval.analysis.run import begin, run_analysis

    analysis, material = begin(material, folder, settings, seconds)
    with progress_bar() as progress:
        bar = progress.add_task("Sections", total=None)
        return run_analysis(
            material, analysis, folder, only, lambda name: progress.update(bar, advance=1, description=name)
        )


def _show(analysis: "Analysis", output: Path | None, positions: int, json_: bool) -> None:
    from rich.console import Console
    from rich.table import Table as RichTable
    from rich.text import Text

    from soft2hard.eval.analysis.summary import listings

    if json_:
        print(analysis.model_dump_json(indent=1))
    else:
        console = Console()
        for listing in listings(analysis, positions):
            table = RichTable(*listing.columns, title=listing.title)
            for row in listing.rows:
                table.add_row(*map(Text, row))
            console.print(table)
    if output is not None:
        from soft2hard.eval.report.analysis_page import write_analysis_page

        say(f"Report: {write_analysis_page(output)}")
