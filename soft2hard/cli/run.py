"""soft2hard run: all stages of a recipe."""

from pathlib import Path
from typing import Annotated

import typer

from soft2hard.cli.cluster_options import ClusterAddress, ClusterCores, ClusterGpus, ClusterWorkers, cluster_of
from soft2hard.cli.common import progress_bar, quiet, say
from soft2hard.errors import UserError


def run(
    recipe: Annotated[
        Path, typer.Argument(metavar="RECIPE.yaml", help="What to make; docs/recipes.md describes all settings.")
    ],
    output: Annotated[
        Path | None,
        typer.Option(
            "--output",
            "-o",
            help="Folder of the run; the same folder again goes on with it.",
            show_default="runs/ and the recipe's name",
        ),
    ] = None,
    stages: Annotated[
        list[str] | None,
        typer.Option(
            "--stage",
            help="A stage to run, repeatable: corpora, translator, evaluation, transfer or report; all if not given.",
        ),
    ] = None,
    plan: Annotated[
        bool,
        typer.Option(
            "--plan",
            help="Make nothing: print the stages, what each reads and writes, disk space, and an estimate of the time "
            "from a short measurement on this machine.",
        ),
    ] = False,
    workers: Annotated[
        int, typer.Option(min=1, help="Processes that share the seeds of the evaluation, and the cores evenly.")
    ] = 1,
    cluster: ClusterAddress = None,
    cluster_workers: ClusterWorkers = None,
    cluster_cores: ClusterCores = None,
    cluster_gpus: ClusterGpus = None,
) -> None:
    """Make everything that a recipe describes: corpora, translator, evaluation, transfer, report.

    Each stage runs once, and goes on where it was stopped when the command is given again.

    [bold]Example:[/bold] soft2hard run recipes/tiny-ci.yaml

    soft2hard run recipes/llama-3.1-8b.yaml --stage corpora --cluster auto
    """
    on = cluster_of(cluster, cluster_workers, cluster_cores, cluster_gpus)
    if on is not None and workers > 1:
        raise UserError("--workers and --cluster exclude each other.", "Say --cluster-workers.")
    quiet()
    from soft2hard.pipeline.job import Job
    from soft2hard.pipeline.layout import Layout
    from soft2hard.pipeline.recipe import read_recipe
    from soft2hard.pipeline.running import Pipeline

    found = read_recipe(recipe)
    layout = Layout(output or Path("runs") / recipe.stem)
    if plan:
        from soft2hard.pipeline.plan import plan_text

        print(plan_text(found, layout, stages or [], str(recipe)))
        return
    with progress_bar() as progress:
        bars: dict[str, int] = {}

        def on_progress(what: str, done: int, total: int) -> None:
            if what not in bars:
                bars[what] = progress.add_task(what, total=total)
            progress.update(bars[what], completed=done, total=total)

        Pipeline(Job(found, layout, say, on_progress, workers, on)).run(stages or [])
    print(layout.report if layout.report.exists() else layout.folder)
