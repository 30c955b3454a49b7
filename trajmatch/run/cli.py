"""The command line: `trajmatch VERB [PRESET] [--config FILE] [flags]`. Nothing here imports torch before it must."""

import os
import signal
import sys
from collections.abc import Sequence
from dataclasses import replace
from difflib import get_close_matches
from pathlib import Path

from trajmatch.run.config import Config
from trajmatch.run.interrupts import handling, raise_interrupt
from trajmatch.run.presets import ANY_IMAGES, DEFAULT, NAMES, PUBLISHED, about, preset

OVERVIEW = """usage: trajmatch VERB [PRESET] [--config FILE] [flags]

Distils a real image dataset into a tiny synthetic one by trajectory matching.

verbs:
  run        experts, distill, evaluate and report in one folder; what is done is not done again
  experts    train networks on the real images and keep their weights along the way
  distill    optimise the synthetic images against the experts
  evaluate   train networks on a distilled set (a run folder or a .safetensors file) and test them
  compare    one table and plots of several runs, as HTML, Markdown and CSV
  diagnose   look at what matching does to the data: correlation, interference, forgetting, ...
  report     write report.html of a run folder again
  plan       say what time, memory and disk a run would take on this machine, by doing a little of it
  presets    list the presets, or show all settings of one

`trajmatch run` alone runs the preset digits-ipc1; `trajmatch run --data FOLDER` starts from the preset images.
`trajmatch VERB --help` lists the flags.
"""
VERBS = ("run", "experts", "distill", "evaluate", "compare", "diagnose", "report", "plan", "presets")


class UsageError(ValueError):
    """A command line that can't be understood."""


def main(arguments: Sequence[str] | None = None) -> int:
    """Run one command; returns the exit code: 0, 2 for bad input, 1 for a failed run, 130 when interrupted."""
    words = list(sys.argv[1:] if arguments is None else arguments)
    with handling(raise_interrupt, signal.SIGTERM):  # a scheduler's request to end is as good as Ctrl-C
        try:
            return _dispatch(words)
        except (FloatingPointError, MemoryError, ChildProcessError) as error:
            return _refuse(str(error) or "out of memory", 1)
        except ValueError as error:
            return _refuse(str(error), 2)
        except OSError as error:
            return _refuse(_os_error(error), 2)
        except KeyboardInterrupt:
            return _refuse(f"interrupted; what was computed is saved. To go on: {_again(words)}", 130)


def _refuse(sentence: str, code: int) -> int:
    print(f"trajmatch: {sentence}", file=sys.stderr)
    return code


def _dispatch(words: list[str]) -> int:
    if not words or words[0] in ("-h", "--help", "help"):
        print(OVERVIEW, end="")
        return 0
    if words[0] in ("-V", "--version"):
        from importlib.metadata import version

        print(f"trajmatch {version('trajmatch')}")
        return 0
    verb, rest = words[0], words[1:]
    if verb not in VERBS:
        near = get_close_matches(verb, VERBS, n=1, cutoff=0.4)
        raise UsageError(f"'{verb}' is not a verb; {f'did you mean {near[0]}?' if near else 'see trajmatch --help'}")
    if verb == "presets":
        return _presets(rest)
    if verb == "report":
        return _report(rest)
    if verb == "evaluate":
        return _evaluate(rest)
    if verb == "compare":
        return _compare(rest)
    if verb == "diagnose":
        return _diagnose(rest, words)
    return _work(verb, rest, words)


def _work(verb: str, rest: list[str], words: list[str]) -> int:
    """The verbs that take a whole configuration: run, experts, distill, plan."""
    name, rest = _positional(rest)
    base, config, given = _settings(verb, name, rest)
    folder = (
        Path(config.out)
        if config.out is not None
        else default_folder(name or (given and Path(given).stem), base, config)
    )
    _prepare_process()
    from trajmatch.run import verbs

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


def _settings(verb: str, name: str | None, rest: list[str]) -> tuple[Config, Config, str | None]:
    """Where the settings start, what they are after file and flags, and the file's name."""
    program, base = f"trajmatch {verb}", preset(name or DEFAULT)
    config, given = _configuration(program, base, rest)
    if name is None and config.data != base.data:
        base = preset(ANY_IMAGES)
        config, given = _configuration(program, base, rest)
    if name in PUBLISHED and config.method != base.method:
        numbers = preset(name, config.method)  # a published preset has other numbers for each method
        config, given = _configuration(program, numbers, rest)
        base = replace(numbers, method=base.method)
    return base, config, given


def default_folder(name: str | None, base: Config, config: Config) -> Path:
    """runs/PRESET, with what the everyday flags changed: runs/cifar10-16px-ipc10-seed3."""
    if name is None:
        name = DEFAULT if base == preset(DEFAULT) else Path(config.data).stem or "images"
    changed = [
        f"{key}{getattr(config, key)}" if key != "method" else config.method
        for key in ("ipc", "method", "steps", "seed")
        if getattr(config, key) != getattr(base, key)
    ]
    return Path("runs") / "-".join([name, *changed])


def _evaluate(rest: list[str]) -> int:
    name, rest = _positional(rest)
    from trajmatch.run.folder import parsed
    from trajmatch.run.scoring import base_configuration, evaluate_set

    if "-h" in rest or "--help" in rest:
        _configuration("trajmatch evaluate [FOLDER|FILE|PRESET]", preset(DEFAULT), rest)
    path = _named(name)
    config, _ = _configuration("trajmatch evaluate", parsed(base_configuration(path)), rest)
    _prepare_process()
    evaluate_set(path, config)
    return 0


def _compare(rest: list[str]) -> int:
    import tyro

    from trajmatch.run.compare import Options, compare

    count = next((k for k, word in enumerate(rest) if word.startswith("-")), len(rest))
    usage = "trajmatch compare FOLDER [FOLDER ...]"
    options = tyro.cli(Options, args=rest[count:], prog=usage, description="Compare finished runs.")
    print(compare([_named(name) for name in rest[:count]], options, print))
    return 0


def _diagnose(rest: list[str], words: list[str]) -> int:
    name, rest = _positional(rest)
    from trajmatch.run.diagnose import NAMES as DIAGNOSES
    from trajmatch.run.diagnose import diagnose
    from trajmatch.run.options import Options

    if name is None and not rest:
        print("usage: trajmatch diagnose NAME --run FOLDER [FOLDER ...]\n")
        for known, what in DIAGNOSES.items():
            print(f"  {known:<20} {what}")
        return 0
    import tyro

    options = tyro.cli(Options, args=rest, prog="trajmatch diagnose NAME", description="Look at runs; they stay as is.")
    _prepare_process()
    from trajmatch.run import verbs

    print(diagnose(name or "", options, verbs.quoted(words), verbs.say))
    return 0


def _report(rest: list[str]) -> int:
    name, rest = _positional(rest)
    if rest:
        print("usage: trajmatch report [FOLDER|PRESET]\n\nWrite report.html of a run folder again.")
        return 0 if rest[0] in ("-h", "--help") else 2
    from trajmatch.run.report import write_report

    print(write_report(_named(name)))
    return 0


def _named(name: str | None) -> Path:
    """A run folder or a file by its path, or by the preset that it was made from."""
    return Path(name) if name and name not in NAMES else Path("runs") / (name or DEFAULT)


def _presets(rest: list[str]) -> int:
    name, rest = _positional(rest)
    if name is None:
        if rest:
            print("usage: trajmatch presets [PRESET [--method METHOD]]\n\nList the presets, or show all of one.")
            return 0 if rest[0] in ("-h", "--help") else 2
        for known in NAMES:
            print(f"{known:<20} {about(known)}")
        return 0
    import yaml

    from trajmatch.run.folder import nest
    from trajmatch.run.settings import flatten

    _, config, _ = _settings("presets", name, rest)
    print(yaml.safe_dump(nest(flatten(config)), sort_keys=False, allow_unicode=True), end="")
    return 0


def _positional(rest: list[str]) -> tuple[str | None, list[str]]:
    """The word after the verb, where it is no flag, and what follows."""
    if rest and not rest[0].startswith("-"):
        return rest[0], rest[1:]
    return None, rest


def _configuration(program: str, base: Config, rest: list[str]) -> tuple[Config, str | None]:
    """The preset, changed by the file, changed by the flags; and the file's name. Exits 2 on a wrong flag."""
    import tyro

    rest, given = _without_config(expanded(rest))
    words = list(rest)
    if given is not None:
        from trajmatch.run.folder import flags, read_config

        words = flags(read_config(Path(given))) + words
    return tyro.cli(Config, args=words, default=base, prog=program, description=DESCRIPTION), given


DESCRIPTION = "[PRESET] names where the settings start; --config FILE reads settings from YAML; flags change both."


def expanded(words: list[str]) -> list[str]:
    """Short flags written out."""
    short = {"--flat": ("--expert.flat", "yes"), "--networks": ("--evaluation.architectures",)}
    short["--ranking"] = ("--evaluation.ranking",)
    return [part for word in words for part in short.get(word, (word,))]


def _without_config(rest: list[str]) -> tuple[list[str], str | None]:
    words, given = [], None
    remaining = iter(rest)
    for word in remaining:
        if word == "--config":
            given = next(remaining, None)
            if given is None:
                raise UsageError("--config needs the name of a YAML file")
        elif word.startswith("--config="):
            given = word.removeprefix("--config=")
        else:
            words.append(word)
    return words, given


def _prepare_process() -> None:
    from trajmatch.run.compute import prepare_process

    prepare_process()


def _again(words: list[str]) -> str:
    import shlex

    resume = ["--resume"] if words and words[0] in ("run", "distill") and "--resume" not in words else []
    return shlex.join(["trajmatch", *words, *resume])


def _os_error(error: OSError) -> str:
    """An operating system's error as one sentence with the file's name."""
    where = f"{error.filename}: " if error.filename is not None else ""
    reason = error.strerror or str(error)
    hints = {28: "; free some space, and the same command with --resume goes on", 13: "; choose another --out"}
    hint = hints.get(error.errno or 0, "")
    return f"{where}{reason[:1].lower()}{reason[1:]}{hint}" if reason else os.strerror(error.errno or 0)


if __name__ == "__main__":
    sys.exit(main())
