"""soft2hard run: all stages of a recipe."""

from pathlib import Path
from typing import Annotated

from cyclopts import Parameter

from soft2hard.cli.common import AtLeast1, ClusterFlags, Output, progress_bar, quiet, say
from soft2hard.errors import UserError


def run(
    recipe: Path,
    /,
    *,
    output: Output | None = None,
    size: str | None = None,
    stages: Annotated[list[str] | None, Parameter(name="--stage")] = None,
    plan: Annotated[bool, Parameter(negative=())] = False,
    workers: AtLeast1 = 1,
    cluster: ClusterFlags = None,
) -> None:
    """Make everything that a recipe describes: models, corpora, translator, evaluation, transfer, report.

    Each stage runs once, and is resumed where it was stopped when the command is given again.

    **Example:** `soft2hard run recipes/tiny-ci.yaml`

    `soft2hard run recipes/llama-3.1-8b.yaml --stage corpora --cluster auto`

    Args:
        recipe: YAML file of what to make; docs/recipes.md describes all settings.
        output: Folder of the run; the same folder again resumes it. By default runs/ and the recipe's name.
        size: One of the recipe's variants by its name, such as trial of recipes/smollm2.yaml.
        stages: A stage to run, repeatable: world, corpora, translator, comparisons, evaluation, certificate, transfer,
            report; all by default.
        plan: Make nothing: print the stages, what each reads and writes, how much there is to do, and how long tuning
            takes, from a short measurement on this machine.
        workers: Processes that share the seeds of the evaluation, and the cores evenly.
    """
    if cluster is not None and workers > 1:
        raise UserError("--workers and --cluster exclude each other.", "Say --cluster-workers.")
    quiet()
    from soft2hard.pipeline.conductor import Pipeline
    from soft2hard.pipeline.plan import plan_text
    from soft2hard.pipeline.recipe import read_recipe
    from soft2hard.pipeline.stages import Job, Layout

    found = read_recipe(recipe, size)
    layout = Layout(output or Path("runs") / "-".join(filter(None, [recipe.stem, size])))
    if plan:
        print(plan_text(found, layout, stages or [], str(recipe)))
        return
    with progress_bar() as progress:
        bars: dict[str, int] = {}

        def on_progress(what: str, done: int, total: int) -> None:
            if what not in bars:
                bars[what] = progress.add_task(what, total=total)
            progress.update(bars[what], completed=done, total=total)

        Pipeline(Job(found, layout, say, on_progress, workers, cluster)).run(stages or [])
    print(layout.report if layout.report.exists() else layout.folder)
