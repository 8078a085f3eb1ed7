"""The house: which room may import which, no circles, short chains, and the names that users import."""

import ast
from collections import defaultdict
from functools import cache
from pathlib import Path

import pytest

import soft2hard
from tests.paths import ROOT

ROOMS = (
    "errors settings storage compute prompts lm workers api data_gen translator eval checkpoints pipeline cli"
).split()
"""From the ground up: a room imports from those before it alone."""
LONGEST_CHAIN = 16
MOST_PARAMETERS = 7
MOST_SMALL = 10
NOT_OUR_SIGNATURES = {"soft2hard.lm.attention.matmul_attention", "soft2hard.eval.transfer.inspect_ai_task.transfer"}
"""What transformers calls, and an Inspect task, whose parameters are its command line."""
SMALL = 40  # lines


def _name(path: Path) -> str:
    parts = path.relative_to(ROOT).with_suffix("").parts
    return ".".join(parts[:-1] if parts[-1] == "__init__" else parts)


MODULES = {_name(path): path for path in sorted((ROOT / "soft2hard").rglob("*.py"))}


@cache
def imports(name: str) -> dict[str, bool]:
    """The modules of the package that one imports, each with whether only functions or type checkers do."""
    found: dict[str, bool] = {}

    def visit(node: ast.AST, lazy: bool) -> None:
        for child in ast.iter_child_nodes(node):
            inner = lazy or isinstance(child, ast.FunctionDef | ast.AsyncFunctionDef)
            inner = inner or (isinstance(child, ast.If) and "TYPE_CHECKING" in ast.dump(child.test))
            for target in _targets(child):
                if target != name:
                    found[target] = found.get(target, True) and inner
            visit(child, inner)

    visit(ast.parse(MODULES[name].read_text(encoding="utf-8")), False)
    return found


def _targets(node: ast.AST) -> list[str]:
    if isinstance(node, ast.Import):
        return [alias.name for alias in node.names if alias.name in MODULES]
    if isinstance(node, ast.ImportFrom) and (node.module or "").startswith("soft2hard"):
        whole = [f"{node.module}.{alias.name}" for alias in node.names]
        return [one if one in MODULES else node.module for one in whole if one in MODULES or node.module in MODULES]
    return []


def room(name: str) -> str:
    return name.split(".")[1] if "." in name else ""


@pytest.mark.parametrize("name", [name for name in MODULES if room(name) in ROOMS])
def test_imports_go_one_way(name: str) -> None:
    above = ROOMS[ROOMS.index(room(name)) + 1 :]
    assert [target for target in imports(name) if room(target) in above] == []


def test_every_module_lies_in_a_room() -> None:
    assert {room(name) for name in MODULES} - {*ROOMS, "", "__main__"} == set()


def test_there_are_no_circles_of_imports_not_even_within_functions() -> None:
    waiting = {name: set(imports(name)) - {"soft2hard"} for name in MODULES}
    while free := [name for name, targets in waiting.items() if not targets]:
        for name in free:
            del waiting[name]
        for targets in waiting.values():
            targets.difference_update(free)
    assert waiting == {}


def test_no_chain_of_imports_is_long() -> None:
    @cache
    def chain(name: str) -> tuple[str, ...]:
        longer = (chain(target) for target, lazy in imports(name).items() if not lazy)
        return (name, *max(longer, key=len, default=()))

    longest = max((chain(name) for name in MODULES), key=len)
    assert len(longest) <= LONGEST_CHAIN, " <- ".join(longest)


def test_few_modules_are_small_and_read_with_one_other_alone() -> None:
    importers: dict[str, set[str]] = defaultdict(set)
    for name in MODULES:
        for target in imports(name):
            importers[target].add(name)
    small = [
        name
        for name, path in MODULES.items()
        if len(importers[name]) == 1 and len(path.read_text(encoding="utf-8").splitlines()) < SMALL
    ]
    assert len(small) <= MOST_SMALL, small


def test_functions_have_few_parameters() -> None:
    long = []
    for name, path in MODULES.items():
        if room(name) == "cli":
            continue  # commands have a parameter a flag
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
            if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef):
                arguments = [*node.args.posonlyargs, *node.args.args, *node.args.kwonlyargs]
                if len([a for a in arguments if a.arg not in ("self", "cls")]) > MOST_PARAMETERS:
                    long.append(f"{name}.{node.name}")
    assert set(long) - NOT_OUR_SIGNATURES == set()


def test_the_public_names_are_there() -> None:
    for name in soft2hard.__all__:
        assert getattr(soft2hard, name) is not None
    expected = {"SoftPrompt", "Subject", "Translator", "translate", "Task", "Example", "Tuner", "Tuning", "UserError"}
    assert expected <= set(soft2hard.__all__)
