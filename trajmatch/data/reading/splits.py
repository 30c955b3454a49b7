"""What the name of a folder, a file or a table says about its split: training, test, validation, or unlabelled."""

import re
from collections.abc import Sequence
from typing import Literal

Kind = Literal["train", "test", "validation", "unlabelled"]

_WORDS: dict[Kind, str] = {
    "train": "train training trn tr trainset trainingset traindata trainingdata trainval",
    "test": "test testing tests tst te testset testingset testdata testingdata",
    "validation": "val valid validation validate validating valset validationset dev devset development devel "
    "eval evaluation evaluate evaluating evalset holdout heldout",
    "unlabelled": "pred predict prediction predictions unlabelled unlabeled unsupervised",
}
_KINDS = {word: kind for kind, words in _WORDS.items() for word in words.split()}
# What stands beside a split's name without telling anything of its own.
_PLAIN_WORDS = (
    "a b c d e x img imgs image images pic pics picture pictures photo photos data dataset set sets split splits part "
    "parts partial partition piece pieces shard shards chunk chunks batch batches file files of seg the folder folders "
    "class classes labelled labeled jpg jpeg png parquet arrow"
)
_PLAIN = frozenset(_PLAIN_WORDS.split())


def _tokens(name: str) -> list[str]:
    """The words of a name in lower case, with their digits: 'seg_Train2017' -> ['seg', 'train2017']."""
    return [word.lower() for word in re.findall(r"[^\W_]+", re.sub(r"(?<=[a-z])(?=[A-Z])", "_", name))]


def words(name: str) -> list[str]:
    """The words of a name in lower case, without digits.

    >>> words("TestSet-00000-of-00002")
    ['test', 'set', 'of']
    """
    return [word for token in _tokens(name) for word in re.findall(r"[^\W\d]+", token)]


def kind_of(name: str) -> Kind | None:
    """The split that a name tells, alone or among other words; None where it tells none, or two.

    >>> kind_of("seg_train"), kind_of("bullet_train"), kind_of("trainers"), kind_of("train_test")
    ('train', 'train', None, None)
    """
    found = {_KINDS[word] for word in words(name) if word in _KINDS}
    return found.pop() if len(found) == 1 else None


def rest_of(name: str) -> tuple[str, ...]:
    """What a name tells beside its split, its numbers, and words that tell nothing.

    >>> rest_of("cifar10_train-00000-of-00002")
    ('cifar10',)
    """
    found = []
    for token in _tokens(name):
        told = [word for word in re.findall(r"[^\W\d]+", token) if word not in _KINDS and word not in _PLAIN]
        is_hash = re.fullmatch("[0-9a-f]{4,}", token) and any(sign.isdigit() for sign in token)
        if told and not is_hash:
            found.append(token)
    return tuple(found)


def is_plain(name: str) -> bool:
    """Whether a name tells a split and nothing else: 'Train_images' does, 'bullet_train' does not."""
    return kind_of(name) is not None and not rest_of(name)


def choose(names: Sequence[str], train: str | None, test: str | None, where: str) -> tuple[str, list[str]]:
    """Which of some splits is the training split, and which may be the test split, the best first.

    train, test: what a user calls them; "none" is no test split. Raises ValueError where it cannot be told.
    """
    for flag, value in (("--images.train-split", train), ("--images.test-split", test)):
        if value is not None and value not in names and not (flag.endswith("test-split") and value == "none"):
            raise ValueError(f"{flag} is '{value}' and {where} has the splits {listed(names)}.")
    if train is None:
        found = [name for name in names if kind_of(name) == "train" and name != test]
        found = [name for name in found if is_plain(name)] or found
        if not found and len(names) == 1:
            found = list(names)
        if len(found) != 1:
            raise ValueError(
                f"{where} has the splits {', '.join(names)}: one must be named 'train', or --images.train-split says "
                "which it is."
            )
        train = found[0]
    elif train == test:
        raise ValueError(f"--images.train-split and --images.test-split are both '{train}'.")
    if test is not None:
        return train, [] if test == "none" else [test]
    tests: list[str] = []
    for kind in ("test", "validation"):
        found = [name for name in names if kind_of(name) == kind and name != train]
        found = [name for name in found if is_plain(name)] or found
        if len(found) > 1 and not tests:
            raise ValueError(f"{where} has the splits {', '.join(names)}: --images.test-split says which is for test.")
        tests += found[:1]
    return train, tests


def listed(names: Sequence[str], most: int = 5) -> str:
    """The first few of some names, and how many there are beside them.

    >>> listed(["a", "b", "c"], most=2)
    'a, b and 1 more'
    """
    shown = ", ".join(names[:most])
    return f"{shown} and {len(names) - most} more" if len(names) > most else shown
