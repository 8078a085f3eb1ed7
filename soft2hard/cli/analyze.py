"""soft2hard analyze: what soft prompts are made of, whether tunings agree, and whom a soft prompt helps."""

import time
from collections.abc import Mapping, Sequence
from contextlib import AbstractContextManager, nullcontext
from functools import partial
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import TYPE_CHECKING, Annotated, Any

from cyclopts import Parameter

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
from soft2hard.eval.analysis.settings import Counts, Sizes, StudyTuning
from soft2hard.lm.settings import Loading
from soft2hard.settings import chosen

if TYPE_CHECKING:
    from soft2hard.data_gen.tasks import Task
    from soft2hard.eval.analysis.findings import Analysis
    from soft2hard.eval.analysis.inputs import Material, Table
    from soft2hard.eval.analysis.study import Study
    from soft2hard.lm.subject import Subject
    from soft2hard.translator.model import Translator
    from soft2hard.workers.subject_workers import SubjectWorkers


def analyze(
    paths: list[Path] | None = None,
    /,
    *,
    output: Output | None = None,
    size: str | None = None,
    subject: str | None = None,
    translator: str | None = None,
    table: str | None = None,
    examples: list[Path] | None = None,
    mapping: Path | None = None,
    dod: str | None = None,
    dod_folder: Path | None = None,
    only: list[str] | None = None,
    positions: AtLeast0 = 8,
    workers: AtLeast1 | None = None,
    json_: Annotated[bool, Parameter(name="--json", negative=())] = False,
    counts: flags_of(Counts, "Tunings") = Counts(),
    sizes: flags_of(Sizes, "Sizes") = Sizes(),
    tuning: flags_of(StudyTuning, "Tuning") = StudyTuning(),
    loading: LoadingFlags = Loading(),
) -> None:
    """Analyse soft prompts: nearest tokens, distances, maps, transfer, translations, and what carries the meaning.

    **Examples:** `soft2hard analyze prompts/ --table model.safetensors`

    `soft2hard analyze --dod lexical --n-tasks 50 --tunings 4 -o runs/analysis`

    `soft2hard analyze recipes/superglue-study.yaml -o runs/superglue`

    Args:
        paths: Soft prompts of one subject: files, PEFT adapter folders, or folders of them. Or the YAML file of a
            study, which says all but where its output goes. Without, tasks of --dod or --examples are tuned several
            times each, and these tunings are analysed.
        output: Folder for all figures: analysis.json, tables and the report. Run again to resume it. Needed for
            tunings; without it, soft prompts that are given are shown on the terminal alone.
        size: One of the study's variants by its name, such as tiny of recipes/superglue-study.yaml.
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
        dod_folder: Where the published files of the collection lie; 'lexical' and 'operations' have none.
        only: A section to make, with those that it needs: extraction, statistics, distances, maps, difficulty,
            transfer, stability, positions, readings or claims; repeatable. All but readings by default.
        positions: Positions of each soft prompt whose nearest tokens are printed.
        workers: Processes that tune and score side by side, each with the subject in its memory and an equal share of
            the cores. If not given, one a core for a subject of under 100 M parameters on a CPU, else 1.
        json_: Print analysis.json and all tables as JSON.
    """
    quiet()
    from soft2hard.eval.analysis.analysis_run import begin, run_analysis, wanted_sections
    from soft2hard.eval.analysis.page import write_analysis_page

    if study := _study(paths, size):
        flags = {"subject": subject, "translator": translator, "table": table, "examples": examples, "only": only}
        flags |= {"mapping": mapping, "dod": dod, "dod_folder": dod_folder}
        flags |= {name: True for given in (counts, sizes, tuning, loading) for name in chosen(given)}
        _check_study([_flag(name) for name, value in flags.items() if value], output)
        paths, subject, translator, only = None, study.subject, study.translator, list(study.only)
        counts, sizes = Counts(**study.counts), Sizes(**study.sizes)
        tuning, loading = StudyTuning(**study.tuning), Loading(**study.loading)
    wanted = wanted_sections(only or ())
    changed = [_flag(name) for name in chosen(counts) | chosen(tuning) if name != "seed"]
    if study is None:
        _check_options(paths, output, dod, dod_folder, examples, mapping, changed)
    about = {"k": ("extraction",), "orders": ("positions",), "experiment_tasks": ("positions", "readings")}
    for name, sections in (about | {"reading_layers": ("readings",)}).items():
        if study is None and not {*sections} & {*wanted} and name in chosen(sizes):
            raise UserError(f"{_flag(name)} is about {' and '.join(sections)}, not made here.", "Leave it out.")
    # Given soft prompts may be of any number of tasks.
    n_tasks = None if paths else counts.n_tasks
    tasks = study.drawn() if study else _tasks(dod, dod_folder, examples, n_tasks, tuning.seed)
    name = subject or (None if paths else "embedded")
    lm = None if name is None else load_subject(name, fast=True, loading=loading)
    models = {"subject": lm, "translator": chosen_translator(translator, name, lm), "table": _table(table)}
    settings = {"paths": paths, "mapping": mapping, "table": table, "sizes": vars(sizes), **_identities(tasks, models)}
    settings |= loading.rounding | ({"seed": tuning.seed} if paths else {"tuning": vars(tuning), **vars(counts)})
    settings |= {"starts": study.plain["starts"], "readings": study.readings} if study else {}
    with TemporaryDirectory() as passing, _workers(name, lm, loading, workers) as crew:
        folder = output or Path(passing)
        common = models | {"sizes": sizes, "seed": tuning.seed, "workers": crew}
        common |= {"readings": study.inspect_options()} if study else {}
        with no_remains(folder, nothing_to_keep=bool(paths)):
            started = time.perf_counter()
            if paths:
                material, found = _given(paths, mapping, tasks, common, only or [])
                claim(folder, settings | found)
            else:
                if only and "stability" in only and models["translator"] is None:
                    raise UserError("No translator was given, and stability needs one.", "Give --translator.")
                claim(folder, settings)
                material = _tuned(tasks, counts, tuning, common, folder, study)
            seconds = None if paths else time.perf_counter() - started
            analysis, material = begin(material, folder, settings, seconds)
            with progress_bar() as progress:
                bar = progress.add_task("Sections", total=None)
                analysis = run_analysis(
                    material, analysis, folder, only or (), lambda n: progress.update(bar, advance=1, description=n)
                )
        _show(analysis, folder, positions, json_)
        if output is not None:
            say(f"Report: {write_analysis_page(output)}")


def _flag(name: str) -> str:
    return f"--{name.replace('_', '-')}"


def _study(paths: list[Path] | None, size: str | None) -> "Study | None":
    """The study that the only path names; None for soft prompts."""
    from soft2hard.eval.analysis.study import read_study

    if paths is not None and any(path.suffix.lower() in (".yaml", ".yml") for path in paths):
        if len(paths) > 1:
            raise UserError("A study's YAML file stands alone.", "Give one study, or soft prompts.")
        return read_study(paths[0], size)
    if size is not None:
        raise UserError("--size names a variant of a study, and none is given.", "Give the study's YAML file.")
    return None


def _check_study(flags: Sequence[str], output: Path | None) -> None:
    """`flags`: options that the study itself has."""
    if flags:
        raise UserError(
            f"The study's file and {', '.join(flags)} exclude each other.", "Put these settings in the file."
        )
    if output is None:
        raise UserError("Tunings need a folder.", "Give --output.")


def _check_options(
    paths: list[Path] | None,
    output: Path | None,
    dod: str | None,
    dod_folder: Path | None,
    examples: list[Path] | None,
    mapping: Path | None,
    changed: Sequence[str],
) -> None:
    """`changed`: options about tunings that are not the usual ones."""
    from soft2hard.data_gen.dods.registry import MADE_DODS
    from soft2hard.eval.config import DODS

    made = f"{(changed or [''])[0]} is about tunings that the command makes, and soft prompts are given."
    elsewhere = f"The files of '{dod}' are published elsewhere."
    one_of = "Give soft prompts, or one of --dod and --examples to tune on."
    for wrong, problem, remedy in (
        (paths and changed, made, "Leave it out."),
        (paths and dod, "Soft prompts and --dod exclude each other.", "Give --examples beside soft prompts."),
        (not paths and bool(dod) == bool(examples), one_of, "Such as --dod lexical -o runs/analysis."),
        (not paths and output is None, "Tunings need a folder.", "Give --output."),
        (not paths and mapping, "--mapping is about given soft prompts, and none are given.", "Leave it out."),
        (dod and dod not in DODS, f"There is no collection '{dod}'.", f"The collections are {', '.join(DODS)}."),
        (
            dod and dod not in ("lexical", *MADE_DODS) and not dod_folder,
            elsewhere,
            "Give --dod-folder; see docs/datasets.md.",
        ),
        (
            dod_folder and dod in (None, "lexical", *MADE_DODS),
            "--dod-folder belongs to a published collection.",
            "Name it: --dod.",
        ),
    ):
        if wrong:
            raise UserError(problem, remedy)


def _tasks(
    dod: str | None, folder: Path | None, examples: list[Path] | None, n: int | None, seed: int
) -> tuple["Task", ...]:
    """Tasks of a collection or of task files."""
    from soft2hard.data_gen.taskfiles import read_tasks
    from soft2hard.eval.cases import drawn_tasks
    from soft2hard.eval.config import Tasks

    if dod is None:
        return tuple(read_tasks(examples or [], seed))[:n] if examples else ()
    return tuple(drawn_tasks(Tasks(dod=dod, folder=folder, n=n), "test", seed))


def chosen_translator(name: str | None, subject_name: str | None, subject: "Subject | None") -> "Translator | None":
    """The translator by its name on the command line, beside a subject by its name; None for 'none'.

    Raises UserError where it was trained for another subject than the one that is loaded.
    """
    from soft2hard.translator.model import Translator

    chosen = name or ("embedded" if subject_name == "embedded" else "none")
    return None if chosen == "none" else Translator.from_pretrained(chosen, subject=subject)


def _table(name: str | None) -> "Subject | Table | None":
    """A table of embeddings by its file, or a model by folder or name."""
    from soft2hard.eval.analysis.nearest_tokens import read_embedding_table
    from soft2hard.prompts.files import SUFFIXES

    if name is None or Path(name).is_file():
        return name and read_embedding_table(Path(name))
    if Path(name).suffix.lower() in SUFFIXES:
        raise UserError(f"There is no file {name}.", "Give --table a file of embeddings, or a model by folder or name.")
    return load_subject(name)


def _workers(
    name: str | None, subject: "Subject | None", loading: Loading, n: int | None
) -> "AbstractContextManager[SubjectWorkers | None]":
    """So many processes that each hold the subject of this name, or as many as suit it; None without a subject."""
    from soft2hard.workers.subject_workers import SubjectWorkers, usual_workers

    make = partial(load_subject, name, fast=True, loading=loading)
    return SubjectWorkers(subject, n or usual_workers(subject), make) if subject else nullcontext()


def _identities(tasks: tuple["Task", ...], models: Mapping[str, Any]) -> dict[str, Any]:
    """Fingerprints of tasks and models, so that a folder is resumed only where they are the same."""
    from soft2hard.data_gen.taskfiles import content_hash
    from soft2hard.translator.model import translator_fingerprint

    subject, translator, table = (models[role] for role in ("subject", "translator", "table"))
    return {
        "command": "analyze",
        "tasks": content_hash(tasks),
        "subject": subject and subject.fingerprint,
        "translator": translator and translator_fingerprint(translator),
        "embeddings": table and table.fingerprint,
    }


def _for_outputs(models: Mapping[str, Any], subject: "Subject", tasks: Sequence["Task"]) -> dict[str, Any]:
    """The models with this subject, under endings that no output of the tasks holds, here and in all processes."""
    outputs = (example.output for task in tasks for example in task.examples)
    subject = subject.for_outputs(outputs)
    models["workers"].use_template(subject.template)
    return {**models, "subject": subject}


def _given(
    paths: list[Path], mapping: Path | None, tasks: tuple["Task", ...], models: Mapping[str, Any], only: list[str]
) -> tuple["Material", dict[str, Any]]:
    """Soft prompts of files, with their settings."""
    from soft2hard.eval.analysis.analysis_run import check_material
    from soft2hard.eval.analysis.inputs import Material, content_hash_of, read_given

    rows, prompts = read_given(paths, mapping, {task.name for task in tasks})
    used = {row.task for row in rows}
    if (subject := models["subject"]) is not None:
        prompts = tuple(map(subject.in_own_scale, prompts))
    if subject is not None and tasks:  # where nothing is run, their place does not matter
        models = _for_outputs(models, subject.for_prompts(prompts), tasks)
    material = Material(rows, prompts, tuple(task for task in tasks if task.name in used), **models)
    check_material(material, only)
    return material, {"soft prompts": content_hash_of(prompts), "names and tasks": [[r.name, r.task] for r in rows]}


def _tuned(
    tasks: tuple["Task", ...],
    counts: Counts,
    config: Tuning,
    models: Mapping[str, Any],
    folder: Path,
    study: "Study | None" = None,
) -> "Material":
    """Soft prompts that are tuned now; a study says where each task starts."""
    from soft2hard.eval.analysis.inputs import Material
    from soft2hard.eval.analysis.tunings import has_common_start, plan_groups, tune_groups

    models = _for_outputs(models, models["subject"], tasks)
    starts = study.starts_of(models["subject"], tasks) if study else {}
    common = has_common_start(models["subject"], config.n_tokens) and not starts
    groups = plan_groups(tasks, config.init, counts, common, starts)
    with progress_bar() as progress:
        total = sum(len(group.tasks) * group.n for group in groups) * config.steps
        bar = progress.add_task("Tuning (steps)", total=total)
        rows, prompts = tune_groups(
            models["workers"],
            groups,
            config,
            folder / "tunings",
            on_step=lambda n: progress.advance(bar, n),
            snapshot_steps=counts.snapshots,
        )
    return Material(rows, prompts, tasks, groups=tuple(group.row() for group in groups), **models)


def _show(analysis: "Analysis", folder: Path, positions: int, json_: bool) -> None:
    from rich.console import Console
    from rich.table import Table as RichTable
    from rich.text import Text

    from soft2hard.eval.analysis.findings import as_json
    from soft2hard.eval.analysis.page import listings

    if json_:
        print(as_json(folder, analysis))
        return
    console = Console()
    for listing in listings(analysis, folder, positions):
        table = RichTable(*listing.columns, title=listing.title)
        for row in listing.rows:
            table.add_row(*map(Text, row))
        console.print(table)
