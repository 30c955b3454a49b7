"""The benchmark of whitening by a low rank: its exact errors, by whitening the images and building every matrix."""

from pathlib import Path

import numpy as np
import pytest
import torch

from benchmarks import whitening
from trajmatch.core.draws import generator
from trajmatch.data.low_rank import leading
from trajmatch.data.whitening import InputSpace

EPS = InputSpace.eps
X = torch.randint(0, 256, (90, 3, 4, 4), generator=generator(0, "images"), dtype=torch.uint8)
# Images have directions of different variance: neighbours are alike.
X = (0.6 * X + 0.4 * X.roll(1, 3) * (torch.arange(90) % 3)[:, None, None, None] / 2).to(torch.uint8)


@pytest.mark.parametrize("rank", [1, 10, 40])
def test_errors_are_those_of_the_whitened_images(rank: int) -> None:
    mean = X.flatten(1).double().mean(0) / 255
    found = leading(X, mean, rank, EPS)
    scale = torch.cat([found.variances, torch.tensor([found.rest], dtype=torch.float64)]) + EPS
    seen = InputSpace("zca", mean, scale, found.basis, (3, 4, 4)).forward(X).flatten(1)
    covariance = torch.cov((X.flatten(1).double() / 255).T)
    wanted = covariance @ torch.linalg.inv(covariance + EPS * torch.eye(48, dtype=torch.float64))
    left = torch.cov(seen.T) - wanted
    errors = whitening.exactly(X, found, EPS)
    assert errors["whole"] == pytest.approx(float(left.norm() / wanted.norm()), rel=1e-8)
    assert errors["kept"] == pytest.approx(
        float(left.norm() / (found.variances / (found.variances + EPS)).norm()), rel=1e-8
    )
    assert errors["largest"] == pytest.approx(float(torch.linalg.matrix_norm(left, 2)), rel=1e-8)
    assert 0 < errors["whole"] < errors["kept"] < 1


def test_a_table_of_a_data_set(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    images = X.permute(0, 2, 3, 1).numpy()
    labels = np.arange(90) % 3
    np.savez(tmp_path / "a.npz", x_train=images[:60], y_train=labels[:60], x_test=images[60:], y_test=labels[60:])
    assert whitening.main(["--data", str(tmp_path / "a.npz"), "--size", "4", "--classes", "2"]) == 0
    out = capsys.readouterr().out
    assert [word.strip() for word in out.splitlines()[-3].split("|")[1:4]] == ["images", "dimensions", "rank"]
    assert whitening.main(["--data", str(tmp_path / "none")]) == 2
    assert "none" in capsys.readouterr().err
