"""What is lost and paid twice when `optimize` is killed again and again, on a server that fails at random.

    python benchmarks/optimize_kill.py

Eight tasks with six candidates each, on a server on loopback that answers one request in five with a fault. One run
goes through undisturbed. Another is killed (SIGKILL) at random moments and run to the end: it must find the same
prompts with the same scores, every answer that the server gave must be in the ledger, and no more may be paid twice
than was out.
"""

import os
import random
import sys
import tempfile
from pathlib import Path

from soft2hard.errors import run_script

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

from benchmarks.killing import in_process, killed_and_run_again
from soft2hard.api.asking import Asker
from soft2hard.api.client import Patience
from soft2hard.api.ledger import Ledger
from soft2hard.api.prices import read_prices
from soft2hard.api.requests import ApiModel
from soft2hard.data_gen.tasks import Example, Task
from soft2hard.eval.transfer.optimized import Arm, Optimization
from soft2hard.eval.transfer.optimizing import OptimizeChoices, Optimizer
from tests.fault_server import KEY, FaultServer


def tasks(n: int) -> list[Task]:
    """Tasks that write each word twice."""
    made = []
    for number in range(n):
        examples = [Example(f"t{number}w{i}", f"t{number}w{i}" * 2) for i in range(60)]
        made.append(Task(f"task{number}", "f", "", (), tuple(examples[20:]), (), tuple(examples[:20])))
    return made


def answer(text: str) -> str:
    """Right the more often, the higher the number in the text."""
    word, quality = text.split("Input:")[-1].split()[0], int(text.split("quality ")[1].split(".")[0])
    return f" {word * 2}" if random.Random(f"{word}/{quality}").random() < quality / 6 else " no"


def optimize(url: str, folder: Path, concurrency: int, n_tasks: int) -> None:
    """The process that is killed."""
    patience = Patience(attempts=12, timeout=30.0, first_wait=0.05, longest_wait=1.0)
    asker = Asker(ApiModel("m", url), folder / "ledger.sqlite", read_prices(), concurrency, patience)
    drawn = tasks(n_tasks)
    candidates = {task.name: [Arm(f"Of quality {q}.") for q in (1, 4, 2, 6, 3, 5)] for task in drawn}
    Optimizer(asker, OptimizeChoices(shots=(0, 4))).run(candidates, drawn).save(folder / "best.json")


def main(*, kills: int = 10, concurrency: int = 16, fault_rate: float = 0.2, n_tasks: int = 8, seed: int = 0) -> None:
    """Kill, rerun, and count.

    Args:
        kills: Times the process is killed.
        concurrency: Requests out at once.
        fault_rate: Share of requests that meet a fault.
        n_tasks: Tasks that are optimised.
        seed: Of faults and moments.
    """
    os.environ["OPENAI_API_KEY"] = KEY
    rng, serving = random.Random(seed), {"latency": 0.03, "fault_rate": fault_rate, "answer": answer}
    with tempfile.TemporaryDirectory() as name:
        whole, killed = Path(name) / "whole", Path(name) / "killed"
        whole.mkdir(), killed.mkdir()
        with FaultServer(seed=seed, **serving) as server:
            in_process(optimize, server.url, whole, concurrency, n_tasks).join()
            n_requests = len(server.paid)
        moments = sorted(rng.sample(range(1, n_requests), kills))
        with FaultServer(seed=seed + 1, **serving) as server:
            killing = killed_and_run_again(server, moments, optimize, server.url, killed, concurrency, n_tasks)
            with Ledger(killed / "ledger.sqlite") as book:
                stored = book.rows("SELECT count(*) FROM answer")[0][0]
            lost = len(server.paid) - stored
        results = [Optimization.load(folder / "best.json").tasks for folder in (whole, killed)]
    same = [(a.prompt, a.judged) == (b.prompt, b.judged) for a, b in zip(*results, strict=True)]
    print(f"requests {n_requests}, {killing.text}")
    print(f"answers lost {lost}")
    out = f"at most {kills * concurrency}: concurrency at each kill; at the server {killing.in_flight}"
    print(f"paid twice {killing.paid_twice} ({out})")
    print(f"tasks with the same prompt and score as undisturbed: {sum(same)} of {len(same)}")


if __name__ == "__main__":
    run_script(main)
