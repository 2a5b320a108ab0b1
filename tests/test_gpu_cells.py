"""Cells of the GPU check: done once, told at once, and what ends a process ends no more than it."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from contrastile.benches.gpu import leash, pool, settings, supervise
from contrastile.benches.gpu.answers import answers
from contrastile.benches.gpu.cells import Cells, LostDevice
from contrastile.benches.gpu.record import (
    FAIL,
    MERGED,
    PASS,
    SKIPPED,
    UNFINISHED,
    Outcome,
    Part,
    Row,
    load_part,
    merge,
    part_file,
    read_merged,
    reopen,
    rows_file,
    unpack,
)
from contrastile.benches.gpu.sections import Section
from contrastile.benches.gpu.settings import Settings
from contrastile.benches.gpu.speed import COMPILED, OURS, PLAIN, Timed
from contrastile.benches.gpu.work import run_section

CPU = torch.device("cpu")


@pytest.fixture
def rows() -> list[Row]:
    return []


@pytest.fixture
def own(rows: list[Row]) -> Settings:
    return Settings(CPU, "cpu", row=rows.append)


def unwanted() -> Row:
    raise AssertionError("it was done again")


def test_a_cell_is_done_once(own: Settings, rows: list[Row]) -> None:
    assert own.cell("a", lambda: {"ms": 1.0}) == {"cell": "a", "ms": 1.0}
    assert own.cell("a", unwanted) == rows[0]
    # As in another process, from what the first one wrote.
    again = replace(own, cells=Cells.of(rows))
    assert again.cell("a", unwanted) == rows[0] and len(rows) == 1


def test_what_fails_is_done_and_says_why(own: Settings, rows: list[Row]) -> None:
    def bad() -> Row:
        raise ZeroDivisionError("on purpose\nat length")

    row = own.cell("a", bad)
    assert row is not None and row["error"] == "ZeroDivisionError: on purpose"
    assert "in bad" in row["traceback"] and own.cell("a", unwanted) == row


def test_what_is_left_is_counted(own: Settings) -> None:
    quick = replace(own, quick=True)
    assert quick.cell("a", unwanted, later=True) is None
    assert own.cell("a", lambda: {}, later=True) is not None
    late = replace(own, seconds=0.0)
    assert late.cell("b", unwanted) is None
    assert (own.cells.left, own.cells.later) == (1, 1)


def test_a_lost_device_ends_the_process(
    own: Settings, rows: list[Row], monkeypatch: pytest.MonkeyPatch
) -> None:
    """And only that: what it was lost in is not done again, the next process has the rest."""
    monkeypatch.setattr(settings, "recovers", lambda device: False)
    with pytest.raises(LostDevice, match="a: the device does not answer"):
        own.cell("a", lambda: {"ms": 1.0})
    assert "error" in rows[0] and own.cell("a", unwanted) == rows[0]


def section_of(*names: str) -> Section:
    def run(own: Settings) -> Outcome:
        found = [own.cell(name, lambda: {"done": True}) for name in names]
        return Outcome(PASS, {"done": sum(row is not None for row in found)})

    return Section("host", 0, 1, run, "")


def test_a_section_goes_on_where_it_was_killed(tmp_path: Path, own: Settings) -> None:
    """Behind a line that was being written when its writer was killed."""
    rows_file(tmp_path, "host").write_text('{"cell": "a", "old": 1}\n{"other": 2}\n{"cell": "b", "')
    assert load_part(tmp_path, "host") == Part.unfinished(
        "host", [{"cell": "a", "old": 1}, {"other": 2}]
    )
    reopen(tmp_path, "host")
    part = run_section(section_of("a", "b"), tmp_path, own)
    assert part.rows == [{"cell": "a", "old": 1}, {"cell": "b", "done": True}]
    assert part.verdict == PASS and part.settled(quick=False)


def test_a_part_that_is_not_settled_is_opened_again(tmp_path: Path) -> None:
    part = Part("host", PASS, 1.0, {}, None, [{"cell": "a"}, {"target": 1}], later=2)
    assert part.settled(quick=True) and not part.settled(quick=False)
    part.save(tmp_path)
    reopen(tmp_path, "host")
    assert not part_file(tmp_path, "host").exists()
    assert rows_file(tmp_path, "host").read_text() == '{"cell": "a"}\n'


def test_one_json_is_all_that_has_to_travel(tmp_path: Path) -> None:
    done = Part("host", PASS, 1.0, {"us": 3.0}, None, [{"cell": "a"}])
    begun = Part.unfinished("gemm", [{"cell": "b"}])
    merge([done, begun], ["gemm"], {"right": []}, tmp_path / MERGED)
    data = json.loads((tmp_path / MERGED).read_text())
    assert data["verdict"] == UNFINISHED and list(data)[1] == "answers"
    assert read_merged(tmp_path / MERGED) == [done, begun]
    folder = tmp_path / "parts"
    folder.mkdir()
    unpack(tmp_path / MERGED, folder)
    reopen(folder, "gemm")
    assert load_part(folder, "host") == done
    assert rows_file(folder, "gemm").read_text() == '{"cell": "b"}\n'


def test_the_cell_that_ended_a_process_is_not_begun_again(tmp_path: Path, own: Settings) -> None:
    rows_file(tmp_path, "host").write_text('{"begun": "a"}\n{"cell": "a"}\n{"begun": "b"}\n')
    part = supervise.lost(tmp_path, "host", "the process ended with status -11", 1.0)
    assert part.rows[1] == {"cell": "b", "error": "the process ended with status -11"}
    assert not part.settled(quick=True) and load_part(tmp_path, "host") == part
    reopen(tmp_path, "host")
    part = run_section(section_of("a", "b", "c"), tmp_path, own)
    assert [row["cell"] for row in part.rows] == ["a", "b", "c"] and "error" in part.rows[1]


# What a process does for each cell of "abc" that is not done: it crashes in b.
CRASHING = """
import json, os, pathlib, sys
folder = pathlib.Path(sys.argv[3])
name = sys.stdin.readline().split()[0]
rows = folder / f"{name}.rows"
done = [json.loads(line) for line in rows.read_text().splitlines()]
for cell in "abc":
    if cell not in [row["cell"] for row in done]:
        with rows.open("a") as file:
            file.write(json.dumps({"begun": cell}) + "\\n")
        if cell == "b":
            os._exit(9)
        done.append({"cell": cell})
        with rows.open("a") as file:
            file.write(json.dumps(done[-1]) + "\\n")
part = {"section": name, "verdict": "pass", "seconds": 0, "numbers": {}, "reason": None}
(folder / "draft").write_text(json.dumps({**part, "rows": done}))
(folder / "draft").rename(folder / f"{name}.json")
rows.unlink()
sys.stdin.readline()
"""


def test_a_section_outlives_its_process(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "worker.py").write_text(CRASHING)
    monkeypatch.setattr(supervise, "SCRIPT", tmp_path / "worker.py")
    parts: list[Part] = []
    steps = [supervise.Step("host", 60.0, 500.0)]
    supervise.supervise(steps, tmp_path, [], parts.append, lambda: None)
    assert [part.verdict for part in parts] == [FAIL, PASS]
    assert parts[1].rows == [
        {"cell": "a"},
        {"cell": "b", "error": "the process ended with status 9"},
        {"cell": "c"},
    ]


def tasks(how: str) -> Row:
    if how == "ends":
        os._exit(7)
    if how == "hangs":
        time.sleep(600)
    if how == "raises":
        raise ValueError("on purpose")
    return {"how": how}


@pytest.fixture
def forking(monkeypatch: pytest.MonkeyPatch) -> None:
    """As on a GPU, but that a process need not import everything anew."""
    monkeypatch.setattr(pool, "METHOD", "fork")
    monkeypatch.setattr(Settings, "on_gpu", True)


@pytest.mark.usefixtures("forking")
def test_tasks_side_by_side(own: Settings, rows: list[Row]) -> None:
    """Each in a process of its own."""
    hows = {how: how for how in ("ends", "raises", "works")}
    found = pool.cells(tasks, hows, own)
    assert found["works"] == {"cell": "works", "how": "works"} and len(rows) == 3
    assert found["ends"]["error"] == "the process ended with status 7"
    assert found["raises"]["error"] == "ValueError: on purpose"
    assert "in tasks" in found["raises"]["traceback"] and own.cells.left == 0


@pytest.mark.usefixtures("forking")
def test_a_task_that_takes_too_long_is_left(own: Settings, rows: list[Row]) -> None:
    late = replace(own, seconds=time.monotonic() - own.start + 0.3)
    assert pool.cells(tasks, {"hangs": "hangs"}, late) == {} and not rows
    assert own.cells.left == 1


def gone(pid: int, patience: float = 30.0) -> bool:
    """Whether a process ends in time; one that nobody has waited for yet is a zombie."""
    deadline = time.monotonic() + patience
    while time.monotonic() < deadline:
        status = Path(f"/proc/{pid}/stat")
        if not status.exists() or status.read_text().rpartition(")")[2].split()[0] == "Z":
            return True
        time.sleep(0.02)
    return False


def waited_for(condition: Callable[[], bool], patience: float = 30.0) -> bool:
    deadline = time.monotonic() + patience
    while not condition() and time.monotonic() < deadline:
        time.sleep(0.02)
    return condition()


@pytest.mark.skipif(not Path("/proc/self/stat").exists(), reason="looks for processes in /proc")
def test_what_a_command_started_ends_with_whoever_asked_for_it(tmp_path: Path) -> None:
    log = tmp_path / "log"
    code = f"import sys; sys.path.insert(0, {str(Path(leash.__file__).parent)!r}); import leash\n"
    code += "from pathlib import Path\n"
    code += f"leash.run(['sh', '-c', 'sleep 600 & echo $!; wait'], Path({str(log)!r}), 600)"
    asking = subprocess.Popen([sys.executable, "-S", "-c", code])
    assert waited_for(lambda: log.exists() and log.read_text().endswith("\n"))
    asking.send_signal(signal.SIGKILL)
    asking.wait()
    assert gone(int(log.read_text()))


def test_answers_of_what_was_interrupted() -> None:
    clip, other = Timed("clip_loss", OURS, 32768, 512), Timed("clip_loss", OURS, 65536, 768)
    timed: list[Row] = [
        {"cell": clip.name, "ms": 7.0},
        {"cell": other.name, "error": "OutOfMemoryError: none left"},
        {"cell": replace(clip, provider=PLAIN).name, "ms": 28.0},
        {"cell": replace(clip, provider=COMPILED).name, "error": "no compiler"},
    ]
    judged: list[Row] = [
        {"cell": "clip_loss bf16", "share": 0.5, "beyond": []},
        {"cell": "nt_xent bf16", "share": 1.5, "beyond": [{"what": "loss"}]},
    ]
    parts = [
        Part("smoke", PASS, 1.0, {}, None, judged[:1]),
        Part.unfinished("errors", judged),
        Part.unfinished("speed", timed),
        Part("cuda-errors", SKIPPED, 0.0, {}, "no nvcc", []),
    ]
    told = answers(parts)
    assert told["right"] == [
        "smoke: 1 of 1 right, worst error 0.5 of what is allowed",
        "errors: 1 of 2 right: nt_xent bf16, worst error 1.5 of what is allowed, more to do",
        "cuda-errors: skipped, no nvcc",
    ]
    assert told["fast"][:2] == [
        "clip_loss 32768 x 512: 7 ms (wanted 6.7), eager 28 ms (4 x ours), "
        "torch.compile no compiler",
        "clip_loss 65536 x 768: OutOfMemoryError: none left (wanted 40)",
    ]
    assert answers([]) == {"right": ["not known yet"], "fast": ["not known yet"]}
