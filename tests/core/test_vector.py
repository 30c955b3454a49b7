"""Names and places in theta: whatever order the parameters are handed over in."""

import torch

from tests.oracles import random, relative_error
from trajmatch.core.vector import Layout, functional
from trajmatch.data.networks.convnet import build, convnet


def test_join_goes_by_name_and_not_by_the_order_of_its_argument() -> None:
    layout = Layout(("a", "b", "c"), ((2, 2), (), (3,)))
    theta = random(8, seed=0)
    named = layout.split(theta)
    assert [tuple(t.shape) for t in named.values()] == [(2, 2), (), (3,)]
    assert layout.size == 8
    assert torch.equal(layout.join(dict(reversed(named.items()))), theta)


def test_the_gradient_in_theta_is_that_of_the_modules_parameters() -> None:
    network, theta = build(lambda: convnet((2, 8, 8), 3, 2, 4), 0)
    x = random(5, 2, 8, 8, seed=1)
    theta = theta.double().requires_grad_()
    (found,) = torch.autograd.grad(functional(network.double())(theta, x).square().sum(), theta)
    network.requires_grad_(True)
    network(x).square().sum().backward()
    wanted = torch.cat([p.grad.flatten() for p in network.parameters() if p.grad is not None])
    assert relative_error(found, wanted) < 1e-12
