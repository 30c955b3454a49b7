"""The verbs: what each of them does, in one table. Nothing here imports torch before it must."""

from collections.abc import Callable, Iterable
from contextlib import closing, nullcontext
from dataclasses import replace
from importlib import import_module
from pathlib import Path
from typing import Any, Literal, NamedTuple

from trajmatch.data.file_names import SUMMARY
from trajmatch.machine.holding import Held
from trajmatch.run.ending import NOTHING
from trajmatch.run.folder import saved
from trajmatch.settings import command_line as line
from trajmatch.settings import options
from trajmatch.settings.choices import NOTHING_LEFT, Left
from trajmatch.settings.config import Config
from trajmatch.settings.diagnoses import NAMES as DIAGNOSES
from trajmatch.settings.inputs import Images
from trajmatch.settings.presets import NAMES, about
from trajmatch.settings.typed import check_typed
from trajmatch.settings.words import HELP


class Call(NamedTuple):
    """A command line that is understood.

    command: the words as a shell takes them, without --resume, so that a resumed run says what was begun.
    name:    the word after the verb, where it is no flag.
    rest:    the words behind it.
    place:   the run folder that is worked in, or the distilled set that is worked on.
    config:  the configuration, where the verb takes one.
    own:     what the verb is asked besides.
    started: the preset that the settings started from and nothing but flags changed.
    left:    the settings that the images decide, or the minutes that there are.
    """

    command: str
    name: str | None
    rest: list[str]
    place: Path = Path()
    config: Config = Config()
    own: Any = None
    started: str | None = None
    left: Left = NOTHING_LEFT


class Verb(NamedTuple):
    """What a verb does, and how it is called.

    what:    what it does, as the overview says it.
    kept:    what is saved where it is interrupted, and what is not; None is for what its folder holds to tell.
    run:     does it, and returns the exit code.
    base:    where its configuration starts: at a preset, at the settings in a set's file; None takes no configuration.
    options: what it can be asked besides the configuration.
    over_ranks: whether the processes of a torchrun job share its work; else rank 0 does it alone.
    """

    what: str
    kept: str | None
    run: Callable[[Call], int]
    base: Literal["preset", "set"] | None = None
    options: type = line.Nothing
    over_ranks: bool = False


def prepare() -> None:
    """Import torch in one piece: an interrupt in the middle of it can end the process in many ways."""
    with Held():
        from trajmatch.run.assembly.engine import prepare_process

        prepare_process()
        # All that a verb may use, for an interrupt inside a later import is no better.
        for name in ("stages.run", "scores.evaluate", "scores.search", "scores.continual", "diagnose.frame"):
            import_module(f"trajmatch.run.{name}")


def _run(call: Call) -> int:
    from trajmatch.run.stages.run import run

    run(call.config, call.place, call.command, call.started, call.left)
    return 0


def _experts(call: Call) -> int:
    from trajmatch.machine.processes import Peak
    from trajmatch.run.stages.run import run_experts

    folder = call.place if call.config.out else call.place / "experts"
    run_experts(call.config, folder, Peak(), left=call.left)
    return 0


def _distill(call: Call) -> int:
    from trajmatch.run.stages.run import begun

    with closing(begun(call.config, call.place, call.command, call.left)) as this:
        this.experts()
        this.distill()
    return 0


def _plan(call: Call) -> int:
    from trajmatch.run.stages.run import plan

    return _print(plan(call.config, call.own, call.left))


def _evaluate(call: Call) -> int:
    from trajmatch.machine.lock import Lock
    from trajmatch.run.assembly.set_file import set_file
    from trajmatch.run.scores.evaluate import evaluate_set

    with Lock(set_file(call.place).parent):
        evaluate_set(call.place, call.config, call.own)
    return 0


def _search(call: Call) -> int:
    from trajmatch.machine.lock import Lock
    from trajmatch.run.assembly.distilled import opened_set
    from trajmatch.run.assembly.set_file import set_file
    from trajmatch.run.scores.search import check, lines, search

    check(call.own)
    with Lock(set_file(call.place).parent):
        setup, synthetic, file = opened_set(call.place, call.config)
        return _print(lines(search(setup, call.own, synthetic, file, call.command)))


def _continual(call: Call) -> int:
    from trajmatch.run.scores.continual import continual, lines

    return _print(lines(continual(call.config, call.own, _stream(call), call.command)))


def _stream(call: Call) -> Path:
    """The folder of a stream of classes."""
    return call.place if call.config.out else Path(f"{call.place}-continual")


def kept(verb: str, call: Call | None) -> str:
    """What is saved where a verb is interrupted, and what is not. call: None where none was understood yet."""
    said = VERBS[verb].kept
    if said is not None or call is None:
        return said or NOTHING
    folder = _stream(call) if verb == "continual" else call.place
    return saved(folder.parent if folder.is_file() else folder)  # of a set, beside which numbers lie


def _compare(call: Call) -> int:
    from trajmatch.run.compare.compare import compare

    words = [*([call.name] if call.name is not None else []), *call.rest]
    count = next((k for k, word in enumerate(words) if word.startswith("-")), len(words))
    usage = "trajmatch compare FOLDER [FOLDER ...]"
    own = line.parse(options.Compare, usage, words[count:], options.Compare(), "Compare finished runs.")
    return _print([compare([line.place(name) for name in words[:count]], line.at_home(own))])


def _export(call: Call) -> int:
    usage, what = "trajmatch export [FOLDER|FILE|PRESET]", "Write a distilled set as the files of another program."
    own = line.at_home(line.parse(options.Export, usage, call.rest, options.Export(), what))
    prepare()
    from trajmatch.run.exchange.export import export

    return _print(export(line.place(call.name), own))


def _import(call: Call) -> int:
    names = [*([call.name] if call.name is not None else []), *call.rest]
    count = next((k for k, word in enumerate(names) if word.startswith("-")), len(names))
    base = replace(Config(), images=replace(Images(), hold_out=False))
    asked = line.configuration("trajmatch import FILE [FILE ...]", base, names[count:], options.Import)
    if asked.config.images.hold_out:
        raise line.UsageError("--images.hold-out: files of other programs are of all training images; leave it out")
    prepare()
    from trajmatch.run.exchange.imports import import_files

    target = Path(asked.config.out or "runs/imported")
    paths = [line.expand_home(name, "the name") for name in names[:count]]
    return _print(import_files(paths, asked.config, asked.options, target))


def _diagnose(call: Call) -> int:
    if call.name is None and not call.rest:
        usage = "usage: trajmatch diagnose NAME --run FOLDER [FOLDER ...]\n"
        return _print([usage, *(f"  {known:<20} {what}" for known, what in DIAGNOSES.items())])
    usage, what = "trajmatch diagnose NAME", "Look at runs; they stay as is."
    own = line.at_home(line.parse(options.Diagnose, usage, call.rest, options.Diagnose(), what))
    prepare()
    from trajmatch.run.diagnose.frame import diagnose

    return _print([diagnose(call.name or "", own, call.command)])


def _report(call: Call) -> int:
    if call.rest:
        if not HELP & set(call.rest):
            check_typed(line.Nothing, "trajmatch report", call.rest)  # it knows no flag
        return _print(["usage: trajmatch report [FOLDER|PRESET]\n\nWrite report.html of a run folder again."])
    from trajmatch.machine.lock import Lock
    from trajmatch.pages.report import write_report

    folder = line.place(call.name)
    # Without a summary nothing is written, the lock's file included.
    with Lock(folder) if (folder / SUMMARY).is_file() else nullcontext():
        return _print([write_report(folder)])


def _push(call: Call) -> int:
    name, rest = line.name_first(call.rest)
    usage, what = "trajmatch push RUN NAME", "Upload a distilled set to the Hugging Face Hub."
    own = line.at_home(line.parse(options.Push, usage, rest, options.Push(), what))
    if call.name is None or name is None:
        raise line.UsageError("trajmatch push needs a run folder or a set, and the name of a repository: RUN NAME")
    prepare()
    from trajmatch.run.push import push

    return _print([push(line.place(call.name), name, own)])


def _presets(call: Call) -> int:
    if call.name is None and call.rest:
        if not HELP & set(call.rest):
            raise line.UsageError(f"{call.rest[0]} is of one preset: name it first, trajmatch presets PRESET")
        return _print(["usage: trajmatch presets [PRESET [--method METHOD]]\n\nList the presets, or show all of one."])
    if call.name is None:
        return _print(f"{known:<20} {about(known)}" for known in NAMES)
    import yaml

    from trajmatch.settings.flat import flatten, nest

    config = line.settings_of("presets", call.name, call.rest).config
    print(yaml.safe_dump(nest(flatten(config)), sort_keys=False, allow_unicode=True), end="")
    return 0


def _print(lines: Iterable[Any]) -> int:
    for one in lines:
        print(one)
    return 0


VERBS = {
    "run": Verb(
        "experts, distill, evaluate and report in one folder; what is done is not done again",
        None, _run, "preset", options.Run, over_ranks=True,
    ),
    "experts": Verb(
        "train networks on the real images and keep their weights along the way",
        None, _experts, "preset", over_ranks=True,
    ),
    "distill": Verb(
        "optimise the synthetic images against the experts",
        None, _distill, "preset", over_ranks=True,
    ),
    "evaluate": Verb(
        "train networks on a distilled set (a run folder or a .safetensors file) and test them",
        None, _evaluate, "set", options.Evaluate, over_ranks=True,
    ),
    "search": Verb(
        "does a distilled set rank networks as the whole data set does? Rank correlations over a space",
        None, _search, "set", options.Search, over_ranks=True,
    ),
    "continual": Verb(
        "classes arrive in steps, and only the new ones are condensed: accuracy on all that were seen",
        None, _continual, "preset", options.Continual, over_ranks=True,
    ),
    "compare": Verb(
        "one table and plots of several runs, as HTML, Markdown and CSV", "pages that were there are whole", _compare
    ),
    "export": Verb(
        "write a distilled set as PNG images, Parquet, .npz, or the files of MTT and DD-Ranking, with a README",
        "nothing was written",
        _export,
    ),
    "import": Verb(
        "take experts (replay_buffer_n.pt) or a set (images_best.pt, labels_best.pt) of MTT's program and its kin",
        "nothing was written",
        _import,
    ),
    "diagnose": Verb(
        "look at what matching does to the data: correlation, interference, forgetting, ...",
        "its outer steps are saved, and what else it had found is not",
        _diagnose,
    ),
    "report": Verb("write report.html of a run folder again", "the page that was there is whole", _report),
    "plan": Verb(
        "say what time, memory and disk a run would take on this machine, by doing a little of it",
        "nothing is left of it",
        _plan, "preset", options.Plan,
    ),
    "push": Verb("upload a distilled set to the Hugging Face Hub", "the Hub has all of it or nothing", _push),
    "presets": Verb("list the presets, or show all settings of one", "nothing was changed", _presets),
}  # fmt: skip
