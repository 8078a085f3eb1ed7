"""InSPEcT over all layer pairs: soft2hard's batches with a cache, against one pair after another without one.

    python benchmarks/inspect_speed.py

Both write down what the subject says of the same soft prompts, patched from every source layer into every target layer
of the same target prompt, under the same greedy search with the same stops. The other way is that of InSPEcT's
published code (one soft prompt, one pair, and the whole sequence anew for every token), made as cheap as it can be
without changing the way: the soft prompt's hidden states are computed once for all its pairs, attention maps and other
hidden states are not kept, and logits are computed at the last position alone. Outputs are compared token for token.
Loading the model is not timed. Like the published code, both write --max-new-tokens for every pair; with --stops both
end where the method ends, after a few tokens on the embedded subject, and there is less for a cache to save.
"""

import json
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial

import torch
import transformers

from soft2hard.checkpoints import embedded_path
from soft2hard.cli.common import AtLeast1
from soft2hard.data_gen.dods.lexical import LexicalDoD
from soft2hard.errors import UserError, run_script
from soft2hard.eval.methods.inspect_patching import chosen, demonstration, encode_target, few_shot_target, stop_ids
from soft2hard.lm.patching import CACHE_TOKENS, PatchedPrompt, Patcher, hooked, put
from soft2hard.lm.subject import Subject
from soft2hard.prompts.soft_prompt import SoftPrompt

Written = list[list[list[int]]]
"""Tokens by soft prompt and pair."""


@dataclass(frozen=True)
class Run:
    """What one way of generating did."""

    seconds: float
    """Wall time."""
    cpu_seconds: float
    """Processor time of this process, which other processes on the machine do not add to."""
    written: Written
    n_read: int
    """Positions that went through the model."""


@torch.no_grad()
def one_after_another(patcher: Patcher, prompts: Sequence[PatchedPrompt], limit_seconds: float) -> Run:
    """Each pair alone, the whole sequence anew for every token, until all are done or the time is up."""
    started = _clocks()
    written: Written = []
    n_read = 0
    for prompt in prompts:
        (states,) = patcher.source_states([prompt.soft_prompt])
        n = prompt.soft_prompt.n_tokens
        n_read += n
        embeddings = torch.cat([prompt.before, prompt.embedded()])
        columns = len(prompt.before) + torch.arange(n, device=embeddings.device)
        written.append([])
        for source, layer in patcher.pairs():
            patch = partial(put, torch.zeros_like(columns), columns, states[source])
            ids, read = _greedy(patcher, embeddings, layer, patch)
            written[-1].append(ids)
            n_read += read
        if _clocks()[0] - started[0] > limit_seconds:
            break
    return Run(*_since(started), written, n_read)


def _greedy(
    patcher: Patcher, embeddings: torch.Tensor, layer: int, patch: Callable[[torch.Tensor], torch.Tensor]
) -> tuple[list[int], int]:
    subject, stops = patcher.subject, set(patcher.stop.tolist())
    rows, ids, n_read, begun = embeddings[None], [], 0, False
    for _ in range(patcher.max_new_tokens):
        with hooked([patcher.blocks[layer]], [patch]):
            hidden = subject.backbone(rows)
        n_read += rows.shape[1]
        ids.append(int(subject.head(hidden[0, -1]).argmax()))
        if begun and ids[-1] in stops:
            break
        begun = begun or ids[-1] not in stops
        rows = torch.cat([rows, subject.embed_ids(torch.tensor([[ids[-1]]], device=rows.device))], dim=1)
    return ids, n_read


def all_at_once(patcher: Patcher, prompts: Sequence[PatchedPrompt]) -> Run:
    """All soft prompts and pairs by the Patcher."""
    before, started = patcher.n_tokens, _clocks()
    written = patcher.write(prompts, patcher.pairs())
    return Run(*_since(started), written, patcher.n_tokens - before)


def _clocks() -> tuple[float, float]:
    return time.perf_counter(), time.process_time()


def _since(started: tuple[float, float]) -> tuple[float, float]:
    wall, cpu = _clocks()
    return wall - started[0], cpu - started[1]


def sample_prompts(subject: Subject, n: int) -> list[SoftPrompt]:
    """The tuned soft prompts that come with the package."""
    folder = embedded_path("soft_prompts")
    files = [record["file"] for record in json.loads((folder / "tasks.json").read_text())][:n]
    prompts = [SoftPrompt.from_pretrained(folder / file) for file in files]
    for prompt in prompts:
        subject.check(prompt)
    if len(prompts) < n:
        raise UserError(f"There are {len(prompts)} sample soft prompts.", "Ask for no more.")
    return prompts


def main(
    *,
    subject: str = "embedded",
    n_prompts: AtLeast1 = 16,
    n_demonstrations: AtLeast1 = 3,
    max_new_tokens: AtLeast1 = 60,
    batch_tokens: AtLeast1 = CACHE_TOKENS,
    stops: bool = False,
    limit_seconds: float = 300.0,
    device: str = "cpu",
) -> None:
    """Describe the same soft prompts both ways in one run and print the ratio of their times.

    Args:
        subject: Subject of the sample soft prompts: 'embedded', a name or a path.
        n_prompts: Soft prompts, of those that come with the package.
        n_demonstrations: Descriptions of validation tasks in the target prompt.
        max_new_tokens: Tokens a description may have.
        batch_tokens: Tokens in the cache of a batch of ours.
        stops: End descriptions at EOS or a full stop, as the method does; the published code writes on and
            cuts.
        limit_seconds: Time after which the other way starts no further prompt.
        device: Device of both, such as cpu or cuda.
    """
    model = Subject.from_pretrained(subject, device=device, dtype=torch.float32)
    tasks = [demonstration(task, "repeated") for task in LexicalDoD().tasks("validation", 64)]
    target = few_shot_target(chosen(tasks, n_demonstrations, 0), "")
    prompts = [encode_target(model, prompt, target, "word") for prompt in sample_prompts(model, n_prompts)]
    patcher = Patcher(model, stop_ids(model) if stops else [], max_new_tokens, batch_tokens)
    place = torch.cuda.get_device_name() if device.startswith("cuda") else f"{torch.get_num_threads()} threads"
    print(f"torch {torch.__version__}, transformers {transformers.__version__}; {device}, {place}")
    print(
        f"{n_prompts} soft prompts, {len(patcher.pairs())} pairs, "
        f"{len(prompts[0].before)} tokens before the placeholders"
    )

    patcher.write(prompts[:1], patcher.pairs()[:2])  # not timed: first passes are slow
    ours = all_at_once(patcher, prompts)
    other = one_after_another(patcher, prompts, limit_seconds)
    report(ours, other, len(prompts))


def report(ours: Run, other: Run, n_prompts: int) -> None:
    """Times, their ratio, and where it came from; fails where the outputs differ."""
    done = len(other.written)
    differing = sum(a != b for a, b in zip(sum(ours.written[:done], []), sum(other.written, []), strict=True))
    runs = (("soft2hard", ours, n_prompts), ("one by one, no cache", other, done))
    print(f"\n{'':<22} seconds  CPU seconds  seconds/prompt  positions/prompt")
    for name, run, n in runs:
        print(
            f"{name:<22} {run.seconds:7.1f}  {run.cpu_seconds:11.1f}  {run.seconds / n:14.3f}  {run.n_read / n:16.0f}"
        )
    wall, cpu, fewer = (
        getattr(other, what) / done / (getattr(ours, what) / n_prompts) for what in ("seconds", "cpu_seconds", "n_read")
    )
    print(
        f"\n{wall:.1f} times as fast by the clock, {cpu:.1f} times less processor time, over {done} of {n_prompts} soft"
        f" prompts: {fewer:.1f} times fewer positions (the cache), {wall / fewer:.1f} times as many positions a second"
        " (batches)."
    )
    n_rows = sum(map(len, other.written))
    if differing:
        raise UserError(
            f"{differing} of {n_rows} outputs differ.", "One of the two ways is wrong: do not use the ratio."
        )
    print(f"All {n_rows} outputs are the same, token for token.")


if __name__ == "__main__":
    run_script(main)
