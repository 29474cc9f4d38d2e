"""``python -m tests.reworded FOLDER``: :mod:`tests.behaviour` with each sentence of the package reworded.

Every text of several words becomes another one as its module is loaded: whole constants by what they say, so
that names that are used twice stay equal, and the parts of f-strings each by itself, so that nothing finds
them again by their beginning. The demo, which is the server, stays as it is.
"""

from __future__ import annotations

import ast
import re
import runpy
import sys
from collections.abc import Sequence
from importlib.abc import MetaPathFinder
from importlib.machinery import ModuleSpec, PathFinder, SourceFileLoader
from types import CodeType, ModuleType

WORDS = re.compile(r"[A-Za-z]{2,} [A-Za-z]")
"""What a text that is for people has."""

NOT_OURS = frozenset({"unable to lock", "already open"})
"""Parts of libhdf5's messages, which has no codes for them."""


class Rewording(ast.NodeTransformer):
    """Puts something behind each text."""

    def __init__(self) -> None:
        self.texts = 0

    def visit_Expr(self, node: ast.Expr) -> ast.AST:
        # Documentation stays: it is data for the sample configuration.
        return node if isinstance(node.value, ast.Constant) else self.generic_visit(node)

    def visit_Constant(self, node: ast.Constant) -> ast.AST:
        text = node.value
        # Not a program that is run.
        if isinstance(text, str) and self._is_for_people(text) and "import " not in text:
            self.texts += 1
            node.value = f"{text} ~"
        return node

    def visit_JoinedStr(self, node: ast.JoinedStr) -> ast.AST:
        for part in node.values:
            if isinstance(part, ast.FormattedValue):
                self.visit(part.value)
            elif isinstance(part, ast.Constant) and self._is_for_people(str(part.value)):
                self.texts += 1
                part.value = f"{part.value!s}|{node.lineno}:{node.col_offset} "
        return node

    def _is_for_people(self, text: str) -> bool:
        return WORDS.search(text) is not None and text not in NOT_OURS


class Loader(SourceFileLoader):
    """Loads a module with its sentences reworded."""

    def get_code(self, fullname: str) -> CodeType | None:
        source = self.get_data(self.get_filename(fullname))
        tree = Rewording().visit(ast.parse(source))
        code: CodeType = compile(ast.fix_missing_locations(tree), self.path, "exec", dont_inherit=True)
        return code


class Finder(MetaPathFinder):
    """Finds the modules of the package, but the demo's."""

    def find_spec(
        self, fullname: str, path: Sequence[str] | None, target: ModuleType | None = None
    ) -> ModuleSpec | None:
        if fullname.partition(".")[0] != "scicat_dagster" or ".demo" in fullname:
            return None
        spec = PathFinder.find_spec(fullname, path, target)
        if spec is not None and isinstance(spec.loader, SourceFileLoader):
            spec.loader = Loader(fullname, spec.loader.path)
        return spec


if __name__ == "__main__":
    sys.meta_path.insert(0, Finder())
    runpy.run_module("tests.behaviour", run_name="__main__")
