"""The command line: `trajmatch VERB [PRESET] [--config FILE] [flags]`. Nothing here imports torch before it must."""

import sys
from collections.abc import Sequence
from contextlib import nullcontext
from difflib import get_close_matches
from pathlib import Path

from trajmatch.data.file_names import SUMMARY
from trajmatch.machine.holding import Held
from trajmatch.machine.messages import heard
from trajmatch.run.ending import ended
from trajmatch.settings.command_line import (
    Asked,
    Nothing,
    UsageError,
    at_home,
    check_words,
    configuration,
    default_folder,
    named,
    parse,
    positional,
    put_back,
    settings_of,
    tell_idle,
)
from trajmatch.settings.presets import DEFAULT, NAMES, about, preset

OVERVIEW = """usage: trajmatch VERB [PRESET] [--config FILE] [flags]

Distils a real image dataset into a tiny synthetic one by trajectory matching.

verbs:
  run        experts, distill, evaluate and report in one folder; what is done is not done again
  experts    train networks on the real images and keep their weights along the way
  distill    optimise the synthetic images against the experts
  evaluate   train networks on a distilled set (a run folder or a .safetensors file) and test them
  search     does a distilled set rank networks as the whole data set does? Rank correlations over a space
  continual  classes arrive in steps, and only the new ones are condensed: accuracy on all that were seen
  compare    one table and plots of several runs, as HTML, Markdown and CSV
  diagnose   look at what matching does to the data: correlation, interference, forgetting, ...
  report     write report.html of a run folder again
  plan       say what time, memory and disk a run would take on this machine, by doing a little of it
  presets    list the presets, or show all settings of one

`trajmatch run` alone runs the preset digits-ipc1; `trajmatch run --data FOLDER` starts from the preset images.
`trajmatch VERB --help` lists the flags.
"""
VERBS = (
    "run", "experts", "distill", "evaluate", "search", "continual", "compare", "diagnose", "report", "plan", "presets",
)  # fmt: skip


def main(arguments: Sequence[str] | None = None) -> int:
    """Run one command; returns the exit code: 0, 2 for bad input, 1 for a failed run, 130 when interrupted.

    arguments: the words behind the program's name; None is the process's own, which ends with this command.
    """
    words = list(sys.argv[1:] if arguments is None else arguments)
    with heard():
        return ended(words, lambda: _dispatch(words), for_good=arguments is None)


def _dispatch(words: list[str]) -> int:
    if not words or words[0] in ("-h", "--help", "help"):
        print(OVERVIEW, end="")
        return 0
    if words[0] in ("-V", "--version"):
        from importlib.metadata import version

        print(f"trajmatch {version('trajmatch')}")
        return 0
    verb, rest = words[0], words[1:]
    check_words(rest)
    if verb not in VERBS:
        near = get_close_matches(verb, VERBS, n=1, cutoff=0.4)
        raise UsageError(f"'{verb}' is not a verb; {f'did you mean {near[0]}?' if near else 'see trajmatch --help'}")
    if verb in ("evaluate", "search", "continual"):
        _prepare()
    if verb in OTHERS:
        return OTHERS[verb](rest, words)
    return _work(verb, rest, words)


def _prepare() -> None:
    """Import torch in one piece: an interrupt in the middle of it can end the process in many ways."""
    with Held():
        from trajmatch.run.assembly.engine import prepare_process

        prepare_process()


def _work(verb: str, rest: list[str], words: list[str]) -> int:
    """The verbs that take a whole configuration: run, experts, distill, plan."""
    name, rest = positional(rest)
    base, config, given, _ = settings_of(verb, name, rest)
    folder = (
        Path(config.out)
        if config.out is not None
        else default_folder(name or (given and Path(given).stem), base, config)
    )
    _prepare()
    with Held():
        from trajmatch.run.stages import run as verbs

    command = verbs.quoted([word for word in words if word != "--resume"])
    if verb == "experts":
        verbs.run_experts(config, folder if config.out else folder / "experts", verbs.Peak())
    elif verb == "run":
        verbs.run(config, folder, command, name or (DEFAULT if base == preset(DEFAULT) and not given else None))
    elif verb == "plan":
        for line in verbs.plan(config):
            print(line)
    else:
        this = verbs.Run(config, folder, command)
        this.experts()
        this.distill()
    return 0


def _of_set(verb: str, rest: list[str], own: type = Nothing) -> tuple[Path, Asked]:
    """A distilled set's path, and its own settings with flags over them."""
    from trajmatch.run.assembly.distilled import base_configuration
    from trajmatch.settings.stored import parsed

    name, rest = positional(rest)
    program = f"trajmatch {verb} [FOLDER|FILE|PRESET]"
    if "-h" in rest or "--help" in rest:
        configuration(program, preset(DEFAULT), rest, own)
    path = named(name)
    asked = configuration(program, parsed(base_configuration(path), str(path)), rest, own)
    asked = put_back(asked, tell_idle(verb, rest, asked))
    _prepare()
    return path, asked


def _evaluate(rest: list[str], words: list[str]) -> int:
    from trajmatch.machine.lock import Lock
    from trajmatch.run.assembly.distilled import set_file
    from trajmatch.run.scores.evaluate import evaluate_set
    from trajmatch.settings.options import Scored

    path, asked = _of_set("evaluate", rest, Scored)
    with Lock(set_file(path).parent):
        evaluate_set(path, asked.config, asked.options)
    return 0


def _search(rest: list[str], words: list[str]) -> int:
    from trajmatch.machine.lock import Lock
    from trajmatch.run.assembly.distilled import opened_set, set_file
    from trajmatch.run.scores.search import Options, check, lines, search
    from trajmatch.run.stages.run import quoted, say

    path, asked = _of_set("search", rest, Options)
    check(asked.options)
    with Lock(set_file(path).parent):
        config, synthetic, material, file = opened_set(path, asked.config)
        for line in lines(search(config, asked.options, material, synthetic, file, quoted(words), say)):
            print(line)
    return 0


def _continual(rest: list[str], words: list[str]) -> int:
    name, rest = positional(rest)
    from trajmatch.run.scores.continual import Options, continual, lines
    from trajmatch.run.stages.run import quoted, say

    base, config, _, options = settings_of("continual", name, rest, Options)
    folder = Path(config.out) if config.out else Path(f"{default_folder(name, base, config)}-continual")
    _prepare()
    for line in lines(continual(config, options, folder, quoted([w for w in words if w != "--resume"]), say)):
        print(line)
    return 0


def _compare(rest: list[str], words: list[str]) -> int:
    from trajmatch.run.compare.compare import Options, compare

    count = next((k for k, word in enumerate(rest) if word.startswith("-")), len(rest))
    usage = "trajmatch compare FOLDER [FOLDER ...]"
    options = at_home(parse(Options, usage, rest[count:], Options(), "Compare finished runs."))
    print(compare([named(name) for name in rest[:count]], options, print))
    return 0


def _diagnose(rest: list[str], words: list[str]) -> int:
    name, rest = positional(rest)
    from trajmatch.run.diagnose.frame import diagnose
    from trajmatch.settings.diagnoses import NAMES as DIAGNOSES
    from trajmatch.settings.options import Options

    if name is None and not rest:
        print("usage: trajmatch diagnose NAME --run FOLDER [FOLDER ...]\n")
        for known, what in DIAGNOSES.items():
            print(f"  {known:<20} {what}")
        return 0
    about = "Look at runs; they stay as is."
    options = at_home(parse(Options, "trajmatch diagnose NAME", rest, Options(), about))
    _prepare()
    from trajmatch.run.stages import run as verbs

    print(diagnose(name or "", options, verbs.quoted(words), verbs.say))
    return 0


def _report(rest: list[str], words: list[str]) -> int:
    name, rest = positional(rest)
    if rest:
        print("usage: trajmatch report [FOLDER|PRESET]\n\nWrite report.html of a run folder again.")
        return 0 if rest[0] in ("-h", "--help") else 2
    from trajmatch.machine.lock import Lock
    from trajmatch.pages.report import write_report

    folder = named(name)
    # Without a summary nothing is written, the lock's file included.
    with Lock(folder) if (folder / SUMMARY).is_file() else nullcontext():
        print(write_report(folder))
    return 0


def _presets(rest: list[str], words: list[str]) -> int:
    name, rest = positional(rest)
    if name is None:
        if rest:
            print("usage: trajmatch presets [PRESET [--method METHOD]]\n\nList the presets, or show all of one.")
            return 0 if rest[0] in ("-h", "--help") else 2
        for known in NAMES:
            print(f"{known:<20} {about(known)}")
        return 0
    import yaml

    from trajmatch.settings.flat import flatten
    from trajmatch.settings.stored import nest

    config = settings_of("presets", name, rest).config
    print(yaml.safe_dump(nest(flatten(config)), sort_keys=False, allow_unicode=True), end="")
    return 0


# Verbs beside those that take a whole configuration.
OTHERS = {
    "evaluate": _evaluate,
    "search": _search,
    "continual": _continual,
    "compare": _compare,
    "diagnose": _diagnose,
    "report": _report,
    "presets": _presets,
}


if __name__ == "__main__":
    sys.exit(main())
