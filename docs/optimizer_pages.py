"""Make one page for each optimizer, from its class, its file and its formula."""

import inspect
import re
import sys
from typing import Any

import torch
from mkdocs.config.defaults import MkDocsConfig
from mkdocs.structure.files import File, Files

from steepest import optim
from steepest.explain import kernels, optimizer_names, planned
from steepest.kernels.rows import is_lazy

PAGE = """# {name}

{summary}

{about}

## Arguments

```python
{name}{signature}
```

{options}
"""

SHARED = "These mean the same for every optimizer:\n\n"

FORMULA = """
## Formula

```python
{formula}
```
"""

KERNEL = """
## Kernel

With its default hyperparameters, from the second step on, in float32. Once per step, on the
host, in float64:

```python
{host}
```

and for every element:

{kernels}
"""

BLOCK = """{title}:

```python
{text}
```
"""


def on_config(config: MkDocsConfig) -> None:
    """List the pages under "Optimizers"."""
    pages = [{name: f"optimizers/{name.lower()}.md"} for name in optimizer_names()]
    next(entry for entry in config.nav if "Optimizers" in entry)["Optimizers"] = pages


def on_files(files: Files, config: MkDocsConfig) -> None:
    """Add the pages, made in memory."""
    for name in optimizer_names():
        uri = f"optimizers/{name.lower()}.md"
        files.append(File.generated(config, uri, content=page(getattr(optim, name))))


def page(kind: Any) -> str:
    """Return an optimizer's page as Markdown."""
    formula = kind.formula
    summary, _, arguments = (inspect.getdoc(kind) or "").partition("\n\nArgs:\n")
    about = inspect.getdoc(sys.modules[kind.__module__]) or ""
    text = PAGE.format(
        name=kind.__name__,
        summary=summary,
        about=_unwrapped(re.sub(r"(https?://\S+)", r"<\1>", about)),
        signature=_signature(kind),
        options=_listed(arguments) if formula is None else SHARED + _options(kind),
    )
    if formula is None:
        return text
    text += FORMULA.format(formula=formula.source.rstrip())
    return text if is_lazy(formula) else text + _kernel(kind)


def _unwrapped(text: str) -> str:
    """Return text with the line breaks that follow a sentence or an address, and no others."""
    return re.sub(r"(?<=[.>])\n(?=[A-Z])", "  \n", text)


def _kernel(kind: Any) -> str:
    """Return the part of a page about the kernel."""
    made = planned(kind([torch.zeros(4, 3)]))
    blocks = [BLOCK.format(title=title, text=_update(text)) for title, text in kernels(made)]
    return KERNEL.format(host=made.host_source.rstrip(), kernels="\n".join(blocks))


def _signature(kind: Any) -> str:
    """Return a constructor's arguments, a line each."""
    lines, named = [], False
    for parameter in inspect.signature(kind).parameters.values():
        if parameter.kind is parameter.KEYWORD_ONLY and not named:
            lines.append("*")
            named = True
        lines.append(str(parameter))
    return "(\n" + "".join(f"    {line},\n" for line in lines) + ")"


def _options(kind: Any) -> str:
    """Return the options that are every optimizer's, as the class that they come from says."""
    text = inspect.getdoc(optim.Optimizer) or ""
    lines = _listed(text.partition("Args:\n")[2].partition("\n\n")[0]).splitlines()
    taken = inspect.signature(kind).parameters
    return "\n".join(line for line in lines if line.split("`")[1] in taken)


def _listed(listed: str) -> str:
    """Return the arguments of a docstring as a list."""
    items = inspect.cleandoc(listed).replace("\n    ", " ").splitlines()
    return "\n".join("- **`{}`**:{}".format(*item.split(":", 1)) for item in items)


def _update(text: str) -> str:
    """Return what a kernel does for an element; torch's lines as they are."""
    if "@inner" not in text:
        return text.rstrip()
    return text[text.index("@inner") : text.index("@entry")].rstrip()
