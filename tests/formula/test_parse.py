"""Every construct outside the language: the rule, what to write instead, and where the caret is.

In a row's source « and » mark the text under which the caret must stand.
"""

import importlib.util
import inspect
import itertools
import textwrap

import pytest

from steepest.errors import FormulaError
from steepest.formula import parse
from steepest.formula.parse import REQUIRED

HEADER = """\
import math
import torch
import steepest.formula as language
from steepest.formula import abs, exp, log, maximum, minimum, sign, where
from steepest.formula import sqrt as root

TENSOR = torch.ones(3)
NUMBER = 3.0

def keep(function):
    return function

def hide(function):
    def hidden(*args, **kwargs):
        return function(*args, **kwargs)
    return hidden

"""
SIGNATURE = "def rule(p, g, m, *, step, lr=0.1, betas=(0.9, 0.99), nesterov=False, mode='a'):\n"
_number = itertools.count()


@pytest.fixture
def read(tmp_path):
    """Write source text to a file, import it and return its function `rule`."""

    def load(source: str):
        name = f"formula_{next(_number)}"
        path = tmp_path / f"{name}.py"
        path.write_text(source, encoding="utf-8")
        spec = importlib.util.spec_from_file_location(name, path)
        module = importlib.util.module_from_spec(spec)
        spec.loader.exec_module(module)
        return module.rule

    return load


def body(lines: str, end: str = "return p, m") -> str:
    """A formula of one state with these lines."""
    return SIGNATURE + textwrap.indent(textwrap.dedent(lines).strip("\n") + f"\n{end}\n", "    ")


def refused(function, source: str, rule: str, instead: str) -> None:
    """Assert that parse refuses a function: why, what instead, file, line and caret."""
    with pytest.raises(FormulaError) as caught:
        parse(function)
    sentence, place, text, caret = str(caught.value).split("\n")
    why, _, hint = sentence.rpartition("; ")
    assert rule in why
    assert hint
    assert instead in hint
    before, marked = source.split("«")
    line = before.count("\n") + 1
    written = source.replace("«", "").replace("»", "").split("\n")[line - 1]
    assert place == f'  File "{inspect.getfile(function)}", line {line}, in {function.__name__}'
    assert text == f"    {written}"
    start = len(before.rpartition("\n")[2])
    assert caret == f"    {' ' * start}{'^' * len(marked.split('»')[0].split(chr(10))[0])}"


WHERE, ARGUMENT, LOOP = "where(", "neither an argument nor a word", "may not loop"
CONTAIN, ONE_NAME, IN_AN_IF = "may not contain", "assigns to one name", "in an `if` only"

ROWS = {
    # decisions
    "if on an element": ("if «g > 0»:\n    p = p - g", "may not branch on an", "where(g > 0"),
    "if on a state": ("if «m»:\n    p = p - g", "may not branch on an element", "where(m"),
    "elif on an element": ("if nesterov:\n    p = g\nelif «p == g»:\n    p = m", "branch", WHERE),
    "and on an element": ("if nesterov and «g > 0»:\n    p = p - g", "branch", WHERE),
    "not of an element": ("if not «g»:\n    p = p - g", "branch", WHERE),
    "word of an element in an if": ("if «abs(g) > 1»:\n    p = g", "branch", "where(abs(g) > 1"),
    "comparison with None": ("if «m == None»:\n    p = g", "None is not compared", "`m is None`"),
    "comparison, not None": ("if «m != None»:\n    p = g", "not compared", "`m is not None`"),
    "is of another thing": ("if «nesterov is True»:\n    p = g", "compares with", "one of these"),
    "None on the left": ("if «None is m»:\n    p = g", "`if state is None`", "one of these"),
    "is not of a sum": ("if «(m + g) is not None»:\n    p = g", "compares with", "one of"),
    "in": ("if «mode in ('a', 'b')»:\n    p = p - g", "compares with", "one of these"),
    "None test of an unknown": ("if «q» is None:\n    p = p - g", ARGUMENT, "the words are"),
    "chained host comparison": ("if «0 < lr < 1»:\n    p = p - g", "two values at a time", "`and`"),
    "conditional of an element": ("p = g if «g > 0» else m", "may not branch", "where(g > 0"),
    "conditional of the host": ("p = «g if lr else m»", "... if ... else", "lines of its own"),
    # names
    "unknown word": ("p = p - «sqr»(g)", ARGUMENT, "did you mean"),
    "unknown name": ("p = p - «stp» * g", ARGUMENT, "did you mean `step`?"),
    "unknown name, nothing near": ("p = p - «zzzzzz»", ARGUMENT, "the words are abs, exp, log"),
    "slip of an own name": ("size = lr * g\np = p - «sise»", ARGUMENT, "did you mean `size`?"),
    "word that is not imported": ("p = «sqrt»(g)", "not imported", "formula import sqrt`"),
    "word as a value": ("p = p * «exp»", "is a word, not a value", "`exp(...)`"),
    "value as a word": ("p = «lr»(g)", "is a value, not a word", "the words are"),
    "max": ("p = «max»(p, g)", "`max` is not a word", "`maximum(x, y)`"),
    "min": ("p = «min»(p, g)", "`min` is not a word", "`minimum(x, y)`"),
    "pow": ("p = «pow»(p, 2)", "`pow` is not a word", "`x ** y`"),
    "float": ("p = p * «float»(lr)", ARGUMENT, "the words are"),
    "int": ("p = p * «int»(lr)", ARGUMENT, ""),
    "print": ("«print(g)»", CONTAIN, "use assignments"),
    "global tensor": ("p = p - «TENSOR»", "`TENSOR` from outside (here a Tensor)", "*, TENSOR)`"),
    "global number": ("p = p - «NUMBER» * g", "from outside (here a float)", "*, NUMBER)`"),
    "module": ("p = p - «math»", "`math` from outside (here a module)", ""),
    "function from outside": ("p = «keep»(p)", ARGUMENT, ""),
    "attribute of a module": ("p = «torch.sqrt»(g)", "look up an attribute (`.sqrt`)", "`sqrt(x)`"),
    "attribute of the language": ("p = «language.exp»(g)", "attribute (`.exp`)", "import exp"),
    "method": ("p = p - «g.abs»()", "attribute (`.abs`)", "write `abs(x)`"),
    "method known elsewhere": ("p = p - «g.square»()", "attribute (`.square`)", "`x * x`"),
    "method unknown": ("p = p - «g.cumsum»(0)", "attribute (`.cumsum`)", "+ - * / ** and words"),
    "attribute": ("p = p - «p.grad»", "attribute (`.grad`)", ""),
    # names with too many, or no values
    "set on one side": ("if nesterov:\n    x = g\np = p - «x»", "one side of", "on both sides"),
    "set on the other side": ("if lr:\n    pass\nelse:\n    x = g\np = «x»", "one side", "before"),
    "None test of half a name": ("if lr:\n    x = g\nif «x» is None:\n    p = g", "one side", ""),
    "state before it exists": ("p = «m»\nif m is None:\n    m = g", "before it", "if m is None"),
    "state on the None side": ("if m is None:\n    p = p - «m»", "state `m` is used", "first"),
    "state on the wrong side": ("if m is not None:\n    m = g\nelse:\n    m = -«m»", "before", ""),
    "state still None after": ("if m is None:\n    pass\np = p - «m»", "used before it exists", ""),
    "state None, told by or": ("if m is None or lr:\n    p = p - «m»", "before it exists", ""),
    "state, told by a mere or": ("if m is not None or lr:\n    p = «m»", "before it", "first"),
    "state, told by a mere and": (
        "if m is None and lr:\n    pass\nelse:\n    p = «m»", "before it exists", "first"
    ),
    "hyperparameter may be None": ("if lr is None:\n    pass\np = «lr»", "hyperparameter `lr`", ""),
    "None twice": ("if m is None:\n    if m is not None:\n        p = «m»", "before it exists", ""),
    "comparison or number": ("if nesterov:\n    x = g > 0\nelse:\n    x = g\np = where(«x», p, g)",
                             "comparison on one side of an `if` and a number", "two names"),
    "new step": ("«step» = step + 1", "may not change `step`", "another name"),
    "new word": ("«exp» = g", "may not give `exp` a new meaning", "another name"),
    "new word under its own name": ("«root» = g", "may not give `root` a new meaning", ""),
    "word not imported, as a name": ("«sqrt» = g", "may not give `sqrt` a new meaning", ""),
    "unpacked into a word": ("«log», b = betas", "may not give `log` a new meaning", ""),
    "kernel's name": ("«_i» = g", "begin with `_`", "another name"),
    # arithmetic
    "modulo": ("p = «p % 2»", "may not use `%`", "+ - * / **"),
    "floor division": ("p = «p // 2»", "may not use `//`", "+ - * / **"),
    "matrix product": ("p = «p @ g»", "may not use `@`", "+ - * / **"),
    "bitwise and": ("p = where(«(g > 0) & (p > 0)», p, g)", "may not use `&`", "nest two `where`"),
    "bitwise or": ("p = where(«(g > 0) | (p > 0)», p, g)", "may not use `|`", "nest two `where`"),
    "shift": ("p = p * («2 << 3»)", "may not use `<<`", "+ - * / **"),
    "invert": ("p = where(«~(g > 0)», p, g)", IN_AN_IF, "nest two `where`"),
    "and of elements": ("p = where(«g > 0 and p > 0», p, g)", IN_AN_IF, "nest two `where`"),
    "not of a comparison": ("p = where(«not g > 0», p, g)", IN_AN_IF, "swap the values"),
    "chained comparison": ("p = where(«0 < g < 1», p, g)", "two values at a", "nest two `where`"),
    "is of elements": ("p = where(«g is p», p, g)", "compares with < <=", "use one of these"),
    "None test in where": ("p = where(«m is None», p, g)", "`if state is None`", "one of these"),
    "comparison in a product": ("p = p * («g > 0»)", "comparison is no", "where(g > 0, 1.0"),
    "comparison under a minus": ("p = p + -(«g > 0»)", "no number", "where(g > 0"),
    "comparison in a word": ("p = maximum(p, «g > 0»)", "no number", "where(g > 0"),
    "comparison in where": ("p = where(g > 0, «p > 0», g)", "no number", "where(p > 0"),
    "comparisons compared": ("p = where((«g > 0») == (p > 0), p, g)", "no number", "where(g > 0"),
    "comparison by name": ("c = g > 0\np = p * «c»", "no number", "where(c, 1.0, 0.0)"),
    "text": ("p = p * «'a'»", "real numbers", "write a number"),
    "text compared": ("p = where(g == «'a'», p, g)", "real numbers", "write a number"),
    "bytes": ("p = p * «b'a'»", "real numbers", ""),
    "complex": ("p = p * «2j»", "real numbers", ""),
    "boolean": ("p = p * «True»", "real numbers", ""),
    "ellipsis": ("p = p * «...»", "real numbers", ""),
    "None as a value": ("x = «None»\np = p - g", "real numbers", "write a number"),
    "None for a state": ("m = «None»", "real numbers", ""),
    "text kept": ("x = «'a'»", "real numbers", ""),
    "None in host arithmetic": ("if lr + «None» > 1:\n    p = g", "real numbers", ""),
    # calls and parts
    "too few values": ("p = «maximum(p)»", "`maximum` takes 2 values", "`maximum(x, y)`"),
    "too many values": ("p = «exp(p, g)»", "`exp` takes 1 value,", "`exp(x)`"),
    "keyword": ("p = «exp(x=p)»", "by position", "`exp(x)`"),
    "where of two": ("p = «where(g > 0, p)»", "`where` takes 3 values", "`where(x, y, z)`"),
    "where of a number": ("p = where(«g», p, m)", "takes a comparison first", "where(g != 0"),
    "starred argument": ("p = exp(«*betas»)", CONTAIN, ""),
    "call of a call": ("p = «exp(g)»(p)", ARGUMENT, ""),
    "element's part": ("p = p - «g[0]»", "an element has no parts", "hyperparameters only"),
    "slice": ("p = p - «betas[0:1]»", "may not contain `betas[0:1]`", ""),
    "index by name": ("p = p - «betas[step]»", CONTAIN, "use numbers"),
    # other expressions
    "list comprehension": ("p = «[x for x in p]»", "may not contain `[x", "use numbers"),
    "generator": ("p = exp(«(x for x in p)»)", CONTAIN, ""),
    "dict comprehension": ("p = «{x: x for x in p}»", CONTAIN, ""),
    "list": ("x = «[p, g]»", CONTAIN, ""),
    "tuple": ("x = «p, g»", CONTAIN, ""),
    "dict": ("x = «{'a': p}»", CONTAIN, ""),
    "lambda": ("f = «lambda x: x»", "may not contain `lambda x: x`", ""),
    "f-string": ("x = «f'{p}'»", CONTAIN, ""),
    "walrus": ("p = p - («q := g»)", "may not contain `(q := g)`", ""),
    "yield": ("«yield p»", CONTAIN, "use assignments"),
    "yield from": ("x = («yield from p»)", CONTAIN, ""),
    # statements
    "for": ("«for i in betas:»\n    p = p - g", LOOP, "the kernel loops"),
    "while": ("«while lr > 0:»\n    p = p - g", LOOP, "the kernel loops"),
    "try": ("«try:»\n    p = g\nexcept ValueError:\n    pass", "may not contain `try:`", ""),
    "with": ("«with torch.no_grad():»\n    p = g", "may not contain `with`", ""),
    "match": ("«match lr:»\n    case 1:\n        p = g", "may not contain `match`", ""),
    "assert": ("«assert lr > 0»", "may not contain `assert`", "use assignments"),
    "raise": ("«raise ValueError»", "may not contain `raise`", ""),
    "del": ("«del g»", "may not contain `del`", ""),
    "global": ("«global k»", "may not contain `global`", ""),
    "import": ("«import math»", "may not contain `import`", ""),
    "from import": ("«from math import exp»", "may not contain `from`", ""),
    "nested def": ("«def f(x):»\n    return x", "may not contain `def`", ""),
    "nested async def": ("«async def f(x):»\n    return x", "may not contain `async`", ""),
    "class": ("«class A:»\n    pass", "may not contain `class`", ""),
    "expression alone": ("«g * 2»", "may not contain `g * 2`", ""),
    "text in the middle": ("p = g\n«'why'»", CONTAIN, ""),
    "in place": ("«p -= lr * g»", "in place (`-=`)", "`p = p - ...`"),
    "in place, power": ("«p **= 2»", "in place (`**=`)", "`p = p ** ...`"),
    "in place, part": ("«p[0] += 1»", "in place (`+=`)", "`p[0] = p[0] + ...`"),
    "annotation": ("«x: float = lr»", "no annotations", "leave it out"),
    "annotation alone": ("«x: float»", "no annotations", ""),
    "chained assignment": ("«a = b = g»", ONE_NAME, "`name = ...`"),
    "assignment to a part": ("«p[0] = g»", ONE_NAME, ""),
    "assignment to an attribute": ("«p.data = g»", ONE_NAME, ""),
    "assignment to a list": ("«[a, b] = betas»", ONE_NAME, ""),
    "starred assignment": ("a, «*b» = betas", "unpacks into plain names", "name each part"),
    "nested unpacking": ("a, «(b, c)» = betas", "plain names", ""),
    "two at a time": ("«a, b = p, g»", "only a hyperparameter", "one name in a line"),
    "unpacked element": ("«a, b = g»", "only a hyperparameter", ""),
    "unpacked expression": ("«a, b = lr * 2»", "only a hyperparameter", ""),
    "early return": ("if nesterov:\n    «return p, m»", "returns once", "without `return`"),
    "return twice": ("«return p, m»", "returns once", ""),
}  # fmt: skip


@pytest.mark.parametrize(("lines", "rule", "instead"), ROWS.values(), ids=ROWS)
def test_a_line_outside_the_language(read, lines, rule, instead):
    source = HEADER + body(lines)
    refused(read(source.replace("«", "").replace("»", "")), source, rule, instead)


RETURNS = {
    "no return": ("«p = p - g»", "ends with one `return`", "`return p, m`"),
    "return in an if": ("«if nesterov:»\n    return p, m", "ends with one `return`", "return p, m"),
    "nothing": ("«pass»", "ends with one `return`", "return p, m"),
    "return of nothing": ("«return»", "this returns 0 of 2", "`return p, m`"),
    "return of p alone": ("«return p»", "this returns 1 of 2", "`return p, m`"),
    "return of too much": ("«return p, m, g»", "this returns 3 of 2", "`return p, m`"),
    "swapped": ("return «m», p", "`m` is returned where `p` is due", "`return p, m`"),
    "p twice": ("return p, «p»", "`p` is returned where `m` is due", "`return p, m`"),
    "p of the host": ("return «lr * 2», m", "`p` must be computed from elements", ""),
    "comparison": ("return «p > g», m", "this is a comparison", ""),
    "starred": ("return p, «*m»", CONTAIN, ""),
    "list": ("«return [p, m]»", "this returns 1 of 2", ""),
    "unset": ("if nesterov:\n    x = g\nreturn p, «x»", "on one side of an `if` only", ""),
    "unset state": ("if m is None:\n    x = g\nreturn p - «m», m", "used before it exists", ""),
}


@pytest.mark.parametrize(("lines", "rule", "instead"), RETURNS.values(), ids=RETURNS)
def test_an_end_outside_the_language(read, lines, rule, instead):
    source = HEADER + body(lines, end="")
    refused(read(source.replace("«", "").replace("»", "")), source, rule, instead)


R = "    return p, m\n"
SIGNATURES = {
    "*args": (f"def rule(p, g, m, *«args»):\n{R}", "may not take `*args`", "before `*`"),
    "**kwargs": (f"def rule(p, g, m, **«kwargs»):\n{R}", "may not take `**kwargs`", "after it"),
    "no arguments": (f"«def rule():»\n{R}", "first two arguments are `p`", "def rule(p, g"),
    "swapped": (f"«def rule(g, p, m):»\n{R}", "first two arguments are `p`", "def rule(p, g"),
    "keyword g": (f"«def rule(p, *, g):»\n{R}", "first two arguments are", ""),
    "default of a state": (f"def rule(p, g, m=«0.0»):\n{R}", "take no default", "behind `*`"),
    "step before *": (f"def rule(p, g, «step»):\n{R}", "`step` is the count", "behind `*`"),
    "step not asked for": (
        "def rule(p, g, *, lr):\n    return p - g / «step»\n",
        "takes it as a keyword",
        "*, step",
    ),
    "state named as a word": (f"def rule(p, g, «exp»):\n{R}", "may not give `exp`", "another"),
    "hyperparameter as a word": (f"def rule(p, g, m, *, «sqrt»=1):\n{R}", "give `sqrt`", ""),
    "a word's other name": (f"def rule(p, g, «root»):\n{R}", "give `root` a new meaning", ""),
    "builtin word": (f"def rule(p, g, m, *, «abs»=1):\n{R}", "give `abs` a new meaning", ""),
    "range": (f"def rule(p, g, «range»):\n{R}", "give `range` a new meaning", ""),
    "kernel's name": (f"def rule(p, g, m, *, «_n»=1):\n{R}", "begin with `_`", "another name"),
    "async def": (f"«async def rule(p, g, m):»\n{R}", "is a plain function", "`def` alone"),
    "await": ("«async def rule(p, g, m):»\n    await g\n    return p, m\n", "plain function", ""),
    "only a docstring": ("«def rule(p, g):»\n    'Only words.'\n", "ends with one", "return p`"),
}


@pytest.mark.parametrize(("code", "rule", "instead"), SIGNATURES.values(), ids=SIGNATURES)
def test_a_signature_outside_the_language(read, code, rule, instead):
    source = HEADER + code
    refused(read(source.replace("«", "").replace("»", "")), source, rule, instead)


def test_a_closure_over_a_tensor(read):
    source = f"""{HEADER}
def make(scale):
    def rule(p, g):
        return p - «scale» * g
    return rule

rule = make(TENSOR)
"""
    function = read(source.replace("«", "").replace("»", ""))
    refused(function, source, "`scale` from outside (here a Tensor)", "*, scale)`")


def test_a_closure_that_is_not_set_yet(read):
    source = f"""{HEADER}
def make():
    def rule(p, g):
        return p - «scale» * g
    return rule
    scale = 1.0

rule = make()
"""
    function = read(source.replace("«", "").replace("»", ""))
    refused(function, source, "`scale` is neither an argument nor a word", "the words are")


def test_a_decorated_function_that_became_another(read):
    source = HEADER.replace("*args, **kwargs):", "*«args», **kwargs):", 1)
    source += "@hide\ndef rule(p, g):\n    return p - g\n"
    function = read(source.replace("«", "").replace("»", ""))
    refused(function, source, "may not take `*args`", "name every state")


def test_a_method(read):
    source = f"{HEADER}class A:\n    «def rule(self, p, g):»\n        return p\n\nrule = A.rule\n"
    function = read(source.replace("«", "").replace("»", ""))
    refused(function, source, "first two arguments are `p`", "def rule(p, g")


@pytest.mark.parametrize("letter", ["β", "名", "é"])
def test_the_caret_counts_letters_not_bytes(read, letter):
    source = HEADER + body(f"{letter} = lr * 2\np = {letter} * «nowhere» * g")
    refused(read(source.replace("«", "").replace("»", "")), source, ARGUMENT, "")


def test_the_caret_follows_tabs(read):
    function = read("def rule(p, g):\n\treturn p - nowhere\n")
    with pytest.raises(FormulaError) as caught:
        parse(function)
    assert str(caught.value).endswith(f"    \treturn p - nowhere\n    \t{' ' * 11}{'^' * 7}")


@pytest.mark.parametrize("what", [lambda p, g: p - g, len, 3, object(), str, print])
def test_what_is_no_function_written_with_def(what):
    with pytest.raises(FormulaError, match="a function written with `def`, not"):
        parse(what)


def test_a_bound_method():
    class A:
        def rule(self, p, g):
            return p - g

    with pytest.raises(FormulaError, match="a function written with `def`, not"):
        parse(A().rule)


def test_a_formula_without_a_source():
    scope = {}
    exec("def rule(p, g):\n    return p - g\n", scope)
    with pytest.raises(FormulaError, match=r"rule \(<string>\) cannot be read; write it in a file"):
        parse(scope["rule"])


@pytest.mark.parametrize("text", ["def other(p, g):\n    return p\n", "def rule(p, g:\n", "\n\n"])
def test_a_file_that_has_changed_since(read, text):
    function = read("def rule(p, g):\n    return p - g\n")
    with open(inspect.getfile(function), "w") as file:
        file.write(text)
    with pytest.raises(FormulaError, match="not the one that was imported; restart Python"):
        parse(function)


# ---- what the language has ----------------------------------------------------------------------


def test_a_formula_knows_its_signature(read):
    formula = parse(
        read(
            "def rule(p, g, /, m, sum, *, lr, step, betas=(0.9, 0.99)):\n"
            "    'Words.'\n"
            "    if sum is None:\n"
            "        sum = g\n"
            "    return p - lr * sum, m, sum\n"
        )
    )
    assert formula.name == "rule"
    assert formula.states == ("m", "sum")
    assert formula.hyperparameters == {"lr": REQUIRED, "betas": (0.9, 0.99)}
    assert formula.counts
    assert formula.tested == {"sum"}
    assert formula.source.startswith("def rule(p, g, /, m, sum")
    assert formula.source.endswith("return p - lr * sum, m, sum\n")
    assert formula(1.0, 2.0, 3.0, None, lr=0.5, step=1) == (0.0, 3.0, 2.0)


ALLOWED = {
    "pass": "pass",
    "decisions": "if nesterov and not lr > 1 or mode == 'a' and betas[0] != 0:\n    p = p - g",
    "None on both sides": "if m is None:\n    m = g\nelse:\n    m = m + g",
    "None told by and": "if m is not None and nesterov:\n    p = p - m",
    "None told by or": "if m is None or lr < 0:\n    pass\nelse:\n    p = p - m",
    "None told by not": "if not m is None:\n    p = p - m",
    "None test of a hyperparameter": "if lr is None:\n    lr = 0.1\np = p - lr * g",
    "state from a number at first": "if m is None:\n    m = lr",
    "set on both sides": "if nesterov:\n    x = g\nelse:\n    x = p\np = p - x",
    "unpacking": "_, beta2 = betas\np = p - beta2 * g",
    "word under another name": "p = p - root(g) + exp(root(lr)) * g",
    "word on the host": "x = maximum(lr, 0.1)\nif root(lr) > 0.2:\n    p = p - x * g",
    "where on the host": "p = p - where(nesterov, g, m) * where(lr > 1, 1, 2)",
    "comparison by name": "c = abs(g) >= 1\np = where(c, p, +g)",
    "state renamed": "x = m\nm = x + g",
    "state never touched": "p = p - g",
    "other letters": "β1, β2 = betas\np = p - β1 * g",
}


@pytest.mark.parametrize("lines", ALLOWED.values(), ids=ALLOWED)
def test_a_line_of_the_language(read, lines):
    parse(read(HEADER + body(lines)))


def test_a_decorator_that_changes_nothing(read):
    formula = parse(read(HEADER + "@keep\n@keep\ndef rule(p, g):\n    return p - g\n"))
    assert formula.source == "def rule(p, g):\n    return p - g\n"


def test_python_agrees_that_every_allowed_line_runs(read):
    for lines in ALLOWED.values():
        rule = read(HEADER + body(lines))
        p, _ = rule(1.0, 2.0, 3.0, step=1)
        assert isinstance(p, float)
