"""Write `__init__.pyi`: each optimizer's signature for editors, which do not run the code.

    python -m steepest.optim.stub

A test tells when the file on disk is old.
"""

import inspect
import textwrap
from pathlib import Path

from steepest import optim
from steepest.formula.parse import REQUIRED

PATH = Path(__file__).with_name("__init__.pyi")

HEAD = '''"""{doc}"""

# Written by `python -m steepest.optim.stub`; change the formulas, not this file.

from collections.abc import Callable, Iterable
from math import inf
from typing import Any

from torch import Tensor
{imports}

__all__ = {names}

_Number = float | Tensor | Callable[[int], float]
_Params = Iterable[Tensor] | Iterable[dict[str, Any]] | Iterable[tuple[str, Tensor]]
'''

OPTIONS = {
    "params": "_Params",
    "foreach": "bool | None",
    "fused": "bool | None",
    "clip_norm": "float | None",
    "clip_value": "float | None",
    "average": "str | None",
    "adjust_lr_fn": "str | None",
}
"""Types of arguments whose default does not tell them."""


def stub() -> str:
    """Return the text of the stub, from the signatures that formulas give."""
    doc = (inspect.getdoc(optim) or "").strip() + "\n"
    names = ",\n".join(f'    "{name}"' for name in optim.__all__)
    made = [name for name in optim.__all__ if _is_made(getattr(optim, name))]
    bases = {_base(getattr(optim, name)) for name in made} - {optim.Optimizer}
    lines = [_import(name) for name in {*optim.__all__} - {*made}]
    lines += [f"from {base.__module__} import {base.__name__}" for base in bases]
    theirs = sorted(line for line in lines if line.startswith("from torch"))
    imports = "\n".join([*theirs, "", *sorted({*lines} - {*theirs})])
    head = HEAD.format(doc=doc, imports=imports, names=f"[\n{names},\n]")
    return "\n".join([head, *(_class(getattr(optim, name)) for name in made)])


def _is_made(thing: object) -> bool:
    """Tell whether a formula has made a class's signature; others write their own."""
    return inspect.isclass(thing) and "formula" in vars(thing) and thing is not optim.Optimizer


def _base(cls: type) -> type:
    """Return the class that an optimizer has its methods of: the first without a formula."""
    return next(base for base in cls.__mro__ if vars(base).get("formula") is None)


def _import(name: str) -> str:
    thing = getattr(optim, name)
    if inspect.ismodule(thing):
        return f"from steepest.optim import {name} as {name}"
    return f"from {thing.__module__} import {name} as {name}"


def _class(cls: type) -> str:
    signature = inspect.signature(cls)
    doc = textwrap.indent(inspect.getdoc(cls) or "", "    ").lstrip()
    end = '\n    """' if "\n" in doc else '"""'
    lines = [f"class {cls.__name__}({_base(cls).__name__}):", f'    """{doc}{end}', ""]
    lines += ["    def __init__(", "        self,"]
    kind = inspect.Parameter.POSITIONAL_OR_KEYWORD
    for parameter in signature.parameters.values():
        if parameter.kind is not kind:
            kind = parameter.kind
            lines.append("        *,")
        lines.append(f"        {_argument(parameter)},")
    return "\n".join([*lines, "    ) -> None: ...", ""])


def _argument(parameter: inspect.Parameter) -> str:
    given = parameter.default
    text = f"{parameter.name}: {OPTIONS.get(parameter.name) or _type(given)}"
    return text if given in (parameter.empty, REQUIRED) else f"{text} = {given!r}"


def _type(default: object) -> str:
    """Return the type of a hyperparameter, by its default; any number may be scheduled."""
    if isinstance(default, tuple):
        return f"tuple[{', '.join(_type(part) for part in default)}]"
    if default is None:
        return "_Number | None"
    return "bool" if isinstance(default, bool) else "_Number"


if __name__ == "__main__":
    PATH.write_text(stub(), encoding="utf-8")
