"""A follower: a language model that was taught, under small low-rank adapters, to do what an instruction says.

A small subject hardly does what texts say, so what it does under a text tells little of whether it is the right one.
A follower makes those outputs likely that fit the text, whichever model they are of: p(text | what is seen) is in
proportion to p(text) p(outputs | text, inputs), the noisy channel of Brown et al. 1993, with the translator as p(text)
and the follower as the channel. It is the translator's own subject, taught on instructions, inputs and outputs of
training tasks.
"""

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from copy import deepcopy
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from random import Random

import torch
from jaxtyping import Float
from safetensors.torch import load_file, save_file
from torch import Tensor, nn
from transformers.pytorch_utils import Conv1D

from soft2hard.data_gen.tasks import Example, Task
from soft2hard.errors import UserError, first_line
from soft2hard.lm.loading import READING_ERRORS
from soft2hard.lm.subject import Query, Subject
from soft2hard.prompts.template import Template
from soft2hard.storage.files import atomic_write

FOLLOWER_FILE = "follower.safetensors"
_MOST_PAIRS = 8
"""What texts are weighed by, at most: more cost more than they tell."""
_TEXT_TOKENS = 128
"""Room that pairs leave for a text; half the context where that is less."""
_NO_ROOM = -1e4  # nats
_SCALE = 32.0
"""Of the product of the factors, over their rank."""
_ROWS = 16
_WARMUP = 10  # steps
_MOST_DRAWS = 100  # for each example of a step, before it is said that none fits
_SAVED_EVERY = 0.1
_DOWN, _UP = ".down", ".up"

_LINEAR = (nn.Linear, Conv1D)  # the latter of the GPT-2 family, whose weights are (n_in, n_out)

Adapters = Mapping[str, Tensor]
"""Two factors for each linear layer, `LAYER.down` (rank, n_in) and `LAYER.up` (n_out, rank), whose product is added to
its weights."""


@dataclass(frozen=True)
class FollowerTraining:
    """How a follower is taught."""

    steps: int = 200
    rank: int = 2
    batch_size: int = 64
    """Examples a step, each of a task of its own."""
    lr: float = 5e-4
    seed: int = 0


class Follower:
    """What a model that follows instructions makes of texts."""

    def __init__(self, subject: Subject, adapters: Adapters):
        self._of, self._adapters = subject, adapters

    @cached_property
    def subject(self) -> Subject:
        """The taught model; a copy of the subject, made when it is first asked for."""
        return taught(self._of, self._adapters)

    def fitting(self, pairs: Sequence[Example]) -> tuple[Example, ...]:
        """The pairs that texts are weighed by: the first eight that leave room for a text in the model's context. They
        depend on no text, so that all are weighed by the same."""
        room, subject = self.subject.context_length, self.subject
        if room is not None:
            room -= len(subject.leading_ids) + min(_TEXT_TOKENS, room // 2)
        return tuple(one for one in pairs if room is None or _length(subject, one) <= room)[:_MOST_PAIRS]

    def log_likelihoods(self, texts: Sequence[str], pairs: Sequence[Example]) -> list[float]:
        """The sum of log p(output | text, input) over pairs, as `fitting` gives them, in nats, of each text. Of one
        that has no room beside the longest pair it is far below all others."""
        subject = self.subject
        longest = len(subject.leading_ids) + max((_length(subject, one) for one in pairs), default=0)
        room = None if subject.context_length is None else subject.context_length - longest
        fitting = [text for text in dict.fromkeys(texts) if room is None or len(subject.prompt_ids(text)) <= room]
        scores = iter(subject.target_scores([Query(text, one.input, one.output) for text in fitting for one in pairs]))
        found = {text: sum(next(scores).log_likelihood for _ in pairs) for text in fitting}
        return [float(found.get(text, _NO_ROOM)) for text in texts]


def _length(subject: Subject, pair: Example) -> int:
    encoded = subject.encode_example(pair.input, pair.output, "hard")
    return len(encoded.body) + len(encoded.output)


def taught(subject: Subject, adapters: Adapters) -> Subject:
    """A copy of the subject whose weights have what was learned added to them, under the plain template.

    Raises UserError where the adapters are of other layers.
    """
    model = deepcopy(subject.model)
    layers = dict(model.named_modules())
    for name in sorted({name.removesuffix(_DOWN) for name in adapters if name.endswith(_DOWN)}):
        layer, down, up = layers.get(name), adapters[name + _DOWN], adapters.get(name + _UP)
        fits = isinstance(layer, _LINEAR) and up is not None and _sizes(layer) == (down.shape[1], len(up))
        if not fits or not layer.weight.is_floating_point():
            raise UserError(
                f"The follower's adapters do not fit the layer '{name}' of '{subject.name}'.",
                "Load the subject without quantization, or train the translator again.",
            )
        with torch.no_grad():
            added = up.to(layer.weight.device, torch.float32) @ down.to(layer.weight.device, torch.float32)
            layer.weight.copy_(layer.weight.float() + (added.T if isinstance(layer, Conv1D) else added))
    return Subject(model, subject.tokenizer, name=subject.name, template=Template(), loading=subject.loading)


def read_follower(folder: Path) -> dict[str, Tensor] | None:
    """The adapters in a translator's folder; None where there are none. Raises UserError for a damaged file."""
    if not (path := folder / FOLLOWER_FILE).is_file():
        return None
    try:
        return load_file(path)
    except READING_ERRORS as error:
        raise UserError(
            f"The follower in '{path}' cannot be read: {first_line(error)}.", "Copy the translator again."
        ) from error


# --- teaching -----------------------------------------------------------------------------------


def check_teachable(subject: Subject, tasks: Sequence[Task]) -> None:
    """Raise UserError where nothing could be taught, which is better known before a translator was trained."""
    _new_adapters(subject.model, FollowerTraining(rank=1))
    _drawn(subject, tasks, Random(0), 1)


def teach(
    subject: Subject,
    tasks: Sequence[Task],
    config: FollowerTraining,
    path: Path,
    log: Callable[[int, float], None] = lambda step, loss: None,
) -> None:
    """Teach a follower on examples of tasks behind one of their phrasings, and save its adapters to `path`.

    Every step draws tasks anew. A killed teaching goes on where it last saved; `log` hears each step's loss, in nats a
    token. The loss is of outputs and their end alone, and the learning rate falls to zero.
    """
    model = deepcopy(subject.model).requires_grad_(False)
    plain = Subject(model, subject.tokenizer, name=subject.name, template=Template(), loading=subject.loading)
    adapters = _new_adapters(model, config)
    optimizer = torch.optim.AdamW(list(adapters.values()), lr=config.lr, weight_decay=0.0)
    kept, begin = path.with_suffix(".part"), 0
    if kept.exists():
        state = torch.load(kept, map_location="cpu", weights_only=True)
        begin = state["step"]
        for name, factor in adapters.items():
            factor.data.copy_(state["adapters"][name])
        optimizer.load_state_dict(state["optimizer"])
    with _adapted(model, adapters, config.rank):
        for step in range(begin, config.steps):
            for group in optimizer.param_groups:
                group["lr"] = config.lr * min(1.0, (step + 1) / _WARMUP) * (1 - step / config.steps)
            loss = _gradients(plain, _drawn(plain, tasks, Random(f"follower/{config.seed}/{step}"), config.batch_size))
            nn.utils.clip_grad_norm_(list(adapters.values()), 1.0)
            optimizer.step()
            optimizer.zero_grad()
            log(step + 1, loss)
            if (step + 1) % max(1, round(_SAVED_EVERY * config.steps)) == 0:
                state = {"step": step + 1, "adapters": adapters, "optimizer": optimizer.state_dict()}
                with atomic_write(kept) as temporary:
                    torch.save(state, temporary)
    found = {name: factor.detach().to("cpu", torch.bfloat16).contiguous() for name, factor in adapters.items()}
    scale = _SCALE / config.rank
    with atomic_write(path) as temporary:
        save_file({n: f * scale if n.endswith(_UP) else f for n, f in found.items()}, temporary)
    kept.unlink(missing_ok=True)


def _sizes(layer: nn.Module) -> tuple[int, int]:
    """Numbers that a linear layer reads and writes."""
    n_out, n_in = layer.weight.shape
    return (n_out, n_in) if isinstance(layer, Conv1D) else (n_in, n_out)


def _new_adapters(model: nn.Module, config: FollowerTraining) -> dict[str, nn.Parameter]:
    """Factors for all linear layers of the blocks, whose products are zero yet; UserError where there are none."""
    generator = torch.Generator().manual_seed(config.seed)
    head, found = model.get_output_embeddings(), {}
    for name, layer in model.named_modules():
        if isinstance(layer, _LINEAR) and layer is not head:
            n_in, n_out = _sizes(layer)
            down = torch.empty(config.rank, n_in)
            nn.init.kaiming_uniform_(down, a=5**0.5, generator=generator)
            device = layer.weight.device
            found[name + _DOWN] = nn.Parameter(down.to(device))
            found[name + _UP] = nn.Parameter(torch.zeros(n_out, config.rank, device=device))
    if not found:
        raise UserError("The subject has no linear layers that a follower could learn in.", "Set follower_steps to 0.")
    return found


@contextmanager
def _adapted(model: nn.Module, adapters: Mapping[str, nn.Parameter], rank: int) -> Iterator[None]:
    """Within, each layer adds what its factors make of its input."""

    def adding(down: nn.Parameter, up: nn.Parameter) -> Callable[[nn.Module, tuple[Tensor, ...], Tensor], Tensor]:
        def add(_: nn.Module, read: tuple[Tensor, ...], written: Tensor) -> Tensor:
            low = nn.functional.linear(read[0], down.to(written.dtype))
            return written + nn.functional.linear(low, up.to(written.dtype)) * (_SCALE / rank)

        return add

    layers = dict(model.named_modules())
    names = [name.removesuffix(_DOWN) for name in adapters if name.endswith(_DOWN)]
    hooks = [layers[n].register_forward_hook(adding(adapters[n + _DOWN], adapters[n + _UP])) for n in names]
    try:
        yield
    finally:
        for hook in hooks:
            hook.remove()


Row = tuple[list[int], list[int]]
"""Token ids of what is read, and of the output."""


def _drawn(subject: Subject, tasks: Sequence[Task], rng: Random, n: int) -> list[Row]:
    """Examples of tasks that are drawn, behind one of their phrasings, those of like length together. Raises UserError
    where hardly any fits the context."""
    rows: list[Row] = []
    longest = subject.context_length or 10**9
    for _ in range(_MOST_DRAWS * n):
        task = rng.choice(tasks)
        text, example = rng.choice(task.phrasings), rng.choice(task.train)
        encoded = subject.encode_example(example.input, example.output, "hard")
        row = ([*subject.leading_ids, *subject.prompt_ids(text), *encoded.body], list(encoded.output))
        if len(row[0]) + len(row[1]) <= longest:
            rows.append(row)
        if len(rows) == n:
            return sorted(rows, key=lambda row: len(row[0]) + len(row[1]))
    raise UserError(
        f"Hardly any example fits the context of '{subject.name}' ({longest} tokens): no follower can learn.",
        "Set follower_steps to 0, or train on tasks with shorter examples.",
    )


def _gradients(subject: Subject, rows: Sequence[Row]) -> float:
    """The loss a token of a step; gradients of it are added up over parts."""
    n_tokens, total = sum(len(output) for _, output in rows), 0.0
    for start in range(0, len(rows), _ROWS):
        loss = _loss(subject, rows[start : start + _ROWS]) / n_tokens
        loss.backward()
        total += loss.item()
    return total


def _loss(subject: Subject, rows: Sequence[Row]) -> Float[Tensor, ""]:
    """Minus the sum of log p(token) over outputs."""
    ids = nn.utils.rnn.pad_sequence([torch.tensor([*read, *output]) for read, output in rows], batch_first=True)
    mask = nn.utils.rnn.pad_sequence([torch.ones(len(r) + len(o), dtype=torch.long) for r, o in rows], batch_first=True)
    wanted = torch.zeros_like(mask, dtype=torch.bool)
    for i, (read, output) in enumerate(rows):
        wanted[i, len(read) : len(read) + len(output)] = True
    ids, mask, wanted = (tensor.to(subject.device) for tensor in (ids, mask, wanted))
    hidden = subject.model.base_model(input_ids=ids, attention_mask=mask).last_hidden_state[:, :-1][wanted[:, 1:]]
    return nn.functional.cross_entropy(subject.head(hidden).float(), ids[:, 1:][wanted[:, 1:]], reduction="sum")
