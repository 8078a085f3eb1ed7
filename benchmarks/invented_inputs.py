"""Inputs that a subject invents: with a key-value cache, against the whole text read again for each token.

    python benchmarks/invented_inputs.py

Both draw as many inputs under the same texts by the same random numbers, as `translate` does where no examples are
given. The other way is one batch whose rows all wait until the last has closed. Rows are compared token for token up
to where they close; loading the model is not timed.
"""

import time
from collections.abc import Callable
from dataclasses import dataclass

import torch
import transformers

from soft2hard.cli.common import AtLeast1
from soft2hard.compute import metering
from soft2hard.data_gen.dods.lexical import LexicalDoD
from soft2hard.errors import UserError, run_script
from soft2hard.lm.batching import pad_rows, positions
from soft2hard.lm.subject import Subject
from soft2hard.translator.probing import MAX_INPUT_TOKENS, Closing, continued, drawn, own_uniforms

Written = list[list[int]]
"""The tokens of each row, those that close it included."""
MOST_DIFFERENT = 0.01
"""Share of rows that may differ: rounding decides where a random number meets the border between two tokens."""


@dataclass(frozen=True)
class Run:
    """What one way of drawing did."""

    seconds: float
    """Wall time."""
    cpu_seconds: float
    """Processor time of this process, which other processes on the machine do not add to."""
    written: Written
    n_read: int
    """Tokens read, those of rows that wait for others left out."""


@torch.no_grad()
def read_again(subject: Subject, prompts: list[str], uniforms: torch.Tensor, closing: Closing) -> Written:
    """All rows at once, each from its beginning for every token, until all have closed."""
    begun = {prompt: subject.begun_embeddings(prompt) for prompt in dict.fromkeys(prompts)}
    embeddings, mask = pad_rows([begun[prompt] for prompt in prompts], "left")
    written: Written = [[] for _ in prompts]
    is_open = [True] * len(prompts)
    for step in range(uniforms.shape[1]):
        metering.count(0, sum(len(begun[p]) + step for p, going in zip(prompts, is_open, strict=True) if going))
        hidden = subject.backbone(embeddings, mask, positions(mask))[:, -1]
        new = drawn(subject.head(hidden), uniforms[:, step])
        for i, token in enumerate(new.tolist()):
            if is_open[i]:
                written[i].append(token)
                is_open[i] = not closing.ends(written[i])
        if not any(is_open):
            break
        embeddings = torch.cat([embeddings, subject.embed_ids(new[:, None])], 1)
        mask = torch.cat([mask, torch.ones_like(mask[:, :1])], 1)
    return written


def timed(draw: Callable[[], Written]) -> Run:
    """The clocks are read and the tokens counted while it draws."""
    wall, cpu = time.perf_counter(), time.process_time()
    with metering.listening() as heard:
        written = draw()
    return Run(time.perf_counter() - wall, time.process_time() - cpu, written, heard.total.tokens)


def main(
    *,
    subject: str = "embedded",
    n_prompts: AtLeast1 = 8,
    n_guesses: AtLeast1 = 4,
    n_inputs: AtLeast1 = 48,
    device: str = "cpu",
) -> None:
    """Draw the same inputs both ways in one run and print the ratio of their times.

    Args:
        subject: A causal subject: 'embedded', a name or a folder.
        n_prompts: Soft prompts that inputs would be invented for.
        n_guesses: Texts for each of them, which take turns: instructions of the lexical test tasks.
        n_inputs: Inputs for each of them.
        device: Device of both, such as cpu or cuda.
    """
    model = Subject.from_pretrained(subject, device=device, dtype=torch.float32)
    texts = [task.instruction for task in LexicalDoD().tasks("test", n_prompts * n_guesses)]
    of_each = [texts[i * n_guesses : (i + 1) * n_guesses] for i in range(n_prompts)]
    prompts = [guesses[turn % len(guesses)] for guesses in of_each for turn in range(n_inputs)]
    numbers = [own_uniforms(n_inputs, MAX_INPUT_TOKENS, 0, *guesses) for guesses in of_each]
    uniforms, closing = torch.cat(numbers).to(model.device), Closing(model)
    place = torch.cuda.get_device_name() if device.startswith("cuda") else f"{torch.get_num_threads()} threads"
    print(f"torch {torch.__version__}, transformers {transformers.__version__}; {device}, {place}; {subject}")
    print(f"{n_prompts} soft prompts with {n_guesses} texts and {n_inputs} inputs each: {len(prompts)} rows")

    for way in (continued, read_again):  # not timed: first passes are slow
        way(model, prompts[:4], uniforms[:4, :2], closing)
    ours = timed(lambda: continued(model, prompts, uniforms, closing))
    other = timed(lambda: read_again(model, prompts, uniforms, closing))
    report(ours, other)


def report(ours: Run, other: Run) -> None:
    """Times and their ratio; fails where more rows differ than rounding explains."""
    print(f"\n{'':<18} seconds  CPU seconds  tokens read")
    for name, run in (("with a cache", ours), ("all read again", other)):
        print(f"{name:<18} {run.seconds:7.2f}  {run.cpu_seconds:11.2f}  {run.n_read:11,}")
    wall, cpu, fewer = (getattr(other, what) / getattr(ours, what) for what in ("seconds", "cpu_seconds", "n_read"))
    print(
        f"\n{wall:.1f} times as fast by the clock, {cpu:.1f} times less processor time, {fewer:.1f} times fewer tokens."
    )
    differing = sum(a != b for a, b in zip(ours.written, other.written, strict=True))
    print(f"{differing} of {len(other.written)} rows differ.")
    if differing > MOST_DIFFERENT * len(other.written):
        raise UserError("More rows differ than rounding explains.", "One of the ways is wrong: do not use the ratio.")


if __name__ == "__main__":
    run_script(main)
