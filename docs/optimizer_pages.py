"""Make one page for each optimizer, from its class, its file and its formula."""

import inspect
import re
import sys
from typing import Any

import torch
from mkdocs.config.defaults import MkDocsConfig
from mkdocs.structure.files import File, Files

from steepest import optim
from steepest.explain import optimizer_names
from steepest.formula import plan
from steepest.kernels.cpu import source

PAGE = """# {name}

{summary}

{about}

## Arguments

```python
{name}{signature}
```

`params` and the options behind `*` are the same for every optimizer:

{options}

## Formula

```python
{formula}
```

## Kernel

With its default hyperparameters, from the second step on, in float32. Once per step, on the
host, in float64:

```python
{host}
```

and for every element:

```python
{kernel}
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
    optimizer = kind([torch.zeros(1)])
    made = plan(optimizer.formula, optimizer.param_groups[0], 2, frozenset())
    about = inspect.getdoc(sys.modules[kind.__module__]) or ""
    return PAGE.format(
        name=kind.__name__,
        summary=inspect.getdoc(kind),
        about="  \n".join(re.sub(r"(https?://\S+)", r"<\1>", about).splitlines()),
        signature=_signature(kind),
        options=_options(),
        formula=optimizer.formula.source.rstrip(),
        host=made.host_source.rstrip(),
        kernel=_update(source(made, torch.float32)),
    )


def _signature(kind: Any) -> str:
    """Return a constructor's arguments, a line each."""
    lines, named = [], False
    for parameter in inspect.signature(kind).parameters.values():
        if parameter.kind is parameter.KEYWORD_ONLY and not named:
            lines.append("*")
            named = True
        lines.append(str(parameter))
    return "(\n" + "".join(f"    {line},\n" for line in lines) + ")"


def _options() -> str:
    """Return the arguments that every optimizer has, as the class that they come from says."""
    text = inspect.getdoc(optim.Optimizer) or ""
    listed = text.partition("Args:\n")[2].partition("\n\n")[0]
    items = inspect.cleandoc(listed).replace("\n    ", " ").splitlines()
    return "\n".join("- **`{}`**:{}".format(*item.split(":", 1)) for item in items)


def _update(text: str) -> str:
    return text[text.index("@inner") : text.index("@entry")].rstrip()
