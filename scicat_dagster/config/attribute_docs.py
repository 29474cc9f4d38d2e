"""What the models' source says below each attribute, for whoever explains a file to a person.

Pydantic can do this when a model is made. That reads the source at each start of each process, which every
run would pay for; here it is read when somebody asks.
"""

from __future__ import annotations

import ast
import inspect
import textwrap
from itertools import pairwise


def attribute_docs(model: type) -> dict[str, str]:
    """The texts that stand below a class's own annotated attributes, by attribute, each as one line."""
    (definition,) = ast.parse(textwrap.dedent(inspect.getsource(model))).body
    if not isinstance(definition, ast.ClassDef):
        raise TypeError(f"{model!r} is not a class with a source of its own")
    return {
        attribute.target.id: " ".join(below.value.value.split())
        for attribute, below in pairwise(definition.body)
        if isinstance(attribute, ast.AnnAssign)
        and isinstance(attribute.target, ast.Name)
        and isinstance(below, ast.Expr)
        and isinstance(below.value, ast.Constant)
        and isinstance(below.value.value, str)
    }
