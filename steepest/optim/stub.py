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

from collections.abc import Iterable
from typing import Any

from torch import Tensor

from steepest.optim import lr_scheduler
from steepest.optim.groups import groups as groups
from steepest.optim.optimizer import Optimizer

__all__ = {names}

_Params = Iterable[Tensor] | Iterable[dict[str, Any]] | Iterable[tuple[str, Tensor]]
'''

OPTIONS = {
    "params": "_Params",
    "foreach": "bool | None",
    "fused": "bool | None",
    "clip_norm": "float | None",
}
"""Types of arguments whose default does not tell them."""


def stub() -> str:
    """Return the text of the stub, from the signatures that the classes have."""
    doc = (inspect.getdoc(optim) or "").strip() + "\n"
    names = ",\n".join(f'    "{name}"' for name in optim.__all__)
    parts = [HEAD.format(doc=doc, names=f"[\n{names},\n]")]
    for name in optim.__all__:
        thing = getattr(optim, name)
        if inspect.isclass(thing) and thing is not optim.Optimizer:
            parts.append(_class(thing))
    return "\n".join(parts)


def _class(cls: type) -> str:
    signature = inspect.signature(cls)
    doc = textwrap.indent(inspect.getdoc(cls) or "", "    ").lstrip()
    end = '\n    """' if "\n" in doc else '"""'
    lines = [f"class {cls.__name__}(Optimizer):", f'    """{doc}{end}', ""]
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
    text = f"{parameter.name}: {OPTIONS.get(parameter.name) or _annotation(parameter)}"
    return text if given in (parameter.empty, REQUIRED) else f"{text} = {given!r}"


def _annotation(parameter: inspect.Parameter) -> str:
    """Return the type that a constructor of its own names; a formula's tells by the default."""
    if parameter.annotation is parameter.empty:
        return _type(parameter.default)
    text = inspect.formatannotation(parameter.annotation)
    return text.replace("typing.", "").replace("torch.", "")


def _type(default: object) -> str:
    """Return the type of a hyperparameter, by its default; a number may be a tensor of one."""
    if isinstance(default, tuple):
        return f"tuple[{', '.join(_type(part) for part in default)}]"
    if default is None:
        return "float | Tensor | None"
    return "bool" if isinstance(default, bool) else "float | Tensor"


if __name__ == "__main__":
    PATH.write_text(stub(), encoding="utf-8")
