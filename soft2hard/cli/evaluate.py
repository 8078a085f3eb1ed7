"""soft2hard evaluate: methods x tasks x seeds, as a YAML file or flags ask for it."""

from pathlib import Path
from typing import Annotated, Any

import typer

from soft2hard.cli.cluster_options import ClusterAddress, ClusterCores, ClusterGpus, ClusterWorkers, cluster_of
from soft2hard.cli.common import chosen_loading, progress_bar, quiet, say, with_loading
from soft2hard.errors import UserError

_DEFAULT_METHODS = ["none", "gold", "soft", "few-shot", "greedy", "translated"]
_DEFAULT_N_TASKS = 30


@with_loading
def evaluate(
    config: Annotated[
        Path | None,
        typer.Argument(metavar="[CONFIG.yaml]", help="What to evaluate; docs/evaluation.md describes all settings."),
    ] = None,
    output: Annotated[
        Path, typer.Option("--output", "-o", help="Folder of the run; the same folder again goes on with it.")
    ] = Path("runs/evaluation"),
    tasks: Annotated[
        list[Path] | None,
        typer.Option(help="Without a CONFIG: task files or folders of them; the embedded world's tasks if not given."),
    ] = None,
    methods: Annotated[
        list[str] | None,
        typer.Option("--method", help=f"Without a CONFIG: a method, repeatable ({', '.join(_DEFAULT_METHODS)})."),
    ] = None,
    n_tasks: Annotated[
        int | None,
        typer.Option(min=1, help="Without a CONFIG: test tasks at most.", show_default=str(_DEFAULT_N_TASKS)),
    ] = None,
    seeds: Annotated[list[int] | None, typer.Option("--seed", help="Without a CONFIG: a seed, repeatable.")] = None,
    subject: Annotated[
        str | None,
        typer.Option(
            help="Without a CONFIG: the frozen language model, as in soft2hard tune.", show_default="embedded"
        ),
    ] = None,
    translator: Annotated[
        str | None,
        typer.Option(
            help="Without a CONFIG: 'embedded', or a folder that train or finetune has written; 'none' for none.",
            show_default="embedded",
        ),
    ] = None,
    reference: Annotated[
        str | None,
        typer.Option(
            help="Without a CONFIG: language model for perplexities: 'embedded', 'subject', a folder or a name; 'none' "
            "for none.",
            show_default="embedded beside the embedded subject, else gpt2-xl",
        ),
    ] = None,
    generator: Annotated[
        str | None,
        typer.Option(
            help="Without a CONFIG: language model that is asked for instructions, named like --reference.",
            show_default="embedded beside the embedded subject, else subject",
        ),
    ] = None,
    workers: Annotated[
        int, typer.Option(min=1, help="Processes; each takes a seed at a time, and an equal share of the cores.")
    ] = 1,
    retry_failed: Annotated[
        bool, typer.Option("--retry-failed", help="Make the failed cells of an earlier run again.")
    ] = False,
    cluster: ClusterAddress = None,
    cluster_workers: ClusterWorkers = None,
    cluster_cores: ClusterCores = None,
    cluster_gpus: ClusterGpus = None,
    *,
    loading: dict[str, Any],
) -> None:
    """Score prompts of many methods on many tasks; `soft2hard report` shows the result.

    [bold]Example:[/bold] soft2hard evaluate --tasks mine/ --method soft --method translated -o runs/mine
    """
    flags = {
        "--tasks": tasks,
        "--method": methods,
        "--n-tasks": n_tasks,
        "--seed": seeds,
        "--subject": subject,
        "--translator": translator,
        "--reference": reference,
        "--generator": generator,
    } | {f"--{name}".replace("_", "-"): value for name, value in chosen_loading(loading).items()}
    given = [flag for flag, value in flags.items() if value not in (None, [])]
    if config is not None and given:
        raise UserError(f"CONFIG and {', '.join(given)} exclude each other.", "Put these settings in the file.")
    on = cluster_of(cluster, cluster_workers, cluster_cores, cluster_gpus)
    if on is not None and workers > 1:
        raise UserError("--workers and --cluster exclude each other.", "Say --cluster-workers.")
    _check_output(output)
    quiet()
    from soft2hard.eval.config import parse_config, read_config
    from soft2hard.eval.fan_out import run_evaluation

    if config is not None:
        evaluation = read_config(config)
    else:
        source = {"files": [str(path) for path in tasks]} if tasks else {"dod": "lexical"}
        named = {"subject": subject, "translator": translator, "reference": reference, "generator": generator}
        asked = {
            "tasks": source | {"n": n_tasks or _DEFAULT_N_TASKS},
            "methods": methods or _DEFAULT_METHODS,
            "seeds": seeds or [0],
            "loading": chosen_loading(loading),
            **{role: name for role, name in named.items() if name is not None},
        }
        evaluation = parse_config(asked, "The command line")
    with progress_bar() as progress:
        bar = progress.add_task("Cells", total=None)

        def on_cell(done: int, total: int) -> None:
            progress.update(bar, completed=done, total=total)

        rows = run_evaluation(evaluation, output, say, on_cell, workers, retry_failed, on)
    failed = sum(row.failure is not None for row in rows)
    print(f"{len(rows)} cells in {output}, {failed} of them failed; see soft2hard report {output}")


def _check_output(folder: Path) -> None:
    """Raise UserError where a file stands in the way of a folder."""
    for path in (folder, *folder.parents):
        if path.exists() and not path.is_dir():
            raise UserError(f"{path} is a file.", "Give a new or empty folder as --output.")
