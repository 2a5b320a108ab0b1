"""Launch configurations: what a file must be, who may override it, and that no result changes."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

import contrastile.functional as losses
import pytest
import torch
from cases import arguments_for, default_choice
from contrastile.backends.gpu import forms
from contrastile.backends.triton import TritonBackend, launch
from contrastile.backends.triton.device import Device
from contrastile.backends.triton.launch import (
    FOLDER,
    INTERPRETED,
    KINDS,
    RELATIVES,
    TUNABLE,
    VARIABLE,
    Launch,
    Purpose,
    Table,
    pick,
    read,
    shipped,
    specialised,
    trying,
    tuned,
)
from contrastile.backends.triton.program import Program
from contrastile.benches.problems import Step
from contrastile.benches.tune import TIMED, VALUES, Timer, Tuner, Work, candidates
from contrastile.cli import main
from contrastile.engine.forward import plans_of
from contrastile.engine.plan import Keeping
from contrastile.problem import InputError
from helpers import cast, evaluate

KEYS = [(kind, purpose) for kind in KINDS for purpose in Purpose]
SOUND = {"rows": 128, "cols": 64, "depth": 32, "warps": 8, "stages": 3, "descriptors": False}
OTHER = {"stages": 4, "group": 2, "per_processor": 3, "flatten": True}
HERE = Device("interpreter", 2)
Write = Callable[[Any], Path]


@pytest.fixture
def write(tmp_path: Path) -> Write:
    """Writes a file, each under a name of its own: what was read is not read again."""

    def one(content: Any) -> Path:
        file = tmp_path / f"{len(list(tmp_path.iterdir()))}.json"
        file.write_text(content if isinstance(content, str) else json.dumps(content))
        return file

    return one


@pytest.fixture
def override(write: Write, monkeypatch: pytest.MonkeyPatch) -> Iterator[Callable[[Any], Path]]:
    """Makes CONTRASTILE_LAUNCHES name a file with this content."""

    def use(content: Any) -> Path:
        file = write(content)
        monkeypatch.setenv(VARIABLE, str(file))
        launch.forget()
        return file

    yield use
    launch.forget()


def content_of(table: Table, arch: str = "interpreter") -> dict[str, Any]:
    content: dict[str, Any] = {"arch": arch}
    for (kind, purpose), each in table.items():
        content.setdefault(kind, {})[purpose.value] = asdict(each)
    return content


@pytest.mark.parametrize("file", sorted(FOLDER.glob("*.json")), ids=lambda file: file.stem)
def test_shipped_files(file: Path) -> None:
    """Each is for the architecture in its name, says why, and leaves nothing open."""
    arch, table = read(file)
    assert arch == file.stem.removesuffix("_specialised")
    assert json.loads(file.read_text())["why"]
    assert {*KEYS} == shipped(arch).keys()
    assert table == specialised(arch) or table.items() <= shipped(arch).items()


@pytest.mark.parametrize("arch", ["sm_35", "gfx950"])
def test_an_architecture_without_a_file_takes_the_default(arch: str) -> None:
    assert shipped(arch) == shipped("default")
    assert pick(Device(arch, 1), torch.float64, Purpose.WEIGH).rows == 32


@pytest.mark.parametrize(
    ("arch", "size", "depth"),
    [
        ("sm_100", None, 64),
        ("sm_100", 65, 64),
        ("sm_100", 64, 32),
        ("sm_100", 33, 32),
        ("sm_100", 32, 16),
        ("sm_100", 1, 16),
        ("sm_90", 64, 64),
        ("sm_90", 1, 64),
    ],
)
def test_small_embeddings_take_shallow_slabs(arch: str, size: int | None, depth: int) -> None:
    """Where the loop over features must not be a single step."""
    device = Device(arch, 100)
    assert pick(device, torch.bfloat16, Purpose.REDUCE, size=size).depth == depth


def test_specialised_loops_have_two_steps() -> None:
    """One alone does not compile."""
    with trying(specialised("sm_90")):
        assert pick(Device("sm_90", 132), torch.half, Purpose.WEIGH, size=64).depth == 32


@pytest.mark.parametrize("small", [forms.SMALL, 0])
@pytest.mark.parametrize("loss", ["clip_loss", "info_nce", "nt_xent", "siglip_loss"])
def test_sums_of_rows_alone_have_their_own_launch(
    loss: str, small: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(forms, "SMALL", small)
    monkeypatch.setattr(TritonBackend, "keeping", lambda *_: Keeping(2**62))
    plans_of.cache_clear()
    launch.forget()
    seen, choose = set(), Program.launch

    def recorded(self: Program, purpose: Purpose) -> Launch:
        seen.add(purpose)
        return choose(self, purpose)

    monkeypatch.setattr(Program, "launch", recorded)
    choice = default_choice(loss, shape=(10, 20))
    evaluate(getattr(losses, loss), arguments_for(loss, choice), backend="triton")
    fixed = {"info_nce": Purpose.REDUCE_ROWS, "siglip_loss": Purpose.WEIGH_AND_SUM}
    expected = fixed.get(loss, Purpose.REDUCE)
    assert (expected in seen) == (not small or loss == "siglip_loss")
    assert not seen & ({Purpose.REDUCE, Purpose.REDUCE_ROWS, Purpose.REDUCE_TERMS} - {expected})


def test_two_reductions_take_smaller_tiles() -> None:
    one, two = (pick(Device("sm_90", 132), torch.bfloat16, Purpose.WEIGH, n) for n in (1, 2))
    assert (one.rows, one.cols, one.parts) == (128, 256, 4)
    assert (two.rows, two.cols, two.parts) == (64, 128, 1)


@pytest.mark.parametrize(
    ("content", "where", "rule"),
    [
        ("{", "", "not a file of launch configurations"),
        ([], "", "must be a JSON object"),
        ({}, "", "arch must name an architecture, got None"),
        ({"quarter": {}}, "", "unknown name 'quarter', known are arch"),
        ({"half": {"rest": SOUND}}, "half", "unknown name 'rest', known are otherwise, reduce"),
        ({"half": {"weigh": {"tile": 1}}}, "half, 'weigh'", "unknown name 'tile', known are rows"),
        ({"half": {"weigh": {"rows": 8}}}, "half, 'weigh'", "cols is missing"),
        (
            {"half": {"weigh": {**SOUND, "rows": 96}}},
            "half, 'weigh'",
            "rows must be a power of two",
        ),
        ({"half": {"weigh": {**SOUND, "stages": 0}}}, "half, 'weigh'", "stages must be positive"),
        ({"half": {"weigh": {**SOUND, "steps": 0}}}, "half, 'weigh'", "steps must be positive"),
        (
            {"half": {"weigh": {**SOUND, "warps": 4.0}}},
            "half, 'weigh'",
            "warps must be of type int",
        ),
        ({"half": {"weigh": {**SOUND, "warps": True}}}, "half, 'weigh'", "must be of type int"),
        ({"half": {"weigh": {**SOUND, "flatten": 1}}}, "half, 'weigh'", "must be of type bool"),
    ],
)
def test_a_wrong_file_is_one_clear_error(content: Any, where: str, rule: str, write: Write) -> None:
    if isinstance(content, dict) and content:
        content = {"arch": "sm_90", **content}
    file = write(content)
    with pytest.raises(InputError) as raised:
        read(file)
    message = str(raised.value)
    assert message.startswith(f"{file}: {where}") and rule in message and "\n" not in message


def test_a_missing_file_is_one_clear_error(tmp_path: Path) -> None:
    with pytest.raises(InputError, match=r"absent.json: not a file of launch configurations"):
        read(tmp_path / "absent.json")


def test_an_override_is_used(override: Callable[[Any], Path]) -> None:
    device, before = Device("sm_90", 132), shipped("sm_90")
    key = "half", Purpose.WEIGH
    override(content_of({key: replace(before[key], **OTHER)}, "sm_90"))
    assert pick(device, torch.bfloat16, Purpose.WEIGH) == replace(before[key], **OTHER)
    two = pick(device, torch.float16, Purpose.WEIGH, reductions=2)
    assert (two.rows, two.stages) == (64, OTHER["stages"])
    assert pick(device, torch.bfloat16, Purpose.REDUCE) == before["half", Purpose.REDUCE]
    assert pick(device, torch.float32, Purpose.WEIGH) == before["single", Purpose.WEIGH]


def test_an_override_for_another_architecture_is_refused(override: Callable[[Any], Path]) -> None:
    file = override({"arch": "sm_80"})
    with pytest.raises(InputError, match=r"tuned for sm_80, but this device is sm_90") as raised:
        pick(Device("sm_90", 132), torch.bfloat16, Purpose.REDUCE)
    assert str(raised.value).startswith(f"{file}: ")


@pytest.mark.parametrize(
    ("name", "value"), [("rows", 64), ("warps", 4), ("steps", 2), ("specialize", True)]
)
def test_an_override_cannot_change_results(
    name: str, value: int, override: Callable[[Any], Path]
) -> None:
    key = "half", Purpose.REDUCE
    file = override(content_of({key: replace(shipped("sm_90")[key], **{name: value})}, "sm_90"))
    with pytest.raises(InputError) as raised:
        pick(Device("sm_90", 132), torch.bfloat16, Purpose.REDUCE)
    assert str(raised.value).startswith(f"{file}: half, 'reduce': {name} may change results")


@pytest.mark.parametrize(
    ("dtype", "workspace"), [(torch.float32, 6000), (torch.bfloat16, None)], ids=str
)
@pytest.mark.parametrize("loss", ["clip_loss", "nt_xent", "siglip_loss"])
def test_no_override_changes_a_bit(
    loss: str, dtype: torch.dtype, workspace: int | None, override: Callable[[Any], Path]
) -> None:
    choice = default_choice(loss, shape=(50, 20), scale="logit_scale tensor", bias="tensor")
    arguments = cast(cast(arguments_for(loss, choice), dtype), torch.float32, "logit_scale")
    options = {"backend": "triton", "workspace": workspace}
    shipped_results = evaluate(getattr(losses, loss), arguments, **options)
    override(content_of({k: replace(v, **OTHER) for k, v in shipped("interpreter").items()}))
    assert pick(HERE, dtype, Purpose.WEIGH) == replace(INTERPRETED, **OTHER)
    results = evaluate(getattr(losses, loss), arguments, **options)
    for name, expected in shipped_results.items():
        assert torch.equal(results[name], expected), name


def test_candidates_change_one_tunable_field() -> None:
    before = Launch(**SOUND)
    assert VALUES.keys() == {*TUNABLE}
    for name in TUNABLE:
        found = list(candidates(before, name))
        assert {getattr(each, name) for each in found} == {*VALUES[name]} - {getattr(before, name)}
        assert all(replace(each, **{name: getattr(before, name)}) == before for each in found)


@pytest.mark.parametrize("name", TIMED)
def test_a_step_launches_what_it_is_timed_for(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """At a small size here, but launched as a large problem."""
    monkeypatch.setattr(forms, "SMALL", 0, raising=False)
    seen, choose = set(), launch._pick

    def recorded(arch: str, kind: str, purpose: Purpose, several: bool) -> Launch:
        seen.add((kind, purpose))
        return choose(arch, kind, purpose, several)

    launch.forget()
    monkeypatch.setattr(launch, "_pick", recorded)
    for step in Work(torch.device("cpu"), ["bf16", "fp32"], [16], 64).steps("half", name):
        step()
    assert {("half", purpose) for purpose in TIMED[name]} <= seen
    assert {kind for kind, _ in seen} == {"half"}


def tuner(monkeypatch: pytest.MonkeyPatch, time: Timer, *every: Step) -> Tuner:
    """One that is through, without a step: ``every`` stands for those a winner must survive."""
    monkeypatch.setattr(Work, "all_steps", lambda self, kind: list(every))
    new = Tuner(Work(torch.device("cpu"), ["fp16", "bf16", "fp32"], [16, 32], 64), time)
    assert len(set(new.tune())) == len(new.milliseconds)
    return new


def picked() -> list[Launch]:
    return [pick(HERE, dtype, p) for dtype in (torch.half, torch.float32) for p in Purpose]


def fewer_stages_are_slower(step: Step) -> float:
    """A tenth for each stage of each launch, but a fifth stage does not fit; a flattened loop
    gains one in a thousand, no more than noise.
    """
    launches = picked()
    if max(each.stages for each in launches) > 4:
        raise RuntimeError("out of resource: shared memory\nRequired: many")
    return 0.9 ** sum(each.stages for each in launches) * 0.999 ** sum(
        each.flatten for each in launches
    )


def test_tuning_finds_the_fastest_and_lists_what_fails(
    monkeypatch: pytest.MonkeyPatch, write: Write
) -> None:
    found = tuner(monkeypatch, fewer_stages_are_slower)
    keys = {(kind, p) for kind in ("half", "single") for ps in TIMED.values() for p in ps}
    assert found.milliseconds.keys() == keys
    before = shipped("interpreter")
    assert found.launches == {key: replace(before[key], stages=4) for key in keys}
    assert len(found.skipped) == len(keys)
    assert found.skipped[0] == (
        "half, reduce: stages 5, group 8, per_processor 1, flatten False: "
        "out of resource: shared memory"
    )
    content = found.content()
    assert tuned(write(content), "interpreter") == found.launches
    assert content["measured"]["torch"] == torch.__version__
    times = content["measured"]["milliseconds"]["half, reduce"]
    assert times["tuned"] < times["shipped"]


def test_a_winner_runs_every_kind_of_problem(monkeypatch: pytest.MonkeyPatch) -> None:
    def fails() -> None:
        if max(each.stages for each in picked()) > 3:
            raise RuntimeError("out of resource")

    found = tuner(monkeypatch, fewer_stages_are_slower, fails)
    assert not found.launches
    assert any("stages 4" in line for line in found.skipped)


def test_a_trial_ends() -> None:
    key = "single", Purpose.REDUCE
    with trying({key: replace(INTERPRETED, group=2)}):
        assert pick(HERE, torch.float32, Purpose.REDUCE).group == 2
    assert pick(HERE, torch.float32, Purpose.REDUCE) == INTERPRETED


@pytest.mark.skipif(torch.cuda.is_available(), reason="needs a machine without a GPU")
def test_tuning_needs_a_gpu(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["tune", "--out", str(tmp_path / "own.json")]) == 2
    assert capsys.readouterr().err == "contrastile tune needs a GPU, and torch finds none\n"
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize("arch", RELATIVES)
def test_relatives_take_a_table_that_is_there(arch: str) -> None:
    assert shipped(arch) == shipped(RELATIVES[arch]) != shipped("another")
    assert not (launch.FOLDER / f"{arch}.json").exists(), "a table of its own comes first"
