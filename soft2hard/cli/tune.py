"""soft2hard tune: soft prompts from tasks given by examples, or a corpus of a collection's tasks."""

from collections.abc import Sequence
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Literal

from cyclopts import Parameter

from soft2hard.cli.common import (
    ANOTHER_SUBJECT,
    AtLeast1,
    ClusterFlags,
    LoadingFlags,
    Output,
    SubjectName,
    claim,
    flags_of,
    load_subject,
    no_remains,
    parsed_pairs,
    progress_bar,
    quiet,
    say,
    say_unknown,
)
from soft2hard.data_gen.settings import CorpusSettings, Tuning
from soft2hard.errors import UserError
from soft2hard.lm.settings import Loading
from soft2hard.storage.names import name_of

if TYPE_CHECKING:
    from soft2hard.data_gen.tasks import Task
    from soft2hard.data_gen.tuning.tuner import Tuned
    from soft2hard.lm.subject import Subject
    from soft2hard.prompts.soft_prompt import SoftPrompt

Format = Literal["safetensors", "peft"]
_CORPUS = Parameter(group="Corpus")


def tune(
    tasks: list[Path] | None = None,
    /,
    *,
    output: Output,
    subject: SubjectName = "embedded",
    format_: Annotated[Format, Parameter(name="--format")] = "safetensors",
    dod: Annotated[str | None, _CORPUS] = None,
    dod_folder: Annotated[Path | None, _CORPUS] = None,
    dod_options: Annotated[list[str] | None, _CORPUS, Parameter(name="--dod-option")] = None,
    split: Annotated[Literal["train", "validation", "test"], _CORPUS] = "train",
    n_tasks: Annotated[AtLeast1, _CORPUS] = 512,
    task_seed: Annotated[int, _CORPUS] = 0,
    snapshots: Annotated[str, _CORPUS] = "",
    shard_size: Annotated[AtLeast1, _CORPUS] = 512,
    tuning: flags_of(Tuning, "Tuning") = Tuning(),
    loading: LoadingFlags = Loading(),
    cluster: ClusterFlags = None,
) -> None:
    """Tune soft prompts on the frozen subject, many at once.

    **Examples:** `soft2hard tune kinds.csv -o prompts`

    `soft2hard tune --dod lexical --n-tasks 20000 -o runs/corpus`

    `soft2hard tune --dod super-natural-instructions --dod-folder natural-instructions -o runs/sni --cluster local`

    Args:
        tasks: Task files (.jsonl or .csv with columns input and output), or folders of them. The instruction, if any,
            stands in a header (`{"instruction": "..."}` as first line of JSONL, `# instruction: ...` in CSV) or in
            `STEM.instruction.txt`; tuning does not use it.
        output: Folder for the soft prompts, one a task; run again to resume.
        format_: One .safetensors file a task, or one PEFT adapter folder a task.
        dod: Instead of task files: the dataset of datasets to take tasks from ('lexical', or a collection of
            docs/datasets.md with --dod-folder). The output is then a corpus, to train a translator on.
        dod_folder: Where the files of the collection lie; 'lexical' and 'operations' have none, and without it
            'super-glue' and 'super-natural-instructions' come from the hub.
        dod_options: NAME=VALUE of the collection, such as max_words=60 or sizes.test=all (docs/datasets.md);
            repeatable.
        split: Tasks of which split. Train translators on 'train', stop them by 'validation', score on 'test'.
        n_tasks: Tasks to take from the DoD.
        task_seed: Seed of the choice of tasks and examples.
        snapshots: Steps, such as 20,50, at which half-tuned prompts are kept too: more pairs for little work.
        shard_size: Tasks saved at a time, and so lost at most by a kill.
    """
    if bool(tasks) == (dod is not None):
        raise UserError("Give either task files or --dod.", "For instance: soft2hard tune kinds.csv --output prompts.")
    if dod is None and (cluster is not None or dod_folder is not None or dod_options):
        raise UserError("--cluster, --dod-folder and --dod-option belong to --dod.", "Name the collection with --dod.")
    quiet()
    if dod is None:
        _tune_files(tasks or [], subject, tuning, output, format_, loading)
        return
    from soft2hard.data_gen.corpus.maker import Maker, corpus_tasks

    corpus = CorpusSettings(
        split, n_tasks, dod, dod_folder, parsed_pairs(dod_options or [], "--dod-option"), snapshot_steps=snapshots,
        shard_size=shard_size, task_seed=task_seed,
    )  # fmt: skip
    read = corpus_tasks(corpus)
    load = partial(load_subject, subject, fast=True, loading=loading)
    with no_remains(output), progress_bar() as progress:
        bar = progress.add_task(f"Tuning {split} tasks", total=n_tasks)

        def on_progress(_: str, done: int, total: int) -> None:
            progress.update(bar, completed=done, total=total)

        Maker(load, loading, cluster, say, on_progress).make(output, read, tuning)
    say(f"Corpus of {n_tasks} tasks: {output}")


def _tune_files(
    paths: list[Path], subject: str, config: Tuning, output: Path, format_: Format, loading: Loading
) -> None:
    from soft2hard.data_gen.taskfiles import content_hash, read_tasks
    from soft2hard.data_gen.tuning.tuner import Tuner

    tasks = read_tasks(paths, config.seed)
    outputs = [example.output for task in tasks for example in (*task.train, *task.validation)]
    lm = load_subject(subject, fast=True, loading=loading).for_outputs(outputs)
    texts = {text for task in tasks for one in task.examples for text in (one.input, one.output)}
    say_unknown(lm, texts, f" {ANOTHER_SUBJECT}")
    _check_outputs(lm, tasks)
    if format_ == "peft" and getattr(lm.asked_template, "place", None) == "after" and lm.begins_with_tokens:
        raise UserError(
            "PEFT puts virtual tokens before all others, and --template says after.",
            "Leave 'after' out, or choose --format safetensors.",
        )
    if format_ == "peft" and (lm.is_masked or lm.template.input_first):
        raise UserError(
            "PEFT's prompt tuning knows neither masked language models nor prompts behind the input.",
            "Choose --format safetensors.",
        )
    if format_ == "peft" and lm.begins_with_tokens:
        lm = lm.with_template(replace(lm.template, place="first"))  # as PEFT runs them
    settings = {"tasks": content_hash(tasks), "subject": lm.fingerprint, "format": format_}
    finished: dict[str, Tuned] = {}
    with no_remains(output), progress_bar() as progress:
        claim(output, {"command": "tune"} | settings | {"tuning": vars(config)} | loading.rounding)
        waiting = [task for task in tasks if not _place(output, task, format_).exists()]
        bar = progress.add_task("Tuning (steps)", total=len(waiting) * config.steps)
        tuner = Tuner(lm, config, on_step=lambda n: progress.advance(bar, n))
        for tuned in tuner.tune(waiting):
            _save(tuned.soft_prompt, _place(output, tuned.task, format_), format_, lm)
            finished[tuned.task.name] = tuned
            progress.advance(bar, config.steps - tuned.steps)  # those that early stopping has saved
    _print_table([_place(output, task, format_) for task in tasks], [finished.get(task.name) for task in tasks])
    if format_ == "peft":
        say("The README.md in each adapter says how PEFT runs it: the text around the input, and where an answer ends.")


def _check_outputs(lm: "Subject", tasks: Sequence["Task"]) -> None:
    """Raise UserError where unlike outputs of a task are the same tokens: of words that the tokenizer does not know."""
    for task in tasks:
        outputs = {one.output for one in (*task.train, *task.validation)}
        if len(outputs) > 1 and len({tuple(lm.encode_output(one)) for one in outputs}) < 2:
            raise UserError(
                f"All outputs of the task '{task.name}' are the same tokens to '{name_of(lm.name)}', which does not "
                "know their words.",
                ANOTHER_SUBJECT,
            )


def _place(folder: Path, task: "Task", format_: Format) -> Path:
    return folder / (task.name if format_ == "peft" else f"{task.name}.safetensors")


def _save(soft_prompt: "SoftPrompt", path: Path, format_: Format, subject: "Subject") -> None:
    if format_ == "safetensors":
        soft_prompt.save(path)
        return
    task_type = "SEQ_2_SEQ_LM" if subject.is_encoder_decoder else "CAUSAL_LM"
    soft_prompt.save_pretrained(path, base_model=subject.name, task_type=task_type)


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
