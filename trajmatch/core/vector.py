"""Network parameters as one flat vector theta of P numbers.

Legend: P parameters of a network, n images of c x h x w, C classes.
"""

from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from math import prod

import torch
from torch import Tensor, nn
from torch.func import functional_call
from torch.nn.attention import SDPBackend, sdpa_kernel

Forward = Callable[[Tensor, Tensor], Tensor]


@dataclass(frozen=True)
class Layout:
    """Where each named parameter lies in theta (P,): the one place that knows names and shapes.

    >>> layout = Layout.of(nn.Linear(3, 2))
    >>> layout.size, layout.names
    (8, ('weight', 'bias'))
    """

    names: tuple[str, ...]
    shapes: tuple[tuple[int, ...], ...]

    @classmethod
    def of(cls, network: nn.Module) -> "Layout":
        """The layout of a network's parameters, in the order in which it declares them."""
        named = dict(network.named_parameters())
        return cls(tuple(named), tuple(tuple(p.shape) for p in named.values()))

    @property
    def size(self) -> int:
        """P, the number of parameters."""
        return sum(prod(shape) for shape in self.shapes)

    def split(self, theta: Tensor) -> dict[str, Tensor]:
        """Named views of theta (P,)."""
        pieces = theta.split([prod(shape) for shape in self.shapes])
        return {name: piece.view(shape) for name, shape, piece in zip(self.names, self.shapes, pieces, strict=True)}

    def join(self, named: Mapping[str, Tensor]) -> Tensor:
        """theta (P,), a fresh tensor, from named parameters: the inverse of `split`."""
        return torch.cat([named[name].reshape(-1) for name in self.names])


def keeps_statistics(network: nn.Module) -> str | None:
    """The name of a layer whose buffers change while it trains (batch norm's running statistics), or None."""
    found = (name for name, module in network.named_modules() if getattr(module, "track_running_stats", False))
    return next(found, None)


def functional(network: nn.Module) -> Forward:
    """The network as a pure function f(theta, x) of its flat parameters (P,) and images (n, c, h, w).

    A network with dropout is one in evaluation mode only, in which `data.networks.build` gives it.
    Raises ValueError for a network whose buffers change while it trains: its output would depend on more than theta,
    and the hypergradient would be wrong.
    """
    stateful = keeps_statistics(network)
    if stateful is not None:
        raise ValueError(
            f"network: layer '{stateful}' keeps running statistics, which theta does not hold; "
            "use instance, group or layer norm"
        )
    return with_parameters(network)


def with_parameters(network: nn.Module) -> Forward:
    """f(theta, x) of any network, one whose buffers change when it is called too: then not a pure function."""
    layout = Layout.of(network)

    def forward(theta: Tensor, x: Tensor) -> Tensor:
        with plain_attention():
            return functional_call(network, layout.split(theta), (x,))  # type: ignore[no-any-return]

    return forward


@contextmanager
def plain_attention() -> Iterator[None]:
    """Attention inside is matrix products and a softmax, which have derivatives of every order.

    Torch's attention kernels have no second derivative, and the fast path of its transformer layers in evaluation mode
    has none at all. Derivatives follow what the forward pass recorded, so that this is needed around that pass alone.
    """
    fast = torch.backends.mha.get_fastpath_enabled()
    torch.backends.mha.set_fastpath_enabled(False)
    try:
        with sdpa_kernel(SDPBackend.MATH):
            yield
    finally:
        torch.backends.mha.set_fastpath_enabled(fast)
