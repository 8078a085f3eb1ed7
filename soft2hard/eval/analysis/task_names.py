"""The tasks of soft prompts by the names of their files and folders, where nothing else says them."""

import re
from collections import defaultdict
from collections.abc import Collection, Sequence
from pathlib import Path

GENERIC = frozenset(
    "adapter adapter_model best checkpoint embeddings final last model prompt prompt_embeddings prompts run runs seed"
    " soft_prompt softprompt step tuning".split()
)
"""Names that say what a file is or which run it is of, and no task: its folder's name is asked then."""

_COUNTED = re.compile(r"(?:[-_. ]+|^)(?:seed|run|tuning|checkpoint|step)[-_. #]*\d+$", re.IGNORECASE)
_NUMBERED = re.compile(r"[-_. #]+(\d+)$")


def tasks_of_names(paths: Sequence[Path], known: Collection[str] = ()) -> list[str]:
    """For each file or adapter folder the name of its task; `known` are names of tasks that there are.

    The name without its suffix and without the word and number of a run that it ends in: 'rte_seed0.npy' is of 'rte'.
    A number alone is a run's where all numbers of the name in its folder count up from 0 or 1: 'rte-0.npy' and
    'rte-1.npy' are of 'rte', 'sst-2.npy' and 'sst-5.npy' of 'sst-2' and 'sst-5'. Where the rest is `GENERIC` or
    nothing, the folder says it: 'rte/seed0.npy' and 'rte/checkpoint-100' are of 'rte'.
    """
    whole = [path.resolve() for path in paths]
    names = _reduced([(path, path.name if path.is_dir() else path.stem) for path in whole], known)
    open_ = [i for i, name in enumerate(names) if _says_nothing(name)]
    if open_:
        folders = [whole[i].parent for i in open_]
        for i, name in zip(open_, _of_folders(folders, known), strict=True):
            names[i] = name or whole[i].stem
    return names


def _of_folders(folders: Sequence[Path], known: Collection[str], n_above: int = 1) -> list[str]:
    """Empty where neither the folder nor the one above says anything."""
    distinct = list(dict.fromkeys(folders))
    found = dict(zip(distinct, _reduced([(folder, folder.name) for folder in distinct], known), strict=True))
    mute = [folder for folder in distinct if _says_nothing(found[folder])]
    above = _of_folders([folder.parent for folder in mute], known, n_above - 1) if n_above else [""] * len(mute)
    found |= zip(mute, above, strict=True)
    return [found[folder] for folder in folders]


def _reduced(named: Sequence[tuple[Path, str]], known: Collection[str]) -> list[str]:
    """Names without the runs' words and numbers; names of known tasks as they are."""
    counts: dict[tuple[Path, str], set[int]] = defaultdict(set)
    for path, name in named:
        if match := _NUMBERED.search(name):
            counts[path.parent, name[: match.start()]].add(int(match[1]))
    return [_without_run(path, name, counts, known) for path, name in named]


def _without_run(path: Path, name: str, counts: dict[tuple[Path, str], set[int]], known: Collection[str]) -> str:
    if name in known:
        return name
    if counted := _COUNTED.search(name):
        return name[: counted.start()]
    if numbered := _NUMBERED.search(name):
        rest = name[: numbered.start()]
        numbers = counts[path.parent, rest]
        counts_up = numbers in ({*range(len(numbers))}, {*range(1, len(numbers) + 1)})
        return rest if rest in known or counts_up or _says_nothing(rest) else name
    return name


def _says_nothing(name: str) -> bool:
    plain = re.sub(r"[-. ]+", "_", name.casefold()).strip("_")
    return not plain or plain in GENERIC or plain.isdigit()
