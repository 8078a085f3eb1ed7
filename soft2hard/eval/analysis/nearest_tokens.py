"""The section of extraction: the tokens that each position of a soft prompt resembles, and what stayed of its start."""

import unicodedata
from collections.abc import Sequence
from itertools import cycle, islice
from pathlib import Path

import pandas as pd
import torch
from transformers import PreTrainedTokenizerBase
from transformers.convert_slow_tokenizer import bytes_to_unicode

from soft2hard.data_gen.tasks import Task
from soft2hard.errors import UserError
from soft2hard.eval.analysis.findings import Section, Tables, columns_of, known_mean
from soft2hard.eval.analysis.inputs import Material, Table
from soft2hard.lm.nearest import nearest_rows
from soft2hard.lm.subject import Subject
from soft2hard.prompts.files import read_tensors
from soft2hard.prompts.matrix import as_matrix
from soft2hard.prompts.soft_prompt import SoftPrompt

SPACE = "␣"
"""Stands for a space."""

_TABLES = ("shared.weight", "embed_tokens.weight", "wte.weight", "word_embeddings.weight", "embed_in.weight")
"""How architectures end the name of their input embeddings, in the order in which they are looked for: of models with
an encoder and a decoder, `shared` is the one that both read."""
_WORD_MARKS = ("\u2581", "\u0120")
"""What SentencePiece and byte-level tokenizers write for a space before a word."""
_ESCAPES = {" ": SPACE, "\n": "\\n", "\t": "\\t", "\r": "\\r"}


def extraction_section(material: Material) -> tuple[Section, Tables]:
    """Nearest tokens of every position of every prompt, in the subject's table or in the one given.

    `tokens`: one row for each of the `k` tokens nearest to a position, nearest first, with its cosine (0 for a vector
    without length) and the scripts of its letters; `start` is the token that the position was started from, where that
    is known, and `stayed` says if it is still the nearest. `starts`: for each group of tunings the share of positions
    that stayed, mean over tasks, and the mean cosine of positions with their nearest token.
    """
    source = material.table or material.need_subject("extraction")
    prompts = material.soft_prompts
    starts = [
        start_ids(source, row.init or "", row.n_tokens, material.task_by_name.get(row.task or ""))
        for row in material.prompts
    ]
    rows = nearest_tokens(source, prompts, material.sizes.k, starts)
    names = ["prompt", "group", "task"]
    rows[names] = [(p.name, p.group, p.task) for p in (material.prompts[i] for i in rows.pop("number"))]
    nearest = rows[rows["rank"] == 1]
    groups = []
    for group, own in nearest.groupby("group", sort=False):
        stayed = own["stayed"].astype(float).groupby([own["task"].fillna(""), own["prompt"]], sort=False).mean()
        inits = dict.fromkeys(material.prompts[i].init or "not known" for i in material.of_group(group))
        groups.append(
            {"group": group, "init": ", ".join(inits), "n_prompts": len(material.of_group(group))}
            | columns_of("share_stayed", known_mean(stayed.groupby("task", sort=False).mean()))
            | {"nearest_cosine": own["cosine"].mean()}
        )
    tables = {"tokens": rows[[*names, *(c for c in rows if c not in names)]], "starts": pd.DataFrame(groups)}
    return Section(figures={"k": material.sizes.k, "table": source.name}), tables


def nearest_tokens(
    source: Subject | Table, prompts: Sequence[SoftPrompt], k: int, starts: Sequence[Sequence[int] | None]
) -> pd.DataFrame:
    """The `k` nearest tokens by cosine of every position of every soft prompt, in one product; a row each, with the
    `number` of the soft prompt. `starts[i]` are the tokens that the positions of prompt i were started from.

    A token of a table that is no subject's has no text but its number, such as <17>. Raises UserError for a soft
    prompt of another subject or width, and for more neighbours than tokens.
    """
    table = source.embedding
    for prompt in prompts:
        source.check(prompt)
    if not 1 <= k <= len(table):
        raise UserError(f"There are no {k} nearest of {len(table)} tokens.", "Ask for fewer, and for at least one.")
    found = nearest_rows([prompt.embeddings for prompt in prompts], table, k)
    named = sorted({i for ids, _ in found for i in ids.flatten().tolist()} | {i for some in starts for i in some or ()})
    texts = token_texts(source.tokenizer, named) if isinstance(source, Subject) else [f"<{i}>" for i in named]
    text_of = dict(zip(named, texts, strict=True))
    rows = []
    for number, (prompt, (ids, distances), start) in enumerate(zip(prompts, found, starts, strict=True)):
        began = [None] * prompt.n_tokens
        if start is not None:
            began = torch.cosine_similarity(prompt.embeddings, table[list(start)].float().cpu(), dim=1).tolist()
        for position, near in enumerate(zip(ids.tolist(), (1 - distances).tolist(), strict=True)):
            first = None if start is None else start[position]
            for rank, (token, cosine) in enumerate(zip(*near, strict=True), 1):
                rows.append(
                    {
                        "number": number,
                        "position": position,
                        "rank": rank,
                        "id": token,
                        "token": legible(text_of[token]),
                        "scripts": " ".join(scripts(text_of[token]) if isinstance(source, Subject) else ()),
                        "cosine": cosine,
                        "start": None if first is None else legible(text_of[first]),
                        "start_cosine": began[position],
                        "stayed": None if first is None else first == near[0][0],
                    }
                )
    return pd.DataFrame(rows)


def start_ids(source: Subject | Table, init: str, n_tokens: int, task: Task | None = None) -> list[int] | None:
    """The tokens that a soft prompt was started from, as `Tuning.init` names them (provenance 'init').

    Known of a subject's 'text:...', and of 'labels' and 'instruction' where the task is given and has them; None for
    all others. Too short a text is repeated, too long a one is cut, as tuning does it.
    """
    texts = {"labels": " ".join(task.labels or ()), "instruction": task.instruction} if task else {}
    text = init.removeprefix("text:") if init.startswith("text:") else texts.get(init)
    if not text or not isinstance(source, Subject):
        return None
    return list(islice(cycle(source.tokenizer(text, add_special_tokens=False)["input_ids"]), n_tokens)) or None


def read_embedding_table(path: Path) -> Table:
    """The table of input embeddings in a file of a model's weights, or in one that holds it alone.

    Files are those that soft prompts are read from (.safetensors, .npy, .npz, .pt, .pth, .bin). Where a model scales
    its embeddings (Gemma), the scale is not in its table; it changes no cosine. Raises UserError where there is no such
    table.
    """
    tensors, _ = read_tensors(path)
    named = (name for ending in _TABLES for name in sorted(tensors) if f".{name}".endswith(f".{ending}"))
    name = next(named, next(iter(tensors)) if len(tensors) == 1 else None)
    if name is None:
        raise UserError(
            f"{path} has no table of input embeddings among its {len(tensors)} tensors.",
            f"Give the file of a model's weights with {' or '.join(_TABLES)}, or one that holds the table alone.",
        )
    return Table(str(path), as_matrix(tensors[name], str(path)))


# --- tokens as texts -----------------------------------------------------------------------------------


def legible(text: str) -> str:
    r"""A text with spaces as ␣, line ends and tabs as \n, \r and \t, a combining mark on a dotted circle where it
    comes first, and every other invisible character as its code point, such as <U+200B>."""
    # White space other than the plain one looks like it; characters of direction and joining look like nothing.
    visible = (c if c.isprintable() and not c.isspace() else f"<U+{ord(c):04X}>" for c in text)
    shown = "".join(_ESCAPES.get(c, as_seen) for c, as_seen in zip(text, visible, strict=True))
    return f"\u25cc{shown}" if text and unicodedata.category(text[0]).startswith("M") else shown


def scripts(text: str) -> tuple[str, ...]:
    """The scripts of a text's letters in order of appearance, as the first word of their Unicode names, such as
    'Latin', 'Cyrillic' or 'Cjk'; empty where it has no letters."""
    names = (unicodedata.name(c, "unknown") for c in text if unicodedata.category(c).startswith(("L", "M")))
    return tuple(dict.fromkeys(name.split()[0].split("-")[0].capitalize() for name in names))


def token_texts(tokenizer: PreTrainedTokenizerBase, ids: Sequence[int]) -> list[str]:
    """Each token alone as text, its leading space kept; a token that is no text of its own, as the vocabulary has it.

    Rows of the embedding table that the tokenizer does not use are '<id>', parts of a character their bytes, such as
    '<E4 BD>'.
    """
    return [_text(tokenizer, i) for i in ids]


def _text(tokenizer: PreTrainedTokenizerBase, number: int) -> str:
    piece = tokenizer.convert_ids_to_tokens(number) if 0 <= number < len(tokenizer) else None
    if piece is None:
        return f"<{number}>"
    decoded = tokenizer.decode([number], clean_up_tokenization_spaces=False)
    if "\ufffd" in decoded and "\ufffd" not in piece:
        byte_of = {character: value for value, character in bytes_to_unicode().items()}
        values = [byte_of.get(character) for character in piece]
        return piece if None in values else f"<{' '.join(f'{value:02X}' for value in values)}>"
    if not decoded:
        return piece
    # Some tokenizers drop the space before the first word that they decode.
    return f" {decoded}" if piece.startswith(_WORD_MARKS) and not decoded[0].isspace() else decoded
