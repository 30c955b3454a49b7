"""The command line: `trajmatch VERB [PRESET] [--config FILE] [flags]`. Nothing here imports torch before it must."""

import sys
from collections.abc import Sequence
from contextlib import redirect_stderr, redirect_stdout
from difflib import get_close_matches
from io import StringIO
from pathlib import Path

from trajmatch.data.file_names import CONFIG
from trajmatch.machine import torchrun
from trajmatch.machine.messages import heard
from trajmatch.run.assembly.set_file import base_configuration
from trajmatch.run.ending import NOTHING, ended
from trajmatch.run.verbs import VERBS, Call, kept, prepare
from trajmatch.settings import command_line as line
from trajmatch.settings.config import Config
from trajmatch.settings.flat import parsed
from trajmatch.settings.presets import ANY_IMAGES, DEFAULT, NAMES, preset
from trajmatch.settings.words import UsageError, check_words


def main(arguments: Sequence[str] | None = None) -> int:
    """Run one command; returns the exit code: 0, 2 for bad input, 1 for a failed run, 130 when interrupted.

    arguments: the words behind the program's name; None is the process's own, which ends with this command.
    """
    words = list(sys.argv[1:] if arguments is None else arguments)
    begun: list[Call] = []

    def said() -> str:
        return kept(words[0], begun[0] if begun else None) if words and words[0] in VERBS else NOTHING

    with heard():
        return ended(words, lambda: _dispatch(words, begun), arguments is None, said)


def overview() -> str:
    """What `trajmatch --help` says."""
    verbs = "\n".join(f"  {name:<10} {verb.what}" for name, verb in VERBS.items())
    return f"""usage: trajmatch VERB [PRESET] [--config FILE] [flags]

Distils a real image dataset into a tiny synthetic one by trajectory matching.

verbs:
{verbs}

`trajmatch run` alone runs the preset {DEFAULT}; `trajmatch run --data FOLDER` starts from the preset {ANY_IMAGES}.
`trajmatch VERB --help` lists the flags."""


def _dispatch(words: list[str], begun: list[Call]) -> int:
    """Do what the words say; the call that they mean is added to `begun`. Returns the exit code."""
    if torchrun.rank() > 0:
        return _serve(words)
    if not words or words[0] in ("-h", "--help", "help"):
        print(overview())
        return 0
    if words[0] in ("-V", "--version"):
        from importlib.metadata import version

        print(f"trajmatch {version('trajmatch')}")
        return 0
    verb, rest = words[0], words[1:]
    check_words(rest)
    if verb not in VERBS:
        near = get_close_matches(verb, VERBS, n=1, cutoff=0.4)
        hint = f"did you mean {near[0]}?" if near else "see trajmatch --help"
        raise UsageError(f"'{verb}' is not a verb; {hint}")
    found, call = VERBS[verb], _understood(verb, rest)
    begun.append(call)
    if torchrun.world() == 1 or not found.over_ranks:
        return found.run(call)
    from trajmatch.machine.ranks import joined

    with joined(_kind(call.config)):
        return found.run(call)


def _serve(words: list[str]) -> int:
    """At a rank that is not the first: help rank 0 with the same command, or end where it takes no help.

    What is wrong with a command, and what it prints, is rank 0's to say.
    """
    if not words or words[0] not in VERBS or not VERBS[words[0]].over_ranks or {"-h", "--help"} & set(words):
        return 0
    with heard(quiet=True):
        try:
            with redirect_stdout(StringIO()), redirect_stderr(StringIO()):
                check_words(words[1:])
                config = _understood(words[0], words[1:]).config
                from trajmatch.machine.peer import limit

                limit()
        except (ValueError, OSError, SystemExit):
            return 2
        from trajmatch.machine.ranks import serve

        return serve(_kind(config))


def _kind(config: Config) -> str:
    """The kind of device that the settings mean, where ranks are about to use it. Raises ValueError."""
    from trajmatch.machine.determinism import prepare as fix
    from trajmatch.run.assembly.setup import device

    found = device(config.device)
    if config.deterministic:
        fix(found)
    return found.type


def _understood(verb: str, rest: list[str]) -> Call:
    """The call that words behind a verb mean."""
    call = Call(line.quoted([word for word in (verb, *rest) if word != "--resume"]), *line.name_first(rest))
    if (base := VERBS[verb].base) is None:
        return call
    return _from_preset(verb, call) if base == "preset" else _from_set(verb, call)


def _from_preset(verb: str, call: Call) -> Call:
    """The command with the settings of a preset, changed by file and flags, and the folder that they work in."""
    if call.name is not None and call.name not in NAMES and Path(call.name).exists():
        done = Path(call.name, CONFIG).is_file()
        instead = f"trajmatch evaluate {call.name} scores its set" if done else f"--data {call.name} names images"
        raise UsageError(f"'{call.name}' is no preset but a path; {instead}")
    base, config, given, own, left = line.settings_of(verb, call.name, call.rest, VERBS[verb].options)
    # A stream's folder is named for its data, not for the file of its settings.
    name = call.name or (Path(given).stem if given and verb != "continual" else None)
    place = Path(config.out) if config.out is not None else line.default_folder(name, base, config)
    started = call.name or (DEFAULT if base == preset(DEFAULT) and not given else None)
    prepare()
    return call._replace(place=place, config=config, own=own, started=started, left=left)


def _from_set(verb: str, call: Call) -> Call:
    """The command with a distilled set's own settings, changed by flags."""
    program, own = f"trajmatch {verb} [FOLDER|FILE|PRESET]", VERBS[verb].options
    if {"-h", "--help"} & set(call.rest):
        line.configuration(program, preset(DEFAULT), call.rest, own)
    path = line.place(call.name)
    base = parsed(base_configuration(path), str(path))
    asked = line.configuration(program, base, call.rest, own)
    if asked.config.method != base.method:
        raise ValueError(f"--method is {asked.config.method}, and {path} was made by {base.method}: leave it out")
    asked = line.put_back(asked, line.tell_idle(verb, call.rest, asked))
    prepare()
    return call._replace(place=path, config=asked.config, own=asked.options)


if __name__ == "__main__":
    sys.exit(main())
