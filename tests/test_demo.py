"""The command line: demo at reduced length, doctor, help and exit codes."""

from __future__ import annotations

import json
import signal
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import contrastile
import pytest
import torch
from contrastile.cli import main
from torch import Tensor

pytest.importorskip("matplotlib")
pytest.importorskip("PIL")
pytest.importorskip("rich")

from contrastile.demo import run as demo
from contrastile.demo.data import FACES, Glyphs, load_glyphs
from contrastile.demo.interrupt import Interrupt
from contrastile.demo.model import ImageTextModel
from contrastile.demo.results import PROMISE
from contrastile.demo.train import Trainer, recall

SHORT = ("demo", "--batch", "64", "--steps", "4")


@pytest.fixture(scope="module")
def glyphs() -> Glyphs:
    return load_glyphs()


@pytest.fixture(autouse=True)
def _small(glyphs: Glyphs, monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """Glyphs are drawn once; batches this small are slower on several threads."""
    monkeypatch.setattr(demo, "load_glyphs", lambda: glyphs)
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(threads)


def run_demo(folder: Path, *options: str) -> tuple[int, dict[str, Any]]:
    code = main([*SHORT, "--out", str(folder), *options])
    assert (folder / "demo.png").read_bytes().startswith(b"\x89PNG")
    found: dict[str, Any] = json.loads((folder / "results.json").read_text(encoding="utf-8"))
    return code, found


def interrupt_at_step(monkeypatch: pytest.MonkeyPatch, last: int) -> None:
    """Ctrl-C arrives in the middle of a step of both sides."""
    step = Trainer.step

    def interrupted(self: Trainer, images: Tensor, words: Tensor) -> None:
        if len(self.losses) == last - 1 and signal.getsignal(signal.SIGINT) != before:
            signal.raise_signal(signal.SIGINT)
        step(self, images, words)

    before = signal.getsignal(signal.SIGINT)
    monkeypatch.setattr(Trainer, "step", interrupted)


def test_glyphs_are_distinct_characters_with_names(glyphs: Glyphs) -> None:
    n = len(glyphs.characters)
    assert 4500 < n == len(set(glyphs.characters))
    assert glyphs.images.shape == (len(FACES), n, 1, 24, 24)
    assert glyphs.unseen.flatten(1).any(1).all()
    assert glyphs.words.max() < glyphs.vocabulary
    assert "GREEK SMALL LETTER ALPHA" in glyphs.names


def test_batches_depend_on_the_seed_alone(glyphs: Glyphs) -> None:
    first, same, other = (next(glyphs.batches(8, seed)) for seed in (1, 1, 2))
    assert torch.equal(first[0], same[0]) and torch.equal(first[1], same[1])
    assert not torch.equal(first[1], other[1])


def test_recall_counts_own_index() -> None:
    nearest = torch.tensor([[0, 1, 2], [2, 1, 0], [0, 1, 3], [0, 1, 2]])
    assert recall(nearest, 1) == 0.25
    assert recall(nearest, 2) == 0.5


@pytest.mark.parametrize("loss", ["clip", "info_nce", "siglip"])
def test_both_losses_train_alike(
    loss: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    code, found = run_demo(tmp_path, "--loss", loss)
    assert code == 0
    assert not found["interrupted"]
    assert found["largest_difference"] <= PROMISE
    dense, tiled = found["sides"]["dense"], found["sides"]["contrastile"]
    assert len(dense["losses"]) == len(tiled["losses"]) == 4
    assert dense["losses"] != sorted(dense["losses"])
    assert tiled["peak_bytes"]["512"] < dense["peak_bytes"]["512"]
    assert dense["peak_bytes"]["512"] >= 512 * 512 * 4
    assert dense["recall"] == pytest.approx(tiled["recall"], abs=0.01)
    printed = capsys.readouterr().out
    for text in ("R@1", "R@10", "within the promised", "4 of 4 steps", "seconds in the loss"):
        assert text in printed


def test_a_larger_batch_through_the_gradient_cache(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Encoders see the batch that fits, the loss the whole; the curve is that of the whole."""
    seen: set[int] = set()
    embed_images = ImageTextModel.embed_images

    def noted(self: ImageTextModel, images: Tensor) -> Tensor:
        if torch.is_grad_enabled():
            seen.add(len(images))
        return embed_images(self, images)

    _, whole = run_demo(tmp_path, "--batch", "256", "--no-dense")
    monkeypatch.setattr(ImageTextModel, "embed_images", noted)
    code, found = run_demo(tmp_path, "--effective-batch", "256")
    assert code == 0 and seen == {64}
    assert found["largest_difference"] <= PROMISE
    assert found["sides"]["contrastile"]["losses"] == pytest.approx(
        whole["sides"]["contrastile"]["losses"], abs=PROMISE
    )
    assert "batch 256 in sub-batches of 64" in capsys.readouterr().out


@pytest.mark.gates
@pytest.mark.parametrize("loss", ["clip", "siglip"])
def test_ranks_train_as_one_process(
    loss: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    options = ("--ranks", "2", "--loss", loss, "--batch", "33", "--effective-batch", "65")
    code, found = run_demo(tmp_path, *options)
    assert code == 0 and not torch.distributed.is_initialized()
    assert found["largest_difference"] <= PROMISE
    assert [len(side["losses"]) for side in found["sides"].values()] == [4, 4]
    assert "on 2 ranks" in capsys.readouterr().out


@pytest.mark.gates
def test_ctrl_c_ends_all_ranks(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    interrupt_at_step(monkeypatch, 2)
    code, found = run_demo(tmp_path, "--ranks", "2")
    assert code == 130 and found["interrupted"]
    assert [len(side["losses"]) for side in found["sides"].values()] == [2, 2]
    assert not torch.multiprocessing.active_children()


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (("--effective-batch", "32"), "--effective-batch must be at least --batch 64"),
        (("--batch", "2", "--ranks", "3"), "and --ranks 3, got 2"),
    ],
)
def test_options_that_do_not_fit_are_one_line(
    options: tuple[str, ...], message: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main([*SHORT, *options]) == 2
    printed = capsys.readouterr().err
    assert message in printed and printed.count("\n") == 1


def test_without_dense(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    code, found = run_demo(tmp_path, "--no-dense")
    assert code == 0
    assert list(found["sides"]) == ["contrastile"]
    assert found["largest_difference"] is None
    assert "differ" not in capsys.readouterr().out


def test_ctrl_c_keeps_what_was_done(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    handler = signal.getsignal(signal.SIGINT)
    interrupt_at_step(monkeypatch, 2)
    code, found = run_demo(tmp_path)
    assert code == 130
    assert found["interrupted"]
    assert [len(side["losses"]) for side in found["sides"].values()] == [2, 2]
    assert found["largest_difference"] <= PROMISE
    assert all(side["recall"] for side in found["sides"].values())
    printed = capsys.readouterr().out
    assert "2 of 4 steps" in printed and "(interrupted)" in printed
    assert signal.getsignal(signal.SIGINT) is handler


def test_ctrl_c_before_the_first_step(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    def interrupted(loss: object, batch: int, device: object) -> int:
        calls.append(batch)
        if len(calls) == 1:
            signal.raise_signal(signal.SIGINT)
        return 2**20

    calls: list[int] = []

    monkeypatch.setattr(demo, "peak_bytes", interrupted)
    code, found = run_demo(tmp_path)
    assert code == 130
    assert found["sides"]["dense"]["losses"] == []
    assert found["sides"]["dense"]["recall"] == {}
    assert calls == [16, 16]
    assert "0 of 4 steps" in capsys.readouterr().out


@pytest.fixture
def sigint_raises() -> Iterator[None]:
    """A background job starts with SIGINT ignored."""
    previous = signal.signal(signal.SIGINT, signal.default_int_handler)
    yield
    signal.signal(signal.SIGINT, previous)


@pytest.mark.usefixtures("sigint_raises")
def test_second_ctrl_c_stops() -> None:
    with Interrupt() as interrupt:
        signal.raise_signal(signal.SIGINT)
        assert interrupt.requested
        with pytest.raises(KeyboardInterrupt):
            signal.raise_signal(signal.SIGINT)


def test_unknown_backend_is_one_line(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main([*SHORT, "--out", str(tmp_path), "--backend", "magic"]) == 2
    message = capsys.readouterr().err
    assert message.count("\n") == 1
    assert "backend must be one of" in message and "'magic'" in message


@pytest.mark.parametrize(
    ("argv", "message"),
    [
        ([], "COMMAND"),
        (["dance"], "invalid choice"),
        (["doctor", "--loud"], "unrecognized arguments: --loud"),
        (["demo", "--loss", "hinge"], "invalid choice"),
        (["demo", "--batch", "1"], "must be a whole number from 2 to 4096, got 1"),
        (["demo", "--effective-batch", "9999"], "must be a whole number from 2 to 4096, got 9999"),
        (["demo", "--ranks", "0"], "must be a whole number from 1 to 16, got 0"),
        (["demo", "--steps", "many"], "must be a whole number from 1"),
        (["demo", "--device", "abacus"], "must be the name of a device, got abacus"),
        (["demo", "--device", "meta"], "torch finds only cpu"),
    ],
)
def test_wrong_use_exits_with_2(
    argv: list[str], message: str, capsys: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(SystemExit) as stopped:
        main(argv)
    assert stopped.value.code == 2
    assert message in capsys.readouterr().err


@pytest.mark.parametrize("command", [[], ["demo"], ["doctor"]])
def test_help(command: list[str], capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as stopped:
        main([*command, "--help"])
    assert stopped.value.code == 0
    assert "usage: contrastile" in capsys.readouterr().out


def test_version(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as stopped:
        main(["--version"])
    assert stopped.value.code == 0
    assert capsys.readouterr().out == f"contrastile {contrastile.__version__}\n"


def test_bench_gets_its_arguments(monkeypatch: pytest.MonkeyPatch) -> None:
    seen: list[list[str]] = []

    def bench(argv: list[str]) -> int:
        seen.append(argv)
        return 3

    monkeypatch.setitem(sys.modules, "contrastile.benches.run", SimpleNamespace(main=bench))
    assert main(["bench", "--help", "--case", "clip", "--out=here", "extra"]) == 3
    assert seen == [["--help", "--case", "clip", "--out=here", "extra"]]


def in_fresh_python(missing: tuple[str, ...], *argv: str) -> subprocess.CompletedProcess[str]:
    """Runs the command line where some packages cannot be imported."""
    program = (
        f"import sys; sys.modules.update(dict.fromkeys({missing!r})); "
        f"from contrastile.cli import main; raise SystemExit(main({list(argv)!r}))"
    )
    return subprocess.run(
        [sys.executable, "-c", program], capture_output=True, text=True, check=False
    )


def test_only_the_demo_needs_its_packages() -> None:
    missing = ("matplotlib", "PIL", "rich")
    assert in_fresh_python(missing, "doctor").returncode == 0
    done = in_fresh_python(missing, "demo")
    assert done.returncode == 2
    assert done.stderr.startswith("contrastile demo needs ")
    assert done.stderr.endswith("pip install 'contrastile[demo]'\n")
    assert done.stderr.count("\n") == 1


def test_module_runs_as_a_program() -> None:
    done = subprocess.run(
        [sys.executable, "-m", "contrastile", "--version"],
        capture_output=True,
        text=True,
        check=True,
    )
    assert done.stdout == f"contrastile {contrastile.__version__}\n"
