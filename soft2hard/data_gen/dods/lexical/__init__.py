"""A procedural dataset of datasets over English words; every instruction parses back to its task."""

from soft2hard.data_gen.dods.lexical.dod import LexicalDoD, LexicalTask, draw_task, parse, same_task
from soft2hard.data_gen.dods.lexical.families import FAMILIES, UNSEEN_FAMILIES

__all__ = ["FAMILIES", "UNSEEN_FAMILIES", "LexicalDoD", "LexicalTask", "draw_task", "parse", "same_task"]
