"""Clients that send a distilled set once, beside clients that send weights: federated learning of the digits.

Five clients hold four classes each. Either every client distils its images and sends the set, and the server trains a
network on all sets; or every client trains the server's network and sends its weights, of which the server takes the
mean, round after round (federated averaging). Random real images, as many as a client would distil, say what distilling
gains, and cost the client those images' secrecy. Bytes are what one client sends; what the server sends back, which
federated averaging alone needs, is left out.

    python examples/federated.py        (its output is federated.txt)
"""

from dataclasses import replace
from statistics import fmean, pstdev

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.utils.data import TensorDataset

import trajmatch
from trajmatch.data.images import load
from trajmatch.data.networks.convnet import convnet

CLIENTS, ROUNDS, RATES = 5, (1, 2, 5, 20), (0.03, 0.1, 0.3)
SIZES = 1, 12  # synthetic images of a class: little, and about the bytes of the weights
Client = tuple[Tensor, Tensor]  # images (n, 1, 8, 8) in [0, 1], labels (n,)


def clients(x: Tensor, y: Tensor) -> list[Client]:
    """Client k has half of the images of the classes 2k, ..., 2k + 3 (modulo 10): two clients share each class."""
    found = []
    for k in range(CLIENTS):
        rows = torch.cat([(y == (2 * k + j) % 10).nonzero()[:, 0][j // 2 :: 2] for j in range(4)])
        found.append((x[rows], y[rows]))
    return found


def distilled(client: Client, ipc: int, steps: int, experts: int, seed: int) -> trajmatch.SyntheticSet:
    """What a client sends, made of its own images alone."""
    config = trajmatch.preset("digits-ipc1" if ipc == 1 else "digits-ipc10")
    config = replace(config, network=replace(config.network, width=16), images=replace(config.images, normalise="none"))
    # The preset's rate is of ten classes: it drives the images of four far out of the range of real ones.
    config = replace(config, outer=replace(config.outer, lr_images=10.0))
    own = TensorDataset(*client)
    # A pair, for no image has to be kept for a test: `distill` tests nothing.
    return trajmatch.distill((own, own), ipc, steps=steps, experts=experts, seed=seed, config=config, quiet=True)


def drawn(client: Client, ipc: int, seed: int) -> Client:
    """As many random images of each class as a client distils."""
    source = torch.Generator().manual_seed(seed)
    order = torch.randperm(len(client[1]), generator=source)
    rows = torch.cat([order[client[1][order] == c][:ipc] for c in client[1].unique()])
    return client[0][rows], client[1][rows]


def on_images(sent: list[Client], like: trajmatch.SyntheticSet, eta: float, seed: int) -> nn.Module:
    """The server's network, trained on all images that were sent."""
    x, y = (torch.cat(parts) for parts in zip(*sent, strict=True))
    whole = replace(like, X=x, Y=F.one_hot(y, 10).float(), eta=eta, classes=tuple("0123456789"))
    return trajmatch.train(network(seed), whole, trajmatch.recipe(whole), seed=seed)


def network(seed: int) -> nn.Module:
    torch.manual_seed(seed)
    return convnet((1, 8, 8), 10, depth=2, width=16)


def averaged(parts: list[Client], rate: float, rounds: tuple[int, ...], seed: int) -> dict[int, nn.Module]:
    """The server's network after each of some rounds: clients train it for five epochs of SGD, weights are averaged."""
    server, kept, source = network(seed), {}, torch.Generator().manual_seed(seed)
    for now in range(1, max(rounds) + 1):
        sent = []
        for x, y in parts:
            local = network(0)
            local.load_state_dict(server.state_dict())
            optimiser = torch.optim.SGD(local.parameters(), rate)
            for rows in (rows for _ in range(5) for rows in torch.randperm(len(x), generator=source).split(32)):
                optimiser.zero_grad()
                F.cross_entropy(local(x[rows]), y[rows]).backward()
                optimiser.step()
            sent.append(local.state_dict())
        weights = [len(y) / sum(len(y) for _, y in parts) for _, y in parts]
        server.load_state_dict({k: sum(w * s[k] for w, s in zip(weights, sent, strict=True)) for k in sent[0]})
        if now in rounds:
            kept[now] = network(0)
            kept[now].load_state_dict(server.state_dict())
    return kept


def accuracy(net: nn.Module, images: Client) -> float:
    with torch.no_grad():
        return float((net.eval()(images[0]).argmax(1) == images[1]).double().mean())


def best(nets: list[nn.Module], validation: Client) -> nn.Module:
    """The network, of those at different rates, that validation images like best."""
    return max(nets, key=lambda net: accuracy(net, validation))


def main(seeds: int = 3, steps: int = 60, experts: int = 3, rounds: tuple[int, ...] = ROUNDS) -> None:
    """Print test accuracies: means and population standard deviations over seeds."""
    torch.set_num_threads(1)
    digits, found = load("digits"), dict[tuple[str, int], list[float]]()
    train, validation, test = ((s.x.float() / 255, s.y) for s in (digits.train, digits.validation, digits.test))
    parts = clients(*train)
    image, weights = 4 * 64 + 1, 4 * sum(p.numel() for p in network(0).parameters())  # float32; a label is a byte
    for seed in range(seeds):
        rows = {}
        for ipc in SIZES:
            sets = [distilled(client, ipc, steps, experts, seed) for client in parts]
            made = [(s.pixels, torch.tensor([int(s.classes[label]) for label in s.labels])) for s in sets]
            real = [drawn(client, ipc, seed) for client in parts]
            sent = image * len(made[0][1])
            for kind, images in ((f"distilled, {ipc} per class", made), (f"random real, {ipc} per class", real)):
                nets = [on_images(images, sets[0], rate, seed) for rate in RATES]
                rows[kind, sent] = best(nets, validation)
        by_rate = [averaged(parts, rate, rounds, seed) for rate in RATES]
        for now in rounds:
            rows[f"federated averaging, rounds: {now}", weights * now] = best(
                [kept[now] for kept in by_rate], validation
            )
        for key, net in rows.items():
            found.setdefault(key, []).append(accuracy(net, test))
    print(f"{'what each client sends':<32} {'bytes':>8} {'test accuracy':>16}")
    for (name, sent), values in found.items():
        print(f"{name:<32} {sent:>8,} {fmean(values):>8.1%} +- {pstdev(values):.1%}")
    print(f"seeds: {seeds}; clients: {CLIENTS}, {len(train[0]) // CLIENTS} images each; outer steps: {steps}")


if __name__ == "__main__":
    main()
