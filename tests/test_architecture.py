"""The rules of the house, read off the source with `ast`: layers, purity of the core, sizes, and safe loading.

Every rule is a function of source text that returns the violations it finds, so each is also shown code that breaks it.
"""

import ast
import io
import subprocess
import sys
import tokenize
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

PACKAGE = Path(__file__).parents[1] / "trajmatch"
# The rooms in their order: a file imports its own room and those before it.
ROOMS = ["settings", "machine", "core", "data", "methods", "measure", "pages", "run"]
# Rooms before it that a room does not import all the same.
NOT = {
    "machine": {"settings"},
    "core": {"settings", "machine"},
    "data": {"settings"},
    "methods": {"settings", "machine"},
    "measure": {"settings", "machine"},
}
RUN_ORDER = [
    "folder",
    "assembly",
    "stages",
    "scores",
    "compare",
    "diagnose",
    "exchange",
    "push",
    "ending",
    "api",
    "verbs",
    "cli",
]
# Rooms that import torch nowhere.
WITHOUT_TORCH = ("settings", "pages", "run/compare")
# What may import our own modules inside functions: they start without torch.
LATE = {"trajmatch/__init__.py", "trajmatch/__main__.py", "trajmatch/run/cli.py", "trajmatch/run/verbs.py"}
CORE_ORDER = [
    "vector",
    "draws",
    "augment",
    "cutmix",
    "tiles",
    "block",
    "convolution",
    "loss",
    "mixed",
    "student",
    "inner",
    "matching",
    "hypergradient",
    "rate",
    "estimators",
    "sharpness",
    "combine",
    "descent",
    "inner_optimisers",
    "straight",
]
MAX_FILE_LINES = 300
MAX_FUNCTION_LINES = 40
MAX_PARAMETERS = 7
# Functions that have more: those that a user calls by keyword, that torch calls, or that mirror torch's own, and pure
# numerics whose letters are the equation's.
WIDE = {
    "distill", "evaluate", "load", "forward", "conv2d", "rollout", "trained", "condensation_step", "real_loss_gradient",
    "expert", "train_and_test",
}  # fmt: skip
SOURCES = {
    path.relative_to(PACKAGE.parent).as_posix(): path.read_text("utf8") for path in sorted(PACKAGE.rglob("*.py"))
}

DRAWS = {f"torch.{name}{like}" for name in ("rand", "randn", "randint") for like in ("", "_like")}
DRAWS |= {f"torch.{name}" for name in ("randperm", "normal", "bernoulli", "multinomial", "poisson")}
DRAWING_METHODS = {
    "normal_",
    "uniform_",
    "random_",
    "bernoulli_",
    "exponential_",
    "geometric_",
    "cauchy_",
    "log_normal_",
}
SEEDING = {"manual_seed", "seed", "set_rng_state"}
PICKLE_MODULES = {"pickle", "_pickle", "cloudpickle", "dill", "joblib"}


def imports(tree: ast.AST, path: str) -> Iterator[tuple[int, str]]:
    """Line and dotted name of everything the file at `path` imports, at any depth, relative names resolved."""
    package = path.split("/")[:-1]
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            yield from ((node.lineno, alias.name) for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            above = package[: len(package) - node.level + 1] if node.level else []
            base = ".".join([*above, *([node.module] if node.module else [])])
            yield from ((node.lineno, f"{base}.{alias.name}") for alias in node.names)
        elif isinstance(node, ast.Call) and ast.unparse(node.func).split(".")[-1] in ("import_module", "__import__"):
            yield from ((node.lineno, a.value) for a in node.args[:1] if isinstance(a, ast.Constant))


def references(tree: ast.AST) -> Iterator[tuple[ast.expr, str]]:
    """Every name and attribute with its dotted name, aliases resolved: after `import torch as t`, t.x is torch.x."""
    full = {}
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            full.update({alias.asname: alias.name for alias in node.names if alias.asname})
        elif isinstance(node, ast.ImportFrom) and not node.level:
            full.update({alias.asname or alias.name: f"{node.module}.{alias.name}" for alias in node.names})
    for node in ast.walk(tree):
        if isinstance(node, ast.Name | ast.Attribute):
            first, *rest = ast.unparse(node).split(".")
            yield node, ".".join([full.get(first, first), *rest])


def calls(tree: ast.AST) -> Iterator[tuple[ast.Call, str]]:
    """Every call with the dotted name of what it calls."""
    named = dict(references(tree))
    for node in ast.walk(tree):
        if isinstance(node, ast.Call):
            yield node, named.get(node.func, "")


def keyword(call: ast.Call, name: str) -> ast.expr | None:
    return next((k.value for k in call.keywords if k.arg == name), None)


def is_constant(node: ast.expr | None, value: object) -> bool:
    return isinstance(node, ast.Constant) and node.value is value


def upward_imports(source: str, path: str) -> list[str]:
    """Imports of a later room, of a room that is not to be imported, and in core and run of a later place."""
    _, *below = path.removesuffix(".py").split("/")
    if below[0] not in ROOMS:  # trajmatch/__init__.py and __main__.py stand above every room
        return []
    found = []
    for line, name in imports(ast.parse(source), path):
        top, *target = name.split(".")
        if top != "trajmatch":
            continue
        room = target[0] if target and target[0] in ROOMS else "run"
        if ROOMS.index(room) > ROOMS.index(below[0]) or room in NOT.get(below[0], ()):
            found.append(f"{path}:{line} imports {name}")
        elif room == below[0] in ("core", "run") and below[1] != "__init__" and not _is_earlier(below, target):
            found.append(f"{path}:{line} imports {name}, which is not before {below[1]} in {room}'s order")
    return found


def _is_earlier(below: list[str], target: list[str]) -> bool:
    """Whether a module of core is before another one, or a place in run is, or is the same folder."""
    order = CORE_ORDER if below[0] == "core" else RUN_ORDER
    if not target[1:] or target[1] not in order or below[1] not in order:
        return False
    if below[0] == "run" and target[1] == below[1]:
        return len(below) > 2
    return order.index(target[1]) < order.index(below[1])


def late_imports(source: str, path: str) -> list[str]:
    """Our own modules imported inside functions."""
    if path in LATE:
        return []
    functions = [n for n in ast.walk(ast.parse(source)) if isinstance(n, ast.FunctionDef | ast.AsyncFunctionDef)]
    found = {
        (line, name)
        for function in functions
        for line, name in imports(function, path)
        if name.split(".")[0] == "trajmatch"
    }
    return [f"{path}:{line} imports {name} inside a function" for line, name in sorted(found)]


def circles(sources: dict[str, str]) -> list[list[str]]:
    """Files that import one another in a circle."""
    modules = {path.removesuffix(".py").removesuffix("/__init__").replace("/", "."): path for path in sources}
    after = {
        module: {
            target if target in modules else target.rpartition(".")[0]
            for _, target in imports(ast.parse(sources[path]), path)
        }
        & modules.keys()
        for module, path in modules.items()
    }
    done: set[str] = set()
    found: list[list[str]] = []

    def visit(module: str, above: list[str]) -> None:
        if module in above:
            found.append(above[above.index(module) :])
        elif module not in done:
            for target in sorted(after[module]):
                visit(target, [*above, module])
            done.add(module)

    for module in sorted(modules):
        visit(module, [])
    return found


def foreign_imports(source: str, path: str) -> list[str]:
    """Imports in core of anything but torch, trajmatch.core and the standard library less logging and random."""
    allowed = (sys.stdlib_module_names | {"torch"}) - {"logging", "random"}
    return [
        f"{path}:{line} imports {name}"
        for line, name in imports(ast.parse(source), path)
        if name.split(".")[0] not in allowed and not f"{name}.".startswith("trajmatch.core.")
    ]


def torch_imports(source: str, path: str) -> list[str]:
    """Imports of torch, at any depth."""
    return [
        f"{path}:{line} imports {name}"
        for line, name in imports(ast.parse(source), path)
        if name.split(".")[0] == "torch"
    ]


def impurities(source: str, path: str) -> list[str]:
    """Output, files, devices, host reads, global seeds, and draws without a generator."""
    found = []
    for call, name in calls(ast.parse(source)):
        last = call.func.attr if isinstance(call.func, ast.Attribute) else ""
        generator = keyword(call, "generator")
        if (
            name in ("print", "open", "input", "builtins.print", "builtins.open")
            or last in ("cuda", "item")
            or (name.startswith("torch.") and name.split(".")[-1] in SEEDING and not name.startswith("torch.Generator"))
            or ((name in DRAWS or last in DRAWING_METHODS) and (generator is None or is_constant(generator, None)))
        ):
            found.append(f"{path}:{call.lineno} {ast.unparse(call)}")
    return found


def oversized(source: str, path: str) -> list[str]:
    """A file of more than 300 lines; functions of more than 40 lines of code."""
    num_lines = len(source.splitlines())
    found = [f"{path} has {num_lines} lines"] if num_lines > MAX_FILE_LINES else []
    blank = {tokenize.COMMENT, tokenize.NL, tokenize.NEWLINE, tokenize.INDENT, tokenize.DEDENT, tokenize.ENDMARKER}
    code: set[int] = set()
    for token in tokenize.generate_tokens(io.StringIO(source).readline):
        if token.type not in blank:
            code.update(range(token.start[0], token.end[0] + 1))
    nodes = list(ast.walk(ast.parse(source)))
    for node in nodes:  # docstrings, and any other string that stands alone
        if isinstance(node, ast.Expr) and isinstance(node.value, ast.Constant) and isinstance(node.value.value, str):
            code.difference_update(range(node.lineno, (node.end_lineno or 0) + 1))
    for node in nodes:
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef):
            num_code = len(code.intersection(range(node.lineno, (node.end_lineno or 0) + 1)))
            if num_code > MAX_FUNCTION_LINES:
                found.append(f"{path}:{node.lineno} {node.name} has {num_code} lines of code")
    return found


def many_parameters(source: str, path: str) -> list[str]:
    """Functions of more than 7 parameters, the object itself not counted."""
    found = []
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef) and node.name not in WIDE:
            a = node.args
            names = [one.arg for one in (*a.posonlyargs, *a.args, *a.kwonlyargs)]
            if len([name for name in names if name not in ("self", "cls")]) > MAX_PARAMETERS:
                found.append(f"{path}:{node.lineno} {node.name} has {len(names)} parameters")
    return found


def restricted_unpicklers(tree: ast.AST) -> list[ast.ClassDef]:
    """Subclasses of Unpickler that say which classes they let in."""
    return [
        node
        for node in ast.walk(tree)
        if isinstance(node, ast.ClassDef)
        and any(ast.unparse(base).split(".")[-1] == "Unpickler" for base in node.bases)
        and any(isinstance(member, ast.FunctionDef) and member.name == "find_class" for member in node.body)
    ]


def unsafe_loads(source: str, path: str) -> list[str]:
    """Loading that runs code out of the file: pickle and its kin, torch.load and numpy.load when they unpickle."""
    tree = ast.parse(source)
    safe = {call.func for call, _ in calls(tree) if is_constant(keyword(call, "weights_only"), True)}
    safe.update(base for cls in restricted_unpicklers(tree) for base in cls.bases)
    unsafe = {f"{module}.{name}" for module in PICKLE_MODULES for name in ("load", "loads", "Unpickler")} | {
        "torch.load"
    }
    found = [(node, name) for node, name in references(tree) if name in unsafe and node not in safe]
    found += [(call, name) for call, name in calls(tree) if is_constant(keyword(call, "allow_pickle"), True)]
    return [f"{path}:{node.lineno} {name}" for node, name in found]


def doubles_on_a_device(source: str, path: str) -> list[str]:
    """float64 where a tensor may be on a device that lacks it, as MPS does: `.double()` comes after `.cpu()`.

    In data everything is on the CPU.
    """
    tree, found = ast.parse(source), []
    if path.startswith("trajmatch/data/"):
        return []
    for call, _ in calls(tree):
        receiver = call.func.value if isinstance(call.func, ast.Attribute) else None
        kind = call.func.attr if isinstance(call.func, ast.Attribute) else ""
        doubles = {ast.unparse(a) for a in [*call.args, *(k.value for k in call.keywords)]} & {
            "torch.float64",
            "torch.double",
        }
        on_cpu = isinstance(receiver, ast.Call) and ast.unparse(receiver.func).split(".")[-1] == "cpu"
        converts = kind == "double" or (kind in ("to", "type") and bool(doubles))
        if (converts and not on_cpu) or (doubles and keyword(call, "device") is not None):
            found.append(f"{path}:{call.lineno} {ast.unparse(call)}")
    return found


def method_names(source: str, path: str) -> list[str]:
    """Comparisons of a method with a name: what makes a method stands in the table of settings/methods.py.

    The published numbers are by method.
    """
    if path == "trajmatch/settings/published.py":
        return []
    return [
        f"{path}:{node.lineno}: compares a method with a name"
        for node in ast.walk(ast.parse(source))
        if isinstance(node, ast.Compare)
        for sides in [[node.left, *node.comparators]]
        if any(isinstance(side, ast.Attribute) and side.attr == "method" for side in sides)
        and any(isinstance(part, ast.Constant) for side in sides for part in ast.walk(side))
    ]


def swallowed_errors(source: str, path: str) -> list[str]:
    """Bare `except:`, and `except Exception` or `suppress(Exception)` that does nothing."""
    tree, found = ast.parse(source), []
    broad = {"Exception", "BaseException"}
    for node in ast.walk(tree):
        if isinstance(node, ast.ExceptHandler):
            caught = {ast.unparse(n) for n in ast.walk(node.type) if isinstance(n, ast.Name)} if node.type else set()
            silent = all(isinstance(s, ast.Pass | ast.Continue) or ast.unparse(s) == "..." for s in node.body)
            if node.type is None or (caught & broad and silent):
                found.append(f"{path}:{node.lineno} {ast.unparse(node)}")
    for call, name in calls(tree):
        if name.split(".")[-1] == "suppress" and broad & {ast.unparse(a) for a in call.args}:
            found.append(f"{path}:{call.lineno} {ast.unparse(call)}")
    return found


CORE_RULES = [foreign_imports, impurities]
RULES = [
    upward_imports, late_imports, many_parameters, oversized, method_names, unsafe_loads, swallowed_errors,
    doubles_on_a_device,
]  # fmt: skip
Rule = Callable[[str, str], list[str]]


@pytest.mark.parametrize("rule", RULES)
def test_package(rule: Rule) -> None:
    assert SOURCES
    assert [violation for path, source in SOURCES.items() for violation in rule(source, path)] == []


@pytest.mark.parametrize("rule", CORE_RULES)
def test_core(rule: Rule) -> None:
    core = {path: source for path, source in SOURCES.items() if path.startswith("trajmatch/core/")}
    assert core
    assert [violation for path, source in core.items() for violation in rule(source, path)] == []


@pytest.mark.parametrize("room", WITHOUT_TORCH)
def test_rooms_without_torch(room: str) -> None:
    files = {path: source for path, source in SOURCES.items() if path.startswith(f"trajmatch/{room}/")}
    assert files
    assert [violation for path, source in files.items() for violation in torch_imports(source, path)] == []
    modules = ", ".join(path.removesuffix(".py").removesuffix("/__init__").replace("/", ".") for path in files)
    assert heavy_modules(f"import {modules}") == ""


def test_every_folder_is_a_room_and_every_module_has_a_place() -> None:
    assert {path.split("/")[1] for path in SOURCES if path.count("/") > 1} == set(ROOMS)
    for room, order in (("core", CORE_ORDER), ("run", RUN_ORDER)):
        places = {path.split("/")[2].removesuffix(".py") for path in SOURCES if path.startswith(f"trajmatch/{room}/")}
        assert places - {"__init__"} == set(order)


def test_no_files_import_one_another_in_a_circle() -> None:
    assert circles(SOURCES) == []
    package = {"trajmatch/a.py": "from trajmatch.b import f", "trajmatch/b.py": "def f():\n    from trajmatch import a"}
    assert circles(package) == [["trajmatch.a", "trajmatch.b"]]


def test_one_restricted_unpickler_at_most() -> None:
    assert sum(len(restricted_unpicklers(ast.parse(source))) for source in SOURCES.values()) <= 1


def heavy_modules(statement: str) -> str:
    """Which of torch and numpy a fresh interpreter has loaded after `statement`."""
    script = f"{statement}; import sys; print(*sorted({{'torch', 'numpy'}} & set(sys.modules)))"
    run = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=False)
    assert run.returncode == 0, run.stderr
    return run.stdout.strip()


def test_the_command_line_starts_without_torch() -> None:
    assert heavy_modules("import numpy") == "numpy"
    assert heavy_modules("import trajmatch.run.cli") == ""


@pytest.mark.parametrize(
    ("rule", "path", "source"),
    [
        (upward_imports, "data/images.py", "import trajmatch.methods.outer"),
        (upward_imports, "data/images.py", "from trajmatch import run"),
        (upward_imports, "data/images.py", "from trajmatch import Config"),
        (upward_imports, "data/images.py", "from ..measure import evaluate"),
        (upward_imports, "data/__init__.py", "from ..measure import evaluate"),
        (upward_imports, "methods/outer.py", "def f():\n    from trajmatch.measure.evaluate import g"),
        (upward_imports, "measure/evaluate.py", "importlib.import_module('trajmatch.run.loop')"),
        (upward_imports, "measure/evaluate.py", "from trajmatch.pages import tables"),
        (upward_imports, "pages/tables.py", "from trajmatch.run import folder"),
        (upward_imports, "settings/flat.py", "from trajmatch.data import files"),
        (upward_imports, "data/files.py", "from trajmatch.settings import flat"),
        (upward_imports, "methods/outer.py", "from trajmatch.machine import lock"),
        (upward_imports, "run/assembly/setup.py", "from trajmatch.run.stages import loop"),
        (upward_imports, "run/folder.py", "from trajmatch.run.assembly import setup"),
        (upward_imports, "run/stages/loop.py", "from trajmatch.run import somewhere"),
        (late_imports, "run/stages/loop.py", "def f():\n    from trajmatch.run import folder"),
        (many_parameters, "run/stages/loop.py", "def f(a, b, c, d, e, f, g, *, h): ..."),
        (upward_imports, "pages/tables.py", "import trajmatch"),
        (torch_imports, "pages/plots.py", "def f():\n    import torch"),
        (torch_imports, "pages/plots.py", "from torch import Tensor"),
        (upward_imports, "core/inner.py", "from trajmatch.core.rate import f"),
        (upward_imports, "core/inner.py", "from . import hypergradient"),
        (upward_imports, "core/inner.py", "from .inner import f"),
        (upward_imports, "core/inner.py", "from trajmatch.core import Layout"),
        (upward_imports, "core/inner.py", "import trajmatch.core"),
        (foreign_imports, "core/inner.py", "import numpy as np"),
        (foreign_imports, "core/inner.py", "def f():\n    from logging import getLogger"),
        (foreign_imports, "core/inner.py", "from trajmatch.data import images"),
        (impurities, "core/inner.py", "print(x)"),
        (impurities, "core/inner.py", "open('f')"),
        (impurities, "core/inner.py", "x.sum().item()"),
        (impurities, "core/inner.py", "x.cuda()"),
        (impurities, "core/inner.py", "torch.manual_seed(0)"),
        (impurities, "core/inner.py", "from torch import manual_seed as s\ns(0)"),
        (impurities, "core/inner.py", "torch.randn(3)"),
        (impurities, "core/inner.py", "torch.randint(0, 2, (3,), generator=None)"),
        (impurities, "core/inner.py", "import torch as t\nt.randperm(3)"),
        (impurities, "core/inner.py", "from torch import rand\nrand(3)"),
        (impurities, "core/inner.py", "torch.empty(3).normal_()"),
        (oversized, "run/loop.py", "x = 1\n" * 301),
        (oversized, "run/loop.py", "def f():\n" + "    x = 1\n" * 40),
        (oversized, "run/loop.py", "def f():\n    x = [\n" + "        1,\n" * 37 + "    ]\n    return x"),
        (method_names, "run/stages/steps.py", "config.method == 'dm'"),
        (method_names, "settings/checks.py", "c.x if c.method not in ('dc', 'dsa') else 0"),
        (unsafe_loads, "data/images.py", "import pickle\npickle.load(f)"),
        (unsafe_loads, "data/images.py", "from pickle import loads as read\nread(f)"),
        (unsafe_loads, "data/images.py", "import pickle\nclass U(pickle.Unpickler):\n    pass"),
        (unsafe_loads, "data/images.py", "import torch\ntorch.load(f)"),
        (unsafe_loads, "data/images.py", "import torch\ntorch.load(f, weights_only=False)"),
        (unsafe_loads, "data/images.py", "import torch\nread = torch.load"),
        (unsafe_loads, "data/images.py", "import numpy as np\nnp.load(f, allow_pickle=True)"),
        (doubles_on_a_device, "run/loop.py", "x.double().cpu()"),
        (doubles_on_a_device, "methods/outer.py", "(x / y).double()"),
        (doubles_on_a_device, "core/inner.py", "x.to(torch.float64).cpu()"),
        (doubles_on_a_device, "core/inner.py", "x.to(dtype=torch.double)"),
        (doubles_on_a_device, "measure/panel.py", "torch.zeros(3, dtype=torch.float64, device=x.device)"),
        (swallowed_errors, "run/loop.py", "try:\n    f()\nexcept:\n    g()"),
        (swallowed_errors, "run/loop.py", "try:\n    f()\nexcept (OSError, Exception):\n    pass"),
        (swallowed_errors, "run/loop.py", "with contextlib.suppress(Exception):\n    f()"),
    ],
)
def test_violations_are_found(rule: Rule, path: str, source: str) -> None:
    assert len(rule(source, f"trajmatch/{path}")) == 1


@pytest.mark.parametrize(
    ("rule", "path", "source"),
    [
        (upward_imports, "run/stages/loop.py", "import torch\nfrom ...core import mixed\nfrom . import trials"),
        (
            upward_imports,
            "run/scores/search.py",
            "from trajmatch.run.stages import loop\nfrom trajmatch.run import folder",
        ),
        (upward_imports, "data/files.py", "from trajmatch.machine import holding"),
        (late_imports, "run/cli.py", "def f():\n    from trajmatch.run import folder"),
        (late_imports, "run/stages/loop.py", "def f():\n    import yaml"),
        (many_parameters, "run/stages/loop.py", "def f(self, a, b, c, d, e, f, g): ..."),
        (upward_imports, "core/inner.py", "from .vector import Layout\nfrom trajmatch.core import draws"),
        (upward_imports, "core/__init__.py", "from .sharpness import SAM"),
        (upward_imports, "pages/report.py", "from trajmatch.pages.tables import as_html\nfrom . import html"),
        (upward_imports, "run/loop.py", "from trajmatch.pages import tables"),
        (torch_imports, "pages/plots.py", "import matplotlib, numpy"),
        (foreign_imports, "core/inner.py", "import math, torch.nn.functional as F\nfrom .vector import Layout"),
        (impurities, "core/draws.py", "g = torch.Generator().manual_seed(1)\ntorch.rand(3, generator=g)"),
        (impurities, "core/draws.py", "g.manual_seed(1)\nx.uniform_(0, 1, generator=g)"),
        (oversized, "run/loop.py", "def f():\n    '''a\n" + "    a\n" * 90 + "    '''" + "\n    # b\n" * 90),
        (method_names, "settings/command_line.py", "a.method != b.method\nMETHODS[c.method].steps == 'none'"),
        (doubles_on_a_device, "run/loop.py", "x.cpu().double()\nx.y.cpu().to(torch.float64)\nx.to(like)"),
        (doubles_on_a_device, "run/loop.py", "torch.zeros(3, dtype=torch.float64)"),
        (doubles_on_a_device, "data/whitening.py", "x.double()"),
        (unsafe_loads, "data/images.py", "import torch\ntorch.load(f, weights_only=True)\njson.load(f)"),
        (unsafe_loads, "data/images.py", "import pickle as p\nclass U(p.Unpickler):\n    def find_class(self): ..."),
        (swallowed_errors, "run/loop.py", "try:\n    f()\nexcept OSError:\n    pass\nexcept Exception as e:\n    g(e)"),
    ],
)
def test_good_code_passes(rule: Rule, path: str, source: str) -> None:
    assert rule(source, f"trajmatch/{path}") == []
