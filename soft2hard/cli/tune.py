"""soft2hard tune: soft prompts from tasks given by examples."""

from enum import Enum
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from soft2hard.cli.cluster_options import ClusterAddress, ClusterCores, ClusterGpus, ClusterWorkers, cluster_of
from soft2hard.cli.common import (
    SubjectName,
    claim,
    load_subject,
    no_remains,
    progress_bar,
    quiet,
    rounding_of,
    whole_numbers,
    with_loading,
)
from soft2hard.cli.config_options import with_options
from soft2hard.cli.corpus import Source, tune_corpus
from soft2hard.errors import UserError

if TYPE_CHECKING:
    from soft2hard.data_gen.tasks import Task
    from soft2hard.data_gen.tuning import Tuning
    from soft2hard.data_gen.tuning.tuner import Tuned
    from soft2hard.lm.subject import Subject
    from soft2hard.prompts.soft_prompt import SoftPrompt


class Format(str, Enum):
    """How soft prompts are saved."""

    safetensors = "safetensors"
    peft = "peft"


class SplitName(str, Enum):
    """A split of a DoD."""

    train = "train"
    validation = "validation"
    test = "test"


TUNING_HELP = {"seed": "Seed of the starting points, the order of examples, and their split."}


@with_options("tuning", "soft2hard.data_gen.tuning", "Tuning", panel="Tuning", helps=TUNING_HELP)
@with_loading
def tune(
    tasks: Annotated[
        list[Path] | None,
        typer.Argument(
            metavar="TASKS",
            help="Task files (.jsonl or .csv with columns input and output), or folders of them. The instruction, if "
            'any, stands in a header ({"instruction": "..."} as first line of JSONL, "# instruction: ..." in CSV) or '
            "in <stem>.instruction.txt; tuning does not use it.",
        ),
    ] = None,
    *,
    output: Annotated[
        Path,
        typer.Option("--output", "-o", help="Folder for the soft prompts, one a task; run again to go on with it."),
    ],
    subject: SubjectName = "embedded",
    format_: Annotated[
        Format, typer.Option("--format", help="One .safetensors file a task, or one PEFT adapter folder a task.")
    ] = Format.safetensors,
    dod: Annotated[
        str | None,
        typer.Option(
            help="Instead of task files: the dataset of datasets to take tasks from ('lexical', or a collection of "
            "docs/datasets.md with --dod-folder). The output is then a corpus, to train a translator on.",
            rich_help_panel="Corpus",
        ),
    ] = None,
    dod_folder: Annotated[
        Path | None,
        typer.Option(
            help="Where the files of the collection lie; 'lexical' has none, and without it 'super-glue' and "
            "'super-natural-instructions' come from the hub.",
            rich_help_panel="Corpus",
        ),
    ] = None,
    split: Annotated[
        SplitName,
        typer.Option(
            help="Tasks of which split. Train translators on 'train', stop them by 'validation', score on 'test'.",
            rich_help_panel="Corpus",
        ),
    ] = SplitName.train,
    n_tasks: Annotated[int, typer.Option(min=1, help="Tasks to take from the DoD.", rich_help_panel="Corpus")] = 512,
    task_seed: Annotated[
        int, typer.Option(help="Seed of the choice of tasks and examples.", rich_help_panel="Corpus")
    ] = 0,
    snapshots: Annotated[
        str,
        typer.Option(
            help="Steps, such as 20,50, at which half-tuned prompts are kept too: more pairs for little work.",
            rich_help_panel="Corpus",
        ),
    ] = "",
    shard_size: Annotated[
        int,
        typer.Option(min=1, help="Tasks saved at a time, and so lost at most by a kill.", rich_help_panel="Corpus"),
    ] = 512,
    cluster: ClusterAddress = None,
    cluster_workers: ClusterWorkers = None,
    cluster_cores: ClusterCores = None,
    cluster_gpus: ClusterGpus = None,
    tuning: dict[str, Any],
    loading: dict[str, Any],
) -> None:
    """Tune soft prompts on the frozen subject, many at once.

    [bold]Examples:[/bold] soft2hard tune kinds.csv -o prompts

    soft2hard tune --dod lexical --n-tasks 20000 -o runs/corpus

    soft2hard tune --dod super-natural-instructions --dod-folder natural-instructions -o runs/sni --cluster local
    """
    if bool(tasks) == (dod is not None):
        raise UserError("Give either task files or --dod.", "For instance: soft2hard tune kinds.csv --output prompts.")
    on = cluster_of(cluster, cluster_workers, cluster_cores, cluster_gpus)
    if dod is None and (on is not None or dod_folder is not None):
        raise UserError("--cluster and --dod-folder belong to --dod.", "Name the collection with --dod.")
    quiet()
    from soft2hard.data_gen.tuning import Tuning

    config = Tuning(**tuning)
    if dod is not None:
        source = Source(dod, dod_folder, split.value, n_tasks, task_seed)
        tune_corpus(
            source, whole_numbers(snapshots, "--snapshots", "20,50"), shard_size, (subject, loading), config, output, on
        )
    else:
        _tune_files(tasks, subject, config, output, format_, loading)


def _tune_files(
    paths: list[Path], subject: str, config: "Tuning", output: Path, format_: Format, loading: dict[str, Any]
) -> None:
    from soft2hard.data_gen.taskfiles import content_hash, read_tasks
    from soft2hard.data_gen.tuning.tuner import Tuner

    tasks = read_tasks(paths, config.seed)
    lm = load_subject(subject, fast=True, loading=loading)
    settings = {"tasks": content_hash(tasks), "subject": lm.fingerprint, "format": format_.value}
    finished: dict[str, Tuned] = {}
    with no_remains(output), progress_bar() as progress:
        claim(output, {"command": "tune"} | settings | {"tuning": vars(config)} | rounding_of(loading))
        waiting = [task for task in tasks if not _place(output, task, format_).exists()]
        bar = progress.add_task("Tuning (steps)", total=len(waiting) * config.steps)
        tuner = Tuner(lm, config, on_step=lambda n: progress.advance(bar, n))
        for tuned in tuner.tune(waiting):
            _save(tuned.soft_prompt, _place(output, tuned.task, format_), format_, lm)
            finished[tuned.task.name] = tuned
            progress.advance(bar, config.steps - tuned.steps)  # those that early stopping has saved
    _print_table([_place(output, task, format_) for task in tasks], [finished.get(task.name) for task in tasks])


def _place(folder: Path, task: "Task", format_: Format) -> Path:
    return folder / (task.name if format_ is Format.peft else f"{task.name}.safetensors")


def _save(soft_prompt: "SoftPrompt", path: Path, format_: Format, subject: "Subject") -> None:
    if format_ is Format.safetensors:
        soft_prompt.save(path)
        return
    bos = subject.prompt_embeddings(None)
    soft_prompt.save_pretrained(
        path,
        base_model=subject.name,
        bos_embedding=bos[0].float().cpu() if len(bos) else None,
        task_type="SEQ_2_SEQ_LM" if subject.is_encoder_decoder else "CAUSAL_LM",
    )


def _print_table(places: list[Path], results: list["Tuned | None"]) -> None:
    from rich.console import Console
    from rich.table import Table

    table = Table("soft prompt", "loss before", "loss after", "steps", title="Validation loss, nats a token")
    for place, tuned in zip(places, results, strict=True):
        if tuned is None:
            table.add_row(str(place), "", "made earlier", "")
        else:
            table.add_row(str(place), f"{tuned.initial_loss:.3f}", f"{tuned.validation_loss:.3f}", str(tuned.steps))
    Console().print(table)
