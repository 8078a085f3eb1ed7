"""soft2hard evaluate: methods x tasks x seeds, as a YAML file or flags ask for it."""

from pathlib import Path
from typing import Annotated

from cyclopts import Parameter

from soft2hard.cli.common import AtLeast1, ClusterFlags, LoadingFlags, Output, progress_bar, quiet, say
from soft2hard.errors import UserError
from soft2hard.lm.settings import Loading
from soft2hard.settings import chosen

_DEFAULT_METHODS = ["none", "gold", "soft", "few-shot", "greedy", "translated"]
_DEFAULT_N_TASKS = 30


def evaluate(
    config: Path | None = None,
    /,
    *,
    output: Output = Path("runs/evaluation"),
    size: str | None = None,
    tasks: Annotated[list[Path] | None, Parameter(consume_multiple=True, negative=())] = None,
    methods: Annotated[list[str] | None, Parameter(name="--method")] = None,
    n_tasks: AtLeast1 | None = None,
    seeds: Annotated[list[int] | None, Parameter(name="--seed")] = None,
    subject: str | None = None,
    translator: str | None = None,
    reference: str | None = None,
    generator: str | None = None,
    workers: AtLeast1 = 1,
    retry_failed: Annotated[bool, Parameter(negative=())] = False,
    loading: LoadingFlags = Loading(),
    cluster: ClusterFlags = None,
) -> None:
    """Score prompts of many methods on many tasks; `soft2hard report` shows the result.

    **Example:** `soft2hard evaluate --tasks mine/ --method soft --method translated -o runs/mine`

    Args:
        config: YAML file of what to evaluate; docs/evaluation.md describes all settings.
        output: Folder of the run; the same folder again resumes it.
        size: One of the CONFIG's variants by its name, such as embedded of recipes/towards-sst2.yaml.
        tasks: Without a CONFIG: task files or folders of them; the embedded world's tasks if not given.
        methods: Without a CONFIG: a method, repeatable (none, gold, soft, few-shot, greedy and translated if not
            given).
        n_tasks: Without a CONFIG: test tasks at most; 30 if not given.
        seeds: Without a CONFIG: a seed, repeatable.
        subject: Without a CONFIG: the frozen language model, as in soft2hard tune; 'embedded' if not given.
        translator: Without a CONFIG: 'embedded', 'smollm2', or a folder that train or finetune has written; 'none' for
            none. If not given, 'embedded' beside the embedded subject, else 'smollm2', which reads what soft prompts of
            any subject do.
        reference: Without a CONFIG: language model for perplexities: 'embedded', 'subject', a folder or a name; 'none'
            for none. If not given, 'embedded' beside the embedded subject, 'subject' for smollm2, else gpt2-xl.
        generator: Without a CONFIG: language model that is asked for instructions, named like --reference. If not
            given, 'embedded' beside the embedded subject, else 'subject'.
        workers: Processes; each takes a seed at a time, and an equal share of the cores.
        retry_failed: Make the failed cells of an earlier run again.
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
    } | {f"--{name}".replace("_", "-"): value for name, value in chosen(loading).items()}
    given = [flag for flag, value in flags.items() if value not in (None, [])]
    if config is not None and given:
        raise UserError(
            f"CONFIG and {', '.join(given)} exclude each other.",
            "Put these settings in the file; how the subject is held and --template stand there under loading.",
        )
    if cluster is not None and workers > 1:
        raise UserError("--workers and --cluster exclude each other.", "Say --cluster-workers.")
    if config is None and size is not None:
        raise UserError("--size is of a CONFIG.", "Give a YAML file that has variants.")
    _check_output(output)
    quiet()
    from soft2hard.eval.config import parse_config, read_config
    from soft2hard.eval.fan_out import run_evaluation

    if config is not None:
        evaluation = read_config(config, size)
    else:
        source = {"files": [str(path) for path in tasks]} if tasks else {"dod": "lexical"}
        named = {"subject": subject, "translator": translator, "reference": reference, "generator": generator}
        asked = {
            "tasks": source | {"n": n_tasks or _DEFAULT_N_TASKS},
            "methods": methods or _DEFAULT_METHODS,
            "seeds": seeds or [0],
            "loading": chosen(loading),
            **{role: name for role, name in named.items() if name is not None},
        }
        evaluation = parse_config(asked, "The command line")
    with progress_bar() as progress:
        bar = progress.add_task("Cells", total=None)

        def on_cell(done: int, total: int) -> None:
            progress.update(bar, completed=done, total=total)

        rows = run_evaluation(evaluation, output, say, on_cell, workers, retry_failed, cluster)
    failed = sum(row.failure is not None for row in rows)
    print(f"{len(rows)} cells in {output}, {failed} of them failed; see soft2hard report {output}")


def _check_output(folder: Path) -> None:
    """Raise UserError where a file stands in the way of a folder."""
    for path in (folder, *folder.parents):
        if path.exists() and not path.is_dir():
            raise UserError(f"{path} is a file.", "Give a new or empty folder as --output.")
