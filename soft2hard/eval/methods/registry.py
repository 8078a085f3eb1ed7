"""All methods by the names that configurations call them."""

from importlib import import_module

from soft2hard.eval.methods.base import Method
from soft2hard.eval.methods.few_shot import FewShot
from soft2hard.eval.methods.inspect_patching import Inspect, InspectOracle
from soft2hard.eval.methods.instruction_induction import InstructionInduction
from soft2hard.eval.methods.nearest_token import NearestToken
from soft2hard.eval.methods.pez import Pez
from soft2hard.eval.methods.pin import Pin
from soft2hard.eval.methods.reference_points import GoldInstruction, NoPrompt, SoftPromptItself
from soft2hard.eval.methods.rlprompt import RLPrompt
from soft2hard.eval.methods.translation import GreedyTranslation, VerifiedTranslation

METHODS: dict[str, "type[Method] | str"] = {
    method.name: method
    for method in (
        SoftPromptItself,
        GoldInstruction,
        NoPrompt,
        FewShot,
        InstructionInduction,
        NearestToken,
        Inspect,
        InspectOracle,
        Pez,
        RLPrompt,
        Pin,
        GreedyTranslation,
        VerifiedTranslation,
    )
}
"""Each by its class, or as "module:Class"."""


def options_of(name: str) -> type:
    """The dataclass of a method's options, with its `name`, `source` and `needs`."""
    return method_of(name)


def method_of(name: str) -> type:
    """The class of a method."""
    found = METHODS[name]
    if isinstance(found, str):
        module, _, found = found.partition(":")
        return getattr(import_module(module), found)
    return found
