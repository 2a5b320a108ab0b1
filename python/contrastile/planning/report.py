"""A plan as text and as JSON."""

from __future__ import annotations

from typing import Any

from .cost import bytes_sent
from .plans import Plan
from .presets import Cluster
from .simulate import Replay

NOTE = (
    "Predicted, not measured: memory is counted (and checked on a CPU), bytes are those of the "
    "exchange, times are a model's (docs/scaling.md)."
)
# Of all bytes that are sent.
WORTH_TELLING = 0.001
# Of a replay's timeline.
SHOWN = 12
UNITS = ("B", "KiB", "MiB", "GiB", "TiB", "PiB")


def facts(ways: list[Plan], cluster: Cluster, replays: list[Replay]) -> dict[str, Any]:
    """All figures, in bytes and seconds."""
    found = []
    for place, way in enumerate(ways):
        entry: dict[str, Any] = {
            "exchange": way.exchange if cluster.gpus > 1 else "none",
            "fits": way.fits,
            "sub_batch": way.sub_batch,
            "gradient_cache": way.sub_batch < way.shape.rows[0],
            "workspace": way.workspace,
            "memory": {**way.memory._asdict(), **_peaks(way)},
            "seconds": {**way.cost._asdict(), "total": way.cost.total},
            "bytes_sent": bytes_sent(way.shape, way.exchange) if cluster.gpus > 1 else {},
        }
        if replays:
            replayed = replays[place]
            entry["simulated"] = {
                **replayed._asdict(),
                "events": [event._asdict() for event in replayed.events],
            }
        found.append(entry)
    shape = ways[0].shape
    return {
        "note": NOTE,
        "loss": shape.loss,
        "batch": shape.total,
        "rows": shape.rows[0],
        "size": shape.size,
        "dtype": shape.dtype,
        "gpus": cluster.gpus,
        "ways": found,
    }


def text(ways: list[Plan], cluster: Cluster, replays: list[Replay], memory: int) -> str:
    """For a person: the best way in full, the other in one line each."""
    shape, best = ways[0].shape, ways[0]
    lines = [
        f"{shape.loss}, batch {shape.total:,} x {shape.size} {shape.dtype} on {cluster.gpus} GPU(s)"
        f" of {size_text(memory)}: {shape.rows[0]:,} rows each",
        "",
        *_choice(best, cluster),
        "",
        *_memory_lines(best),
        "",
        *_time_lines(best),
    ]
    if cluster.gpus > 1:
        sent = bytes_sent(shape, best.exchange)
        told = ", ".join(
            f"{what} {size_text(count)}"
            for what, count in sent.items()
            if count >= WORTH_TELLING * sum(sent.values())
        )
        lines.append(f"sent by a GPU    {size_text(sum(sent.values()))}: {told}")
    for way in ways[1:]:
        fits = "fits" if way.fits else "does not fit"
        lines += [
            "",
            f"with {way.exchange}: {fits}, {size_text(way.step.peak)}, {time_text(way.cost.total)}",
        ]
    for way, replayed in zip(ways, replays, strict=bool(replays)):
        lines += ["", *_replay_lines(way, replayed)]
    return "\n".join([*lines, "", NOTE])


def size_text(count: float) -> str:
    """Bytes in the unit that leaves at most four digits."""
    for unit in UNITS:
        if abs(count) < 1024 or unit == UNITS[-1]:
            break
        count /= 1024
    return f"{count:.0f} {unit}" if unit == "B" else f"{count:.1f} {unit}"


def time_text(seconds: float) -> str:
    """Milliseconds, or seconds from one on."""
    return f"{seconds:.3g} s" if seconds >= 1 else f"{1e3 * seconds:.3g} ms"


def _peaks(way: Plan) -> dict[str, int]:
    return {"while_loss": way.step.loss, "while_encoder": way.step.encoder, "peak": way.step.peak}


def _choice(way: Plan, cluster: Cluster) -> list[str]:
    rows = way.shape.rows[0]
    whole = way.sub_batch >= rows
    how = "all rows at once" if whole else f"{way.sub_batch:,} rows (gradient_cache)"
    return [
        f"fits             {'yes' if way.fits else 'NO'}, {size_text(way.step.peak)} at peak",
        f"exchange         {way.exchange if cluster.gpus > 1 else 'none'}",
        f"sub-batch        {how}",
        f"workspace        {size_text(way.workspace)}",
    ]


def _memory_lines(way: Plan) -> list[str]:
    parts = [
        f"  {name.replace('_', ' '):<14} {size_text(count):>12}"
        for name, count in way.memory._asdict().items()
        if count
    ]
    return [
        f"memory           {size_text(way.step.loss)} while the loss is computed, "
        f"{size_text(way.step.encoder)} while encoders go backward; of the loss:",
        *parts,
    ]


def _time_lines(way: Plan) -> list[str]:
    cost = way.cost
    parts = [
        f"  {name:<14} {time_text(seconds):>12}"
        for name, seconds in (
            ("forward", cost.forward),
            ("backward", cost.backward),
            ("exchange", cost.exchange),
            ("vectors", cost.vectors),
        )
    ]
    parts[2] += f"   ({time_text(cost.hidden)} more are hidden beside passes)"
    if cost.host:
        parts.append(f"  GPUs wait {time_text(cost.host)} of it for their hosts")
    return [f"time of the loss {time_text(cost.total)}", *parts]


def _replay_lines(way: Plan, replayed: Replay) -> list[str]:
    timeline = [
        f"  {time_text(event.start):>10} to {time_text(event.end):>10}  {event.what}"
        for event in replayed.events[:SHOWN]
    ]
    left = len(replayed.events) - SHOWN
    return [
        f"SIMULATED, {way.exchange}: {time_text(replayed.seconds)}, of which a GPU computes "
        f"{time_text(replayed.computing)} and waits up to {time_text(replayed.waiting)}; the "
        f"busiest link carries data {100 * replayed.links:.0f} % of it",
        *timeline,
        *([f"  and {left:,} more"] if left > 0 else []),
    ]
