"""The transfer matrix of soft prompts and tasks: all cells in shared batches against one cell after another.

    python benchmarks/transfer_matrix_speed.py

Both give the accuracy of the same soft prompts on the test examples of the same tasks, and cells are compared one by
one. Four other ways are timed, all with one prompt and one task at a time. What people do without this library:

- 'generate, a batch' calls transformers' `generate` on a cell's examples in one batch, the prompt's vectors before
  each;
- 'generate, PEFT' loads the prompt into PEFT's prompt tuning and generates for one example after another.

And the best that we know for one cell, with this library's own subject and the cell's examples in one batch:

- 'scoring' gives the subject the wanted outputs and asks whether each token is the likeliest one (teacher forcing);
- 'generating' has the subject write its answers, with a key-value cache, and compares their tokens.

All generate greedily, as many tokens as the task's longest output has. Loading models is not timed; without a limit of
time all cells are done, else a ratio is of the cells that were.
"""

import copy
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from itertools import takewhile
from typing import Any

import numpy as np
import peft
import torch
import transformers
from jaxtyping import Float
from peft import PeftModel, PromptTuningConfig, get_peft_model

from soft2hard.checkpoints import embedded_path
from soft2hard.cli.common import AtLeast1
from soft2hard.compute import metering
from soft2hard.data_gen.dods.lexical import LexicalDoD
from soft2hard.data_gen.tasks import Task
from soft2hard.errors import UserError, run_script
from soft2hard.eval.analysis.transfer_matrix import transfer_matrix
from soft2hard.lm.batching import pad
from soft2hard.lm.subject import Query, Subject
from soft2hard.prompts.files import find_soft_prompts
from soft2hard.prompts.soft_prompt import Prompt, SoftPrompt

Cell = Callable[[Subject, Prompt, Task], float]


@dataclass(frozen=True)
class Run:
    """What one way of filling the matrix did."""

    name: str
    seconds: float
    """Wall time."""
    cpu_seconds: float
    """Processor time of this process, which other processes on the machine do not add to."""
    cells: Float[np.ndarray, "n_rows n_tasks"]
    """Accuracies, without a prompt first; NaN where a cell was not done."""
    n_tokens: int
    """Read by the model; 0 where that is not counted."""

    @property
    def n_cells(self) -> int:
        return int(np.isfinite(self.cells).sum())


def scoring(subject: Subject, prompt: Prompt, task: Task) -> float:
    """A cell by teacher forcing."""
    scores = subject.target_scores([Query(prompt, e.input, e.output) for e in task.test])
    return float(np.mean([score.greedy_match for score in scores]))


def generating(subject: Subject, prompt: Prompt, task: Task) -> float:
    """A cell by writing: as many tokens as the task's longest output has, EOS included."""
    wanted = [subject.encode_output(e.output)[:-1] for e in task.test]
    limit = 1 + max(map(len, wanted))
    written = subject.generate_ids([Query(prompt, e.input) for e in task.test], limit)
    return float(np.mean([a == b for a, b in zip(wanted, written, strict=True)]))


class Generate:
    """Cells by transformers' own `generate`."""

    def __init__(self, subject: Subject, at_once: bool):
        self.at_once = at_once
        # A model of its own: PEFT changes the one that it is given, and our subject runs another attention.
        self.model = type(subject.model).from_pretrained(subject.name, dtype=subject.embedding.dtype)
        self.model = self.model.to(subject.device).eval()
        self.adapters: dict[int, PeftModel] = {}

    def __call__(self, subject: Subject, prompt: Prompt, task: Task) -> float:
        limit = 1 + max(len(subject.encode_output(e.output)) - 1 for e in task.test)
        settings = {
            "max_new_tokens": limit,
            "do_sample": False,
            "eos_token_id": subject.eos_ids,
            "pad_token_id": subject.eos_ids[0],
        }
        bodies = [subject.encode_input(e.input, "none" if prompt is None else "soft").body for e in task.test]
        rows = self._batch(subject, prompt, bodies, settings) if self.at_once else self._peft(prompt, bodies, settings)
        ends = set(subject.eos_ids)
        written = [list(takewhile(lambda token: token not in ends, row)) for row in rows]
        return float(
            np.mean([subject.encode_output(e.output)[:-1] == w for e, w in zip(task.test, written, strict=True)])
        )

    def _batch(
        self, subject: Subject, prompt: Prompt, bodies: list[list[int]], settings: dict[str, Any]
    ) -> list[list[int]]:
        start = subject.prompt_embeddings(prompt)
        ids, mask = pad(bodies, "left", subject.device)
        texts = self.model.get_input_embeddings()(ids)
        # Padding stands first, so the prompt follows it, and then the text.
        rows = [torch.cat([t[~m], start.to(t), t[m]]) for t, m in zip(texts, mask, strict=True)]
        real = torch.stack([torch.cat([m[~m], mask.new_ones(len(start)), m[m]]) for m in mask])
        return self.model.generate(inputs_embeds=torch.stack(rows), attention_mask=real.long(), **settings).tolist()

    def _peft(self, prompt: Prompt, bodies: list[list[int]], settings: dict[str, Any]) -> list[list[int]]:
        found = []
        for body in bodies:
            ids = torch.tensor([body], device=self.model.device)
            given = {"input_ids": ids, "attention_mask": torch.ones_like(ids)} | settings
            written = self._adapter(prompt).generate(**given)
            found.append(written[0, len(body) :].tolist())
        return found

    def _adapter(self, prompt: Prompt) -> torch.nn.Module:
        if prompt is None:
            return self.model
        if prompt.n_tokens not in self.adapters:
            config = PromptTuningConfig(task_type="CAUSAL_LM", num_virtual_tokens=prompt.n_tokens)
            self.adapters[prompt.n_tokens] = get_peft_model(copy.deepcopy(self.model), config).eval()
        adapter = self.adapters[prompt.n_tokens]
        with torch.no_grad():
            adapter.prompt_encoder["default"].embedding.weight.copy_(prompt.embeddings)
        return adapter


def one_after_another(
    name: str, cell: Cell, subject: Subject, prompts: Sequence[Prompt], tasks: Sequence[Task], limit_seconds: float
) -> Run:
    """Cells row by row until all are done or the time is up."""
    cells = np.full((len(prompts), len(tasks)), np.nan)
    started = _clocks()
    with metering.listening() as heard:
        for i, j in np.ndindex(cells.shape):
            if _clocks()[0] - started[0] > limit_seconds:
                break
            cells[i, j] = cell(subject, prompts[i], tasks[j])
    return Run(name, *_since(started), cells, heard.total.tokens)


def all_at_once(
    subject: Subject, prompts: Sequence[SoftPrompt], tasks: Sequence[Task], batch_tokens: int | None
) -> Run:
    """All cells by `transfer_matrix`."""
    started = _clocks()
    with metering.listening() as heard:
        found = transfer_matrix(subject, prompts, tasks, batch_tokens=batch_tokens)
    cells = np.vstack([found.baseline, found.accuracy])
    return Run("soft2hard", *_since(started), cells, heard.total.tokens)


def _clocks() -> tuple[float, float]:
    return time.perf_counter(), time.process_time()


def _since(started: tuple[float, float]) -> tuple[float, float]:
    wall, cpu = _clocks()
    return wall - started[0], cpu - started[1]


def some_prompts(subject: Subject, folder: str, n: int) -> list[SoftPrompt]:
    """The first soft prompts of a folder."""
    prompts = [SoftPrompt.from_pretrained(path) for path in find_soft_prompts([folder])[:n]]
    if len(prompts) < n:
        raise UserError(
            f"There are {len(prompts)} soft prompts in {folder}.", "Ask for no more, or name another folder."
        )
    for prompt in prompts:
        subject.check(prompt)
    return prompts


def main(
    *,
    subject: str = "embedded",
    prompts: str = str(embedded_path("soft_prompts")),
    n_prompts: AtLeast1 = 20,
    n_tasks: AtLeast1 = 50,
    batch_tokens: AtLeast1 | None = None,
    slow: bool = True,
    limit_seconds: float = 600.0,
    device: str = "cpu",
) -> None:
    """Fill the same transfer matrix all ways in one run and print the ratios of their times a cell.

    Args:
        subject: Subject of the soft prompts: 'embedded', a name or a path.
        prompts: Folder of soft prompts; by default those that come with the package.
        n_prompts: Soft prompts, of those in the folder.
        n_tasks: Test tasks of the lexical DoD.
        batch_tokens: Tokens in a batch of ours; by default as suits the device.
        slow: Time the three ways by generation as well.
        limit_seconds: Time after which another way starts no further cell.
        device: Device of all, such as cpu or cuda.
    """
    model = Subject.from_pretrained(subject, device=device, dtype=torch.float32)
    own = some_prompts(model, prompts, n_prompts)
    tasks = list(LexicalDoD().tasks("test", n_tasks))
    place = torch.cuda.get_device_name() if device.startswith("cuda") else f"{torch.get_num_threads()} threads"
    versions = ", ".join(f"{library.__name__} {library.__version__}" for library in (torch, transformers, peft))
    print(f"{versions}; {device}, {place}")
    print(f"{n_prompts} soft prompts and none, {len(tasks)} tasks, {sum(len(task.test) for task in tasks)} examples")

    transfer_matrix(model, own[:1], tasks[:1])  # not timed: first passes are slow
    ours = all_at_once(model, own, tasks, batch_tokens)
    ways: list[tuple[str, Cell]] = [("cells, scoring", scoring)]
    if slow:
        ways += [
            ("cells, generating", generating),
            ("generate, a batch", Generate(model, at_once=True)),
            ("generate, PEFT", Generate(model, at_once=False)),
        ]
    report(ours, [one_after_another(name, cell, model, [None, *own], tasks, limit_seconds) for name, cell in ways])


def report(ours: Run, others: Sequence[Run]) -> None:
    """Times a cell and their ratios; fails where cells differ."""
    print(f"\n{'':<18} seconds  CPU seconds  cells  ms/cell  tokens/cell")
    for run in (ours, *others):
        each, tokens = 1e3 * run.seconds / run.n_cells, run.n_tokens / run.n_cells
        print(
            f"{run.name:<18} {run.seconds:7.1f}  {run.cpu_seconds:11.1f}  {run.n_cells:5}  {each:7.2f}  {tokens:11.1f}"
        )
    for other in others:
        wall, cpu, fewer = (
            (getattr(other, what) / other.n_cells) / (getattr(ours, what) / ours.n_cells)
            for what in ("seconds", "cpu_seconds", "n_tokens")
        )
        tokens = f"; {fewer:.1f} times fewer tokens" if other.n_tokens else ""
        print(
            f"\nAgainst {other.name}: {wall:.1f} times as fast by the clock, {cpu:.1f} times less processor time"
            f"{tokens}."
        )
        done = np.isfinite(other.cells)
        differing = int((ours.cells[done] != other.cells[done]).sum())
        if differing:
            raise UserError(
                f"{differing} of {other.n_cells} cells differ from {other.name}.",
                "One of the two ways is wrong: do not use the ratio.",
            )
        print(f"All {other.n_cells} cells are the same.")


if __name__ == "__main__":
    run_script(main)
