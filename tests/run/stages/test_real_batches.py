"""Batches of real images: mapped once, and to the bit what each of them is when it is mapped alone."""

import pytest
import torch
from torch import Tensor

from trajmatch.core.draws import generator
from trajmatch.data.images import Images
from trajmatch.data.whitening import InputSpace, fit
from trajmatch.run.stages import real_batches
from trajmatch.run.stages.real_batches import RealBatches

X = torch.randint(0, 256, (301, 3, 8, 8), dtype=torch.uint8, generator=generator(0, "images"))
Y = torch.tensor([0] * 100 + [1] * 150 + [2] * 51)[torch.randperm(301, generator=generator(0, "labels"))]
CPU = torch.device("cpu")


def batches(kind: str, batch: int) -> RealBatches:
    return RealBatches(Images(X, Y), 3, fit(kind, X), batch, CPU)


def one_by_one(space: InputSpace, batch: int, step: int) -> list[Tensor]:
    """The batches of a step as they were made before: drawn, then mapped each for itself."""
    source, found = generator(7, "real", step), []
    for label in range(3):
        members = (label == Y).nonzero().squeeze(1)
        chosen = members[torch.randperm(len(members), generator=source)[:batch]]
        found.append(space.forward(X[chosen]))
    return found


@pytest.mark.parametrize("kind", ["none", "channel", "zca"])
@pytest.mark.parametrize("batch", [1, 20, 33, 51, 100, 256])
def test_batches_are_what_they_are_when_mapped_alone(kind: str, batch: int) -> None:
    real = batches(kind, batch)
    for step in (0, 5):
        found, wanted = real.draw(generator(7, "real", step)), one_by_one(real.space, batch, step)
        assert [len(r) for r in found] == [min(batch, n) for n in (100, 150, 51)]
        assert all(torch.equal(one, two) for one, two in zip(found, wanted, strict=True))


def test_images_are_mapped_once(monkeypatch: pytest.MonkeyPatch) -> None:
    mapped, forward = [], InputSpace.forward
    monkeypatch.setattr(InputSpace, "forward", lambda space, x: (mapped.append(len(x)), forward(space, x))[1])
    real = batches("zca", 20)
    assert not mapped  # a run that is only looked at maps nothing
    real.draw(generator(7, "real", 0))
    assert mapped == [20] * (5 + 8 + 3)
    for step in range(1, 5):
        real.draw(generator(7, "real", step))
    assert len(mapped) == 16


def test_what_is_prepared_is_not_done_again(monkeypatch: pytest.MonkeyPatch) -> None:
    mapped, forward = [], InputSpace.forward
    monkeypatch.setattr(InputSpace, "forward", lambda space, x: (mapped.append(len(x)), forward(space, x))[1])
    real = batches("zca", 20)
    real.prepare()
    assert len(mapped) == 16
    real.draw(generator(7, "real", 0))
    assert len(mapped) == 16
    monkeypatch.setattr(real_batches, "KEPT_BYTES", 0.0)
    batches("zca", 20).prepare()
    assert len(mapped) == 16, "what is not to be kept is mapped when it is drawn"


def test_too_many_images_are_mapped_batch_by_batch(monkeypatch: pytest.MonkeyPatch) -> None:
    kept = batches("zca", 20).draw(generator(7, "real", 3))
    monkeypatch.setattr(real_batches, "KEPT_BYTES", 4.0 * X.numel() - 1)
    real = batches("zca", 20)
    assert not real.kept
    found = real.draw(generator(7, "real", 3))
    assert all(torch.equal(one, two) for one, two in zip(found, kept, strict=True))
    assert "_seen" not in vars(real)
