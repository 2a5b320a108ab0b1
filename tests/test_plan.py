"""A plan: its exchange is what ranks really do, its memory what they allocate, its sums add up."""

from __future__ import annotations

import json
from collections.abc import Iterator
from itertools import pairwise

import pytest
from contrastile.cli import main
from contrastile.planning import (
    GPUS,
    LINKS,
    Cluster,
    Shape,
    Wanted,
    cost_of,
    memory_of,
    plan,
    replay,
    schedule_of,
)
from contrastile.planning.cost import bytes_sent
from contrastile.planning.options import link_of, size_of
from contrastile.planning.presets import GIB, Link
from contrastile.planning.schedule import EXCHANGES, Start, Together, nbytes
from contrastile.planning.shapes import LOSSES
from plan_cases import Call, collectives_of, peak_of
from processes import Processes

H100 = GPUS["h100"]
WANTED = Wanted("clip_loss", 768, "bf16", model_bytes=40 * 10**6, fixed_bytes=8 * 10**9)


def cluster(gpus: int, per_node: int = 8) -> Cluster:
    return Cluster(gpus, per_node, LINKS["nvlink"], LINKS["infiniband-400g"])


@pytest.fixture(scope="module")
def processes() -> Iterator[Processes]:
    pool = Processes(4)
    yield pool
    pool.stop()


@pytest.mark.parametrize("exchange", EXCHANGES)
@pytest.mark.parametrize("loss", LOSSES)
def test_the_schedule_is_what_ranks_do(loss: str, exchange: str, processes: Processes) -> None:
    """Every collective and transfer, in order, with its bytes: two to four ranks, uneven too."""
    for rows in ((4, 4), (5, 3, 4), (4, 2, 5, 3)):
        for dtype in ("fp32", "bf16"):
            shape = Shape(rows, 8, dtype, loss)
            done = processes.run(collectives_of, shape, exchange)
            for rank in range(shape.world):
                assert done[rank] == planned(shape, exchange, rank), (rows, dtype, rank)


def planned(shape: Shape, exchange: str, rank: int) -> list[Call]:
    operations = schedule_of(exchange, shape)
    sent = [own for own in operations if isinstance(own, (Start, Together))]
    return [
        ("pass_on" if isinstance(own, Start) else own.method, nbytes(own, shape, rank))
        for own in sent
    ]


# A prediction is no less than what is allocated, and at most so much more.
SPARE = 1.08
WORKSPACE = 2**14


@pytest.mark.parametrize("dtype", ["fp32", "bf16"])
@pytest.mark.parametrize("exchange", EXCHANGES)
@pytest.mark.parametrize("world", [2, 3, 4])
def test_memory_of_ranks(world: int, exchange: str, dtype: str, processes: Processes) -> None:
    shape = Shape.even(192 * world, world, 256, dtype, "clip_loss")
    measured = max(processes.run(peak_of, shape, exchange, WORKSPACE))
    predicted = memory_of(shape, exchange, WORKSPACE, gpu=False).loss
    assert measured <= predicted <= SPARE * measured, f"{predicted} of {measured}"


@pytest.mark.parametrize("workspace", [WORKSPACE, 2**20, 2**22])
@pytest.mark.parametrize("dtype", ["fp32", "bf16"])
@pytest.mark.parametrize("loss", LOSSES)
def test_memory_of_one_process(loss: str, dtype: str, workspace: int) -> None:
    shape = Shape.even(400, 1, 256, dtype, loss)
    measured = peak_of(shape, "auto", workspace)
    predicted = memory_of(shape, "gather", workspace, gpu=False).loss
    spare = workspace // 2
    assert measured <= predicted <= SPARE * measured + spare, f"{predicted} of {measured}"


@pytest.mark.parametrize("exchange", EXCHANGES)
@pytest.mark.parametrize("gpus", [1, 2, 8, 32])
def test_the_closed_form_is_the_replay_of_equal_ranks(gpus: int, exchange: str) -> None:
    """Where passes hide the transfers, and where they do not."""
    for link in (Link(1e12, 1e-6), Link(1e9, 1e-4), Link(1e7, 1e-3)):
        own = Cluster(gpus, 8, link, link)
        for batch in (gpus * 128, gpus * 8192):
            shape = Shape.even(batch, gpus, 512, "bf16", "clip_loss")
            replayed = replay(H100, own, shape, exchange).seconds
            assert replayed == pytest.approx(cost_of(H100, own, shape, exchange).total)


def test_a_replay_of_uneven_ranks_waits_for_the_largest() -> None:
    even = Shape.even(8 * 8192, 8, 512, "bf16", "clip_loss")
    uneven = even._replace(rows=(2 * 8192, *[6 * 8192 // 7] * 7))
    for exchange in EXCHANGES:
        both = [replay(H100, cluster(8), shape, exchange) for shape in (even, uneven)]
        assert both[1].seconds > 1.5 * both[0].seconds
        assert both[1].waiting > both[0].waiting


def test_events_of_a_rank_follow_one_another() -> None:
    shape = Shape.even(4 * 1024, 4, 64, "bf16", "clip_loss")
    events = replay(H100, cluster(4), shape, "ring").events
    own = [event for event in events if not event.what.endswith("to the next")]
    assert all(before.end == after.start for before, after in pairwise(own))
    assert [event.what for event in events].count("forward pass") == 4


def test_bytes_of_a_ring_are_sent_once_for_each_hop() -> None:
    shape = Shape.even(4 * 100, 4, 16, "bf16", "info_nce")
    sent = bytes_sent(shape, "ring")
    assert sent["keys"] == 2 * 3 * 100 * 16 * 2
    assert sent["gradients"] == 4 * 100 * 16 * 4


def test_a_slower_link_between_nodes_is_felt() -> None:
    shape = Shape.even(16 * 1024, 16, 768, "bf16", "clip_loss")
    one, two = (cost_of(H100, cluster(16, per_node), shape, "ring") for per_node in (16, 8))
    assert one.exchange + one.hidden < two.exchange + two.hidden


def test_the_largest_batch_fits_and_a_larger_one_does_not() -> None:
    (best, *_) = plan(WANTED, H100, cluster(4))
    assert best.fits and best.step.peak <= H100.memory
    more = WANTED._replace(batch=best.shape.total + 4 * 128)
    assert not any(way.fits for way in plan(more, H100, cluster(4)))


def test_sub_batches_are_taken_where_activations_do_not_fit() -> None:
    whole, cached = (
        plan(WANTED._replace(batch=batch), H100, cluster(1))[0] for batch in (1024, 8192)
    )
    assert whole.fits and whole.sub_batch == 1024
    assert cached.fits and cached.sub_batch < 8192
    assert cached.step.encoder >= cached.sub_batch * WANTED.model_bytes


def test_a_ring_is_taken_where_gathered_keys_do_not_fit() -> None:
    wanted = WANTED._replace(batch=2**24)
    first, second = plan(wanted, H100, cluster(64))
    assert (first.exchange, first.fits) == ("ring", True)
    assert (second.exchange, second.fits) == ("gather", False)


def test_a_straight_line_is_the_static_model() -> None:
    """Milliseconds of the tables in docs/performance.md, Triton as shipped, H200."""
    for loss, batch, table in (
        ("clip_loss", 32768, {256: 4.6, 512: 8.0, 768: 11.4, 1024: 14.7}),
        ("clip_loss", 65536, {256: 18.2, 512: 31.7, 768: 45.2, 1024: 58.6}),
        ("info_nce", 65536, {256: 17.2, 512: 30.6, 768: 44.1, 1024: 57.6}),
        ("siglip_loss", 65536, {256: 16.5, 512: 26.3, 768: 36.1, 1024: 45.8}),
    ):
        for size, expected in table.items():
            shape = Shape.even(batch, 1, size, "bf16", loss)
            found = 1e3 * cost_of(GPUS["h200"], cluster(1), shape, "gather").total
            assert found == pytest.approx(expected, rel=0.04)


COMMAND = ["plan", "--gpus", "4", "--size", "64", "--batch", "4096"]


def test_the_command_tells_people_and_programs_the_same(
    capsys: pytest.CaptureFixture[str],
) -> None:
    assert main([*COMMAND, "--simulate"]) == 0
    said = capsys.readouterr().out
    assert main([*COMMAND, "--simulate", "--json"]) == 0
    found = json.loads(capsys.readouterr().out)
    assert "SIMULATED" in said and found["note"] in said
    assert f"sub-batch        {'all rows at once'}" in said
    assert found["rows"] == 1024 and [way["fits"] for way in found["ways"]] == [True, True]
    for way in found["ways"]:
        assert way["simulated"]["seconds"] == pytest.approx(way["seconds"]["total"])
        assert f"exchange         {way['exchange']}" in said or f"with {way['exchange']}" in said


def test_the_command_says_what_does_not_fit(capsys: pytest.CaptureFixture[str]) -> None:
    assert main([*COMMAND, "--memory", "1MB"]) == 1
    assert "fits             NO" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (["--batch", "4097"], "does not divide by 4 GPUs"),
        (["--dtype", "fp32"], "give --tflops"),
        (["--batch", "0"], "batch must be at least 4"),
        (["--gpus", "0"], "gpus must be at least 1"),
    ],
)
def test_wrong_wishes_are_told(
    options: list[str], message: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main([*COMMAND, *options]) == 2
    assert message in capsys.readouterr().err


@pytest.mark.parametrize("option", ["--size", "--per-node", "--sub-batch"])
@pytest.mark.parametrize("given", ["0", "1.5", "many"])
def test_counts_are_whole_numbers_from_one_on(
    option: str, given: str, capsys: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(SystemExit, match="2"):
        main([*COMMAND, option, given])
    said = capsys.readouterr().err
    assert f"argument {option}: not a whole number from 1 on: {given}" in said


@pytest.mark.parametrize("given", ["0", "nan", "inf", "fast"])
def test_rates_are_numbers_above_zero(given: str, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit, match="2"):
        main([*COMMAND, "--tflops", given])
    assert f"argument --tflops: not a number above 0: {given}" in capsys.readouterr().err


@pytest.mark.parametrize("given", ["0,50", "12.5,-1", "12.5", "ethernet"])
def test_links_have_a_rate_and_a_latency(given: str, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit, match="2"):
        main([*COMMAND, "--between", given])
    assert "neither a link nor GB/s,us" in capsys.readouterr().err


def test_sizes_and_links_are_read() -> None:
    assert [size_of(text) for text in ("300", "30MB", "1.5GiB")] == [300, 30 * 10**6, 3 * GIB // 2]
    assert link_of("12.5,50") == pytest.approx(Link(12.5e9, 50e-6))
    assert link_of("nvlink") == LINKS["nvlink"]
