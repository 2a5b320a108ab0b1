"""The options of ``contrastile plan``."""

from __future__ import annotations

import argparse
import json
import math
import re

from ..problem import InputError
from .plans import Wanted, plan
from .presets import GPUS, LINKS, Cluster, Gpu, Link
from .report import facts, text
from .schedule import EXCHANGES
from .shapes import ITEMSIZE, LOSSES
from .simulate import replay

POWERS = {"": 0, "K": 1, "M": 2, "G": 3, "T": 4}


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Adds them."""
    parser.add_argument("--loss", choices=LOSSES, default="clip_loss")
    parser.add_argument("--batch", type=int, help="rows of all GPUs; by default all that fit")
    parser.add_argument("--size", type=count_of, required=True, help="of an embedding")
    parser.add_argument("--dtype", choices=ITEMSIZE, default="bf16")
    parser.add_argument("--gpus", type=int, default=1)
    parser.add_argument("--gpu", choices=GPUS, default="h100")
    parser.add_argument("--memory", type=size_of, help="of a GPU, as 40GiB")
    parser.add_argument("--per-node", type=count_of, default=8, metavar="GPUS")
    link = f"{', '.join(LINKS)}, or GB/s,us as 12.5,50"
    parser.add_argument("--inside", type=link_of, default="nvlink", metavar="LINK", help=link)
    parser.add_argument("--between", type=link_of, default="infiniband-400g", metavar="LINK")
    parser.add_argument(
        "--model-bytes", type=size_of, default=0, help="activations a sample, both towers"
    )
    parser.add_argument(
        "--fixed-bytes", type=size_of, default=0, help="weights, optimizer, inputs of a batch"
    )
    parser.add_argument("--sub-batch", type=count_of)
    parser.add_argument("--workspace", type=size_of)
    parser.add_argument("--exchange", choices=EXCHANGES)
    parser.add_argument("--tflops", type=rate_of, help="of every product, in place of the preset's")
    parser.add_argument("--simulate", action="store_true", help="replay the schedule as well")
    parser.add_argument("--json", action="store_true", help="the same for a program")


def run(options: argparse.Namespace) -> int:
    """Prints the plan; 1 if nothing fits.

    Raises:
        InputError: what is wanted cannot be planned.
    """
    if options.dtype not in ("bf16", "fp16") and options.tflops is None:
        raise InputError(f"plan: presets know half precision; for {options.dtype} give --tflops")
    gpu = gpu_of(options)
    cluster = Cluster(options.gpus, options.per_node, options.inside, options.between)
    wanted = Wanted(
        options.loss,
        options.size,
        options.dtype,
        options.model_bytes,
        options.fixed_bytes,
        options.batch,
        options.sub_batch,
        options.workspace,
        options.exchange,
    )
    ways = plan(wanted, gpu, cluster)
    replays = []
    if options.simulate:
        replays = [replay(gpu, cluster, way.shape, way.exchange) for way in ways]
    if options.json:
        print(json.dumps(facts(ways, cluster, replays)))
    else:
        print(text(ways, cluster, replays, gpu.memory))
    return 0 if ways[0].fits else 1


def gpu_of(options: argparse.Namespace) -> Gpu:
    """The preset with what the options replace."""
    gpu = GPUS[options.gpu]
    if options.memory is not None:
        gpu = gpu._replace(memory=options.memory)
    if options.tflops is not None:
        rate = 1e12 * options.tflops
        kernels = {loss: own.at_rate(rate) for loss, own in gpu.kernels.items()}
        gpu = gpu._replace(products=rate, kernels=kernels)
    return gpu


def count_of(given: str) -> int:
    """A whole number from 1 on."""
    if not re.fullmatch(r"\d+", given) or int(given) == 0:
        raise argparse.ArgumentTypeError(f"not a whole number from 1 on: {given}")
    return int(given)


def rate_of(given: str) -> float:
    """A number above 0."""
    try:
        rate = float(given)
    except ValueError:
        rate = math.nan
    if not 0 < rate < math.inf:
        raise argparse.ArgumentTypeError(f"not a number above 0: {given}")
    return rate


def size_of(given: str) -> int:
    """Bytes: 300, 30MB, 1.5GiB."""
    found = re.fullmatch(r"([\d.]+)\s*([KMGT]?)(i?)B?", given)
    if found is None:
        raise argparse.ArgumentTypeError(f"not a number of bytes: {given}")
    return round(float(found[1]) * (1024 if found[3] else 1000) ** POWERS[found[2]])


def link_of(given: str) -> Link:
    """A link by name, or by its GB/s and microseconds."""
    if given in LINKS:
        return LINKS[given]
    try:
        bandwidth, latency = map(rate_of, given.split(","))
    except (ValueError, argparse.ArgumentTypeError):
        raise argparse.ArgumentTypeError(f"neither a link nor GB/s,us: {given}") from None
    return Link(1e9 * bandwidth, 1e-6 * latency)
