"""Steps over slow links against their replay: `python -m contrastile.benches.kernels.slow_links`.

Each rank is a process in a network namespace of its own, behind a token bucket (tc tbf); so root is
needed, and Linux. Measured are the link (two transfers to the next rank), a step without a limit,
whose passes give the replay its seconds, and steps at each rate. What is compared has no free
parameter then.
"""

from __future__ import annotations

import argparse
import json
import os
import statistics
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from functools import partial
from typing import Any

import contrastile
import torch
import torch.distributed as dist
from contrastile.planning import Cluster, Gpu, Kernels, Link, Pass, Shape, replay

from ..table import show

LOSS = "clip_loss"
EXCHANGES = ("ring", "gather")
DEVICE = "contrastile"
# Bytes of the two transfers that a link is measured with.
PROBES = 2**17, 2**21
UNLIMITED = 0
NETWORK, PORT = "10.213.7", 29500
HEADINGS = ("exchange", "Mbit/s", "link MB/s", "measured ms", "predicted ms", "ratio")
Timing = tuple[float, float]


def main(argv: Sequence[str] | None = None) -> int:
    """Runs the command line."""
    options = parser().parse_args(argv)
    if options.rank is not None:
        serve(options)
        return 0
    with namespaces(options.world) as names:
        given = sys.argv[1:] if argv is None else list(argv)
        inside = ["ip", "netns", "exec"]
        ranks = [
            subprocess.Popen(
                [*inside, name, sys.executable, "-m", __spec__.name, *given, "--rank", str(rank)],
                env={**os.environ, "GLOO_SOCKET_IFNAME": DEVICE, "OMP_NUM_THREADS": "1"},
                stdout=subprocess.PIPE,
                text=True,
            )
            for rank, name in enumerate(names)
        ]
        found = [rank.communicate()[0] for rank in ranks]
    measured = json.loads(found[0])
    rows = [row for exchange in EXCHANGES for row in compared(options, measured, exchange)]
    title = f"{LOSS}, {options.rows} x {options.size} fp32 a rank, {options.world} ranks"
    show(f"{title}: measured on this CPU, PREDICTED by a replay", HEADINGS, rows)
    return 0


def parser() -> argparse.ArgumentParser:
    """The command line."""
    new = argparse.ArgumentParser(prog="python -m contrastile.benches.kernels.slow_links")
    new.add_argument("--world", type=int, default=2)
    new.add_argument("--rows", type=int, default=1024, help="of a rank")
    new.add_argument("--size", type=int, default=256)
    new.add_argument("--rates", type=int, nargs="+", default=[1000, 300, 100], help="Mbit/s")
    new.add_argument("--repeats", type=int, default=5)
    new.add_argument("--rank", type=int, help=argparse.SUPPRESS)
    return new


@contextmanager
def namespaces(world: int) -> Iterator[list[str]]:
    """One for each rank, joined by a bridge in another; gone afterwards."""
    hub, names = f"{DEVICE}-hub", [f"{DEVICE}-{rank}" for rank in range(world)]
    made: list[str] = []
    try:
        for name in (hub, *names):
            ip("netns", "add", name)
            made.append(name)
        ip("-n", hub, "link", "add", "bridge", "type", "bridge")
        ip("-n", hub, "link", "set", "bridge", "up")
        for rank, name in enumerate(names):
            ip("-n", hub, "link", "add", f"to{rank}", "type", "veth", "peer", "name", DEVICE)
            ip("-n", hub, "link", "set", DEVICE, "netns", name)
            ip("-n", hub, "link", "set", f"to{rank}", "master", "bridge", "up")
            ip("-n", name, "addr", "add", f"{NETWORK}.{rank + 1}/24", "dev", DEVICE)
            ip("-n", name, "link", "set", DEVICE, "up")
            ip("-n", name, "link", "set", "lo", "up")
        yield names
    finally:
        for name in made:
            ip("netns", "del", name)


def ip(*arguments: str) -> None:
    """The command of that name."""
    subprocess.run(["ip", *arguments], check=True)


def serve(options: argparse.Namespace) -> None:
    """One rank; the first prints what it measured."""
    torch.set_num_threads(1)
    meeting = f"tcp://{NETWORK}.1:{PORT}"
    dist.init_process_group(
        "gloo", init_method=meeting, rank=options.rank, world_size=options.world
    )
    found: dict[str, Any] = {}
    for rate in (UNLIMITED, *options.rates):
        limit(rate)
        link = [timed(partial(transfer, count), options.repeats) for count in PROBES]
        steps = {exchange: step_times(options, exchange) for exchange in EXCHANGES}
        found[str(rate)] = {"link": link, **steps}
    if options.rank == 0:
        print(json.dumps(found))
    dist.barrier()
    dist.destroy_process_group()


def limit(rate: int) -> None:
    """What leaves this rank, in Mbit/s."""
    base = ["tc", "qdisc"]
    dist.barrier()
    if rate != UNLIMITED:
        bucket = ["rate", f"{rate}mbit", "burst", "64kb", "latency", "20ms"]
        own = [*base, "replace", "dev", DEVICE, "root", "tbf", *bucket]
        subprocess.run(own, check=True)
    dist.barrier()


def transfer(count: int) -> None:
    """A ring's hop: from each rank to the next."""
    rank, world = dist.get_rank(), dist.get_world_size()
    sent = torch.zeros(count, dtype=torch.uint8)
    to_next = dist.P2POp(dist.isend, sent, (rank + 1) % world)
    from_last = dist.P2POp(dist.irecv, torch.empty_like(sent), (rank - 1) % world)
    for work in dist.batch_isend_irecv([to_next, from_last]):
        work.wait()


def timed(run: Callable[[], None], repeats: int) -> float:
    """Seconds until all ranks are done, median."""
    seconds = []
    for _ in range(repeats):
        dist.barrier()
        start = time.perf_counter()
        run()
        own = torch.tensor([time.perf_counter() - start], dtype=torch.float64)
        dist.all_reduce(own, dist.ReduceOp.MAX)
        seconds.append(float(own))
    return statistics.median(seconds)


def step_times(options: argparse.Namespace, exchange: str) -> Timing:
    """Seconds forward and backward."""
    torch.manual_seed(options.rank)
    shape = options.rows, options.size
    x, y = (torch.nn.functional.normalize(torch.randn(shape), dim=1) for _ in "xy")
    x, y = x.requires_grad_(), y.requires_grad_()
    scale = torch.tensor(10.0, requires_grad=True)
    group, loss = dist.group.WORLD, scale

    def forward() -> None:
        nonlocal loss
        loss = contrastile.clip_loss(x, y, logit_scale=scale, group=group, exchange=exchange)

    def both() -> None:
        forward()
        loss.backward()

    both()
    return timed(forward, options.repeats), timed(both, options.repeats)


def compared(
    options: argparse.Namespace, measured: dict[str, Any], exchange: str
) -> Iterator[tuple[str, ...]]:
    """A row for each rate."""
    shape = Shape((options.rows,) * options.world, options.size, "fp32", LOSS)
    gpu = host_of(shape, *measured[str(UNLIMITED)][exchange])
    for rate in options.rates:
        own = measured[str(rate)]
        link = link_of(*own["link"])
        # Ranks have a link each, to whomever they send.
        cluster = Cluster(options.world, 1, link, link)
        predicted = 1e3 * replay(gpu, cluster, shape, exchange).seconds
        _, step = own[exchange]
        yield (
            exchange,
            str(rate),
            f"{link.bandwidth / 1e6:.1f}",
            f"{1e3 * step:.0f}",
            f"{predicted:.0f}",
            f"{1e3 * step / predicted:.2f}",
        )


def link_of(short: float, long: float) -> Link:
    """From the seconds of the two transfers."""
    bandwidth = (PROBES[1] - PROBES[0]) / max(long - short, 1e-9)
    return Link(bandwidth, max(short - PROBES[0] / bandwidth, 0.0))


def host_of(shape: Shape, forward: float, both: float) -> Gpu:
    """This CPU as a GPU of the model: seconds a pair, whatever they are spent on."""
    pairs = shape.rows[0] * shape.total
    passes = (Pass(seconds / pairs, float("inf")) for seconds in (forward, both - forward))
    endless = float("inf")
    return Gpu(0, endless, endless, {LOSS: Kernels(*passes)}, 0.0)


if __name__ == "__main__":
    raise SystemExit(main())
