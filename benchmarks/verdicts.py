"""Do verdicts hold? The bound on fresh inputs, and other tasks' instructions held against it.

    python benchmarks/verdicts.py RUN

RUN is a finished run of `soft2hard evaluate` on lexical tasks (recipes/evaluate-embedded-search.yaml). *Coverage*: of
the texts that its methods `translated` chose, the share whose agreement with the soft prompt, on inputs that neither
chose nor judged them, is at least the bound that was claimed (95 % of the time, it should be). *Swaps*: soft prompts
are judged beside the gold instruction of another task, which should never be called faithful.
"""

import json
from collections import Counter
from pathlib import Path
from random import Random

from scipy.stats import binomtest

from soft2hard.cli.common import AtLeast1
from soft2hard.errors import run_script
from soft2hard.eval.cases import CellFile, SoftPromptStore, drawn_tasks
from soft2hard.eval.config import Evaluation, parse_config
from soft2hard.eval.methods.base import Case
from soft2hard.lm.subject import Subject
from soft2hard.translator.settings import TranslateConfig
from soft2hard.translator.verdict import verdict_of
from soft2hard.translator.verification import Verifier

USED = TranslateConfig.n_probes + TranslateConfig.n_checks
FEWEST = 32  # fresh inputs of a task that say anything


def inputs_of(case: Case) -> list[str]:
    """All inputs of a task, those that chose and judged first."""
    return list(dict.fromkeys(e.input for e in (*case.task.validation, *case.task.train)))


def share(name: str, n: int, total: int) -> str:
    interval = binomtest(n, total).proportion_ci(0.95)
    return f"{name}: {n} of {total}, {n / total:.1%} [{interval.low:.1%}, {interval.high:.1%}]"


def coverage(run: Path, config: Evaluation, cases: dict[int, list[Case]], verifier: Verifier) -> None:
    """Print, for each method, how often the bound held, and how often a faithful text was so on fresh inputs."""
    for choice in config.methods:
        if choice.name != "translated":
            continue
        held: Counter[str] = Counter()
        for seed, of_seed in cases.items():
            found = CellFile(run, choice.label, seed).read({case.task.name: case for case in of_seed})
            for case in of_seed:
                outcome, fresh = found[case.task.name], inputs_of(case)[USED:]
                if outcome.trace.get("at_least") is None or len(fresh) < FEWEST:
                    continue
                [probes] = verifier.probe([case.soft_prompt], [fresh])
                [beside] = verifier.compare([outcome.prompt], probes)
                agreement = beside.alike.float().mean().item()
                held["all"] += 1
                held["covered"] += agreement >= outcome.trace["at_least"]
                held["faithful"] += outcome.trace["verdict"] == "faithful"
                held["faithful, 80 %"] += outcome.trace["verdict"] == "faithful" and agreement >= 0.8
        print(share(f"{choice.label}: agreement on fresh inputs at least the bound", held["covered"], held["all"]))
        print(share("    faithful, and alike on 80 % of fresh inputs", held["faithful, 80 %"], held["faithful"]))


def swaps(cases: list[Case], verifier: Verifier, n_pairs: int) -> None:
    """Print how many instructions of other tasks were called faithful."""
    pairs = [(a, b) for a in range(len(cases)) for b in range(len(cases)) if a != b]
    chosen = Random(0).sample(pairs, min(n_pairs, len(pairs)))
    wrong = []
    for a in sorted({a for a, _ in chosen}):
        checks = inputs_of(cases[a])[: TranslateConfig.n_checks]
        [probes] = verifier.probe([cases[a].soft_prompt], [checks])
        texts = [cases[b].task.instruction for of, b in chosen if of == a]
        for text, found in zip(texts, verifier.compare(texts, probes), strict=True):
            if found is not None and verdict_of(int(found.alike.sum()), len(checks)) == "faithful":
                wrong.append(f"    '{cases[a].task.instruction}' beside '{text}'")
    print(share("another task's gold text called faithful", len(wrong), len(chosen)), *wrong, sep="\n")


def main(run: Path, n_pairs: AtLeast1 = 500) -> None:
    """Coverage and swaps of a run."""
    config = parse_config(json.loads((run / "run.json").read_text(encoding="utf-8"))["config"], f"{run}/run.json")
    subject = Subject.from_pretrained(config.subject)
    cases = {
        seed: SoftPromptStore(run / "soft_prompts" / f"{seed}-test.safetensors", subject, config.tuning_of(seed)).cases(
            drawn_tasks(config.tasks, "test", seed)
        )
        for seed in config.seeds
    }
    verifier = Verifier(subject)
    coverage(run, config, cases, verifier)
    swaps(cases[config.seeds[0]], verifier, n_pairs)


if __name__ == "__main__":
    run_script(main)
