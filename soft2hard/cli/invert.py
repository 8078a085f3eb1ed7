"""soft2hard invert: a hard prompt that says what images show, as a CLIP sees them."""

import json
from pathlib import Path
from typing import Annotated, Literal

from cyclopts import Parameter

from soft2hard.cli.common import Output, parsed_pairs, progress_bar, quiet, result_stream
from soft2hard.errors import UserError
from soft2hard.eval.inversion.settings import PezInversion, PinInversion
from soft2hard.settings import checked

SCHEMA_VERSION = 1
"""Of the JSON document."""
_OPTIONS = {"pez": PezInversion, "pin": PinInversion}


def invert(
    images: list[Path],
    /,
    *,
    clip: str,
    method: Annotated[Literal["pez", "pin"], Parameter(show_choices=True)] = "pez",
    options: Annotated[list[str] | None, Parameter(name="--option")] = None,
    together: Annotated[bool, Parameter(negative=())] = False,
    seed: int = 0,
    device: str = "auto",
    output: Output | None = None,
) -> None:
    """Find the text that is nearest to images in the space of a CLIP (textual inversion), as JSON.

    **Examples:** `soft2hard invert photo.jpg --clip openai/clip-vit-base-patch32`

    `soft2hard invert *.png --clip models/clip --method pin --option policy=models/opt-350m --option steps=2000`

    Args:
        images: Image files that Pillow reads; each gets a prompt of its own.
        clip: The CLIP: a folder, or a name in the local cache or on the hub.
        method: pez: descent on tokens by the gradient of the similarity; pin: a policy language model that writes
            prompts and learns from the similarity, without gradients of the CLIP.
        options: NAME=VALUE of the method, repeatable. pez: n_tokens, steps, lr, weight_decay, restarts, eval_every;
            pin: n_tokens, steps, batch, k, policy, reward_scale, lr, hidden, polyak, reverse, start, clip, eval_every
            (docs/evaluation.md).
        together: One prompt for all images, by its mean similarity with them.
        seed: Seed of all that is random.
        device: Where the CLIP runs: cpu, cuda, cuda:1, ..., or auto.
        output: Write to this file instead of the terminal.
    """
    chosen = checked(_OPTIONS[method], parsed_pairs(options or [], "--option"), "--option")
    if not images:
        raise UserError("No image is given.", "Name image files.")
    with result_stream(output, images) as write:
        quiet()
        from soft2hard.eval.inversion.search import invert as search
        from soft2hard.lm.clip import Clip, need_pillow

        need_pillow()
        model = Clip.from_pretrained(clip, device)
        directions = model.images(images)
        groups = [images] if together else [[image] for image in images]
        targets = [directions] if together else list(directions.split(1))
        with progress_bar() as progress:
            bar = progress.add_task("Steps", total=None)
            found = search(model, targets, chosen, seed, lambda n, of: progress.update(bar, completed=n, total=of))
        each = [
            {
                "images": [str(path) for path in group],
                "prompt": one.prompt,
                "similarity": one.similarity,
                "curve": one.curve,
            }
            for group, one in zip(groups, found, strict=True)
        ]
        document = {"schema_version": SCHEMA_VERSION, "clip": clip, "method": method, "options": vars(chosen)}
        write(json.dumps(document | {"seed": seed, "inversions": each}, indent=2, ensure_ascii=False))
