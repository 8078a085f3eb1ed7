"""Style transfer: prompts trained with the reward against the best of as many random prompts, by the joint score.

    python benchmarks/style_transfer.py

The embedded world has no sentiments, so its style is the words that a list holds: lists with words of one category are
to be written with a label word in their place ('carrot dog red' as 'alpha dog red', as the subject does when it is
told to replace the vegetables with alpha). Prompts never see a pair: they are rewarded as published with RLPrompt, by
content (cosine of bags of words) and style (a linear classifier over them). Both sides have as many prompts, tried on
the same sentences, and as many looks at the validation sentences, which choose; the joint score is on test sentences.
"""

import time
from collections.abc import Sequence
from concurrent.futures import ProcessPoolExecutor
from multiprocessing import get_context
from random import Random
from statistics import fmean
from typing import Annotated, Literal, NamedTuple

import numpy as np
from cyclopts import Parameter
from cyclopts.validators import Number

from soft2hard.checkpoints import embedded_path
from soft2hard.cli.common import AtLeast1
from soft2hard.data_gen.dods.lexical.grammar import word_list
from soft2hard.data_gen.dods.lexical.words import CATEGORIES, CATEGORY_OF, LABELS, PLURALS
from soft2hard.data_gen.tasks import Example, StyleTask
from soft2hard.errors import run_script
from soft2hard.eval.classifiers import LinearClassifier
from soft2hard.eval.intervals import by_task, paired_difference
from soft2hard.eval.methods.base import Bench, Case
from soft2hard.eval.methods.discrete import Meter, Vocabulary
from soft2hard.eval.methods.policies import Pin, RLPrompt
from soft2hard.eval.methods.style_rewards import StyleRewards
from soft2hard.eval.rewriting import Styling
from soft2hard.lm.precision import load_for_tuning
from soft2hard.lm.subject import Subject

WORDS = {word: i for i, word in enumerate([*CATEGORY_OF, *LABELS])}


def bag_of_words(texts: Sequence[str]) -> np.ndarray:
    """How often each text holds each word of the world's lists, and other words."""
    found = np.zeros((len(texts), len(WORDS) + 1))
    for row, text in zip(found, texts, strict=True):
        for word in text.split():
            row[WORDS.get(word, -1)] += 1
    return found


def style_task(category: str, label: str, n_labelled: int = 200) -> StyleTask:
    """Lists with words of a category, which are to be written with a label word in their place."""
    rng = Random(f"{category} as {label}")
    pairs: dict[str, str] = {}
    while len(pairs) < 2 * n_labelled + 136:
        length = rng.choice((3, 4))
        words = word_list(rng, (category,), rng.choice((1, 1, 2)), length)
        pairs[" ".join(words)] = " ".join(label if CATEGORY_OF[word] == category else word for word in words)
    examples = [Example(*pair) for pair in pairs.items()]
    labelled = [Example(e.input, category) for e in examples[136 : 136 + n_labelled]]
    labelled += [Example(e.output, label) for e in examples[136 + n_labelled :]]
    return StyleTask(
        f"{category} as {label}", "style", f"Replace the {PLURALS[category]} with {label}.", (), tuple(examples[:16]),
        tuple(examples[16:40]), tuple(examples[40:136]), None, "rougeL", category, label, tuple(labelled),
    )  # fmt: skip


def drawn_tasks(n: int, seed: int = 0) -> list[StyleTask]:
    rng = Random(seed)
    categories = rng.sample([name for name in CATEGORIES if name not in ("verb", "adjective", "number")], n)
    return [style_task(category, rng.choice(LABELS)) for category in categories]


def style_bench(tasks: Sequence[StyleTask], seed: int, samples: int) -> Bench:
    """The embedded subject, with classifiers of all styles trained on halves of the tasks' sentences without pairs."""
    path, labelled = embedded_path("subject"), [example for task in tasks for example in task.labelled]
    halves = [LinearClassifier.train(labelled[i::2], bag_of_words, name) for i, name in enumerate("ab")]
    style = Styling(*halves, bag_of_words, samples, top_k=10)
    models = {"reference": Subject.from_pretrained(embedded_path("api_model")), "style": style, "seed": seed}
    return Bench(Subject.from_pretrained(path), load_for_tuning(path), **models)


def best_random(tasks: Sequence[StyleTask], bench: Bench, like: RLPrompt) -> list[str]:
    """For each task the best of as many random prompts as a method samples, found as the method finds its own best:
    those with the highest rewards are tried on the validation sentences, which choose."""
    vocabulary, rewards = Vocabulary(bench.fast_subject), StyleRewards(bench, bench.reference, like)
    rngs = [Random(f"random {bench.seed}/{task.name}") for task in tasks]
    trials = [rewards.trials(task, f"{bench.seed}/{task.name}", Meter(None)) for task in tasks]
    for _ in range(like.steps):
        drawn = [[vocabulary.text(vocabulary.random(like.n_tokens, rng)) for _ in range(like.batch)] for rng in rngs]
        rewards.sampled([(train, texts) for (train, _), texts in zip(trials, drawn, strict=True)])
    # A policy's greedy prompts are looked at too, so that random prompts have as many looks.
    n = like.keep + like.steps // like.eval_every
    for train, validation in trials:
        best = sorted(train.rewards, key=train.rewards.get, reverse=True)[:n]
        rewards.score([(validation, text) for text in best])
    return [max(validation.rewards, key=validation.rewards.get) for _, validation in trials]


class Settings(NamedTuple):
    """What a seed of the benchmark runs."""

    n_tasks: int
    steps: int
    samples: int
    n_tokens: int
    scale: float
    """Of PIN's rewards: the lower, the longer it explores."""
    warm_up: float
    mutate: float
    """As of the methods."""

    def method(self, name: str) -> RLPrompt | Pin:
        """PIN, or RLPrompt, at settings for a small vocabulary and few steps."""
        options = {"n_tokens": self.n_tokens, "steps": self.steps, "batch": 16, "hidden": 256, "polyak": 0.1}
        options |= {"reward": "style", "sentences": 4, "fixed_sentences": True, "bootstraps": 1, "eval_every": 10}
        options |= {"keep": 24, "warm_up": self.warm_up, "mutate": self.mutate}
        if name == "rlprompt":
            return RLPrompt(**options, lr=6e-3, reward_scale=15.0, clip=50.0)
        # No filter: at the first place the policy LM's likeliest tokens leave out "Replace".
        return Pin(**options, lr=4e-3, k=50_272, reward_scale=self.scale)


def scores_of(name: str, seed: int, settings: Settings) -> list[tuple[str, float]]:
    """Joint scores on test sentences, by task, of the prompts of one kind under a seed; printed with the prompts."""
    tasks, begun = drawn_tasks(settings.n_tasks), time.process_time()
    bench = style_bench(tasks, seed, settings.samples)
    if name in ("none", "gold"):
        prompts = [task.instruction if name == "gold" else None for task in tasks]
    elif name == "random":
        prompts = best_random(tasks, bench, settings.method("pin"))
    else:
        prompts = [outcome.prompt for outcome in settings.method(name).run(list(map(Case, tasks)), bench)]
    found = []
    for task, prompt in zip(tasks, prompts, strict=True):
        [texts] = bench.style.best_rewritings(bench.subject, task, [prompt], bench.seed)
        [scores] = bench.style.scores(task, [texts], bench.reference)
        found.append((task.name, scores.joint))
        print(f"{name}, {task.name}, seed {seed}: {scores.joint:.3f} '{prompt}'", flush=True)
    print(f"{name}, seed {seed}: {time.process_time() - begun:.0f} s of one core", flush=True)
    return found


def main(
    n_tasks: AtLeast1 = 8,
    n_seeds: AtLeast1 = 2,
    steps: AtLeast1 = 200,
    samples: AtLeast1 = 8,
    n_tokens: AtLeast1 = 5,
    scale: float = 5.0,
    warm_up: Annotated[float, Parameter(validator=Number(gte=0, lte=1))] = 0.25,
    mutate: Annotated[float, Parameter(validator=Number(gte=0, lte=1))] = 0.5,
    methods: Annotated[list[Literal["pin", "rlprompt"]] | None, Parameter(name="--method")] = None,
    workers: AtLeast1 = 1,
) -> None:
    """Joint scores of trained and random prompts, by task, and their difference with its 95 % interval."""
    settings, kinds = (
        Settings(n_tasks, steps, samples, n_tokens, scale, warm_up, mutate),
        ["random", *(methods or ["pin"]), "gold", "none"],
    )
    found: dict[str, list[tuple[str, float]]] = {kind: [] for kind in kinds}
    with ProcessPoolExecutor(workers, mp_context=get_context("spawn")) as pool:
        jobs = [(kind, pool.submit(scores_of, kind, seed, settings)) for seed in range(n_seeds) for kind in kinds]
        for kind, job in jobs:
            found[kind] += job.result()
    print({name: round(fmean(score for _, score in rows), 3) for name, rows in found.items()})
    for name in methods or ["pin"]:
        pair = paired_difference(by_task(found[name]), by_task(found["random"]))
        print(f"{name} less random, joint score: {pair.difference} (p {pair.p_value:.2g}, {pair.n_tasks} tasks)")


if __name__ == "__main__":
    run_script(main)
