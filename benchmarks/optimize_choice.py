"""How well `optimize` chooses: simulated models whose accuracy under every candidate is known, 128 requests a task.

    python benchmarks/optimize_choice.py

Eight texts, each alone and with 4 or 8 demonstrations, have accuracies drawn from effects of text, of demonstrations
and of both (log-odds); the first text is likelier to be good, as a verified one is. Shown is the accuracy of what was
chosen over that of the first text alone, beside the best there is, and beside the obvious way: to ask all candidates
with the same five examples.
"""

from random import Random
from statistics import fmean
from unittest.mock import patch

import numpy as np

from soft2hard.api.answers import Answer
from soft2hard.api.asking import Sent
from soft2hard.api.prices import read_prices
from soft2hard.api.requests import ApiModel, Request
from soft2hard.cli.common import AtLeast1
from soft2hard.data_gen.tasks import Example, Task
from soft2hard.errors import run_script
from soft2hard.eval.intervals import mean_interval
from soft2hard.eval.transfer import optimizing
from soft2hard.eval.transfer.optimized import Arm
from soft2hard.eval.transfer.optimizing import OptimizeChoices, Optimizer

SHOTS = (0, 4, 8)
SPREADS = {"texts differ": (1.0, 0.3), "demonstrations differ": (0.3, 1.2), "both differ": (1.0, 0.8)}
"""Standard deviations of the effects of texts and of demonstrations, in log-odds."""


class SimulatedModel:
    """Answers rightly with the accuracy of the text and the number of demonstrations that it is asked with."""

    model, prices = ApiModel("simulated"), read_prices()

    def __init__(self, accuracy: np.ndarray, seed: int):
        self.accuracy, self.seed = accuracy, seed

    def stored(self, requests: list[Request]) -> dict[str, Answer]:
        return {}

    def ask(self, requests: list[Request]) -> Sent:
        return Sent(answers={request.key: self._answer(request.content) for request in requests})

    def _answer(self, asked: str) -> Answer:
        text, shots = int(asked.split("\n")[0].split()[1]), SHOTS.index(asked.count("Output:") - 1)
        word = asked.split("Input: ")[-1].split("\n")[0]
        rng = Random(f"{self.seed}/{word}/{text}/{shots}")
        return Answer(word + word if rng.random() < self.accuracy[text, shots] else "no", False, "stop", 1, 1)


def accuracies(rng: np.random.Generator, of_texts: float, of_shots: float, n_texts: int = 8) -> np.ndarray:
    base = rng.choice([-1.0, 0.5, 2.5])
    texts = rng.normal(-0.6, of_texts, (n_texts, 1))
    texts[0] = rng.normal(0.0, of_texts)
    shots = np.array([[0.0, *rng.normal(0.0, of_shots, len(SHOTS) - 1)]])
    return 1 / (1 + np.exp(-(base + texts + shots + rng.normal(0, 0.3, (n_texts, len(SHOTS))))))


def gain(accuracy: np.ndarray, seed: int) -> float:
    examples = [Example(f"w{i}", f"w{i}w{i}") for i in range(97)]
    task = Task("double", "f", "", (), tuple(examples[1:]), (), tuple(examples[:1]))
    arms = {"double": [Arm(f"text {i}") for i in range(len(accuracy))]}
    [found] = Optimizer(SimulatedModel(accuracy, seed), OptimizeChoices(shots=SHOTS)).run(arms, [task]).tasks
    return float(accuracy[int(found.text.split()[1]), SHOTS.index(len(found.shown))] - accuracy[0, 0])


def main(n: AtLeast1 = 200) -> None:
    """Print mean gains over `n` simulated tasks of each kind."""
    for kind, spreads in SPREADS.items():
        rng = np.random.default_rng(0)
        tasks = [accuracies(rng, *spreads) for _ in range(n)]
        halving = [gain(accuracy, i) for i, accuracy in enumerate(tasks)]
        with patch.object(optimizing, "n_rounds", lambda n_arms: 1):  # all requests in the first round
            alike = [gain(accuracy, i) for i, accuracy in enumerate(tasks)]
        best = fmean(float(accuracy.max() - accuracy[0, 0]) for accuracy in tasks)
        print(f"{kind}: gain {fmean(halving):.3f}, all alike {fmean(alike):.3f}, at best {best:.3f}")
        print(f"  halving less all alike: {mean_interval(np.subtract(halving, alike))}", flush=True)


if __name__ == "__main__":
    run_script(main)
