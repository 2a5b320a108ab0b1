"""The examples run, at reduced length, and learn."""

from __future__ import annotations

import argparse
import importlib.util
import re
import subprocess
import sys
from pathlib import Path
from types import ModuleType

import pytest
from contrastile.testing import AllocationSpy

EXAMPLES = Path(__file__).resolve().parents[1] / "examples"


def load(name: str) -> ModuleType:
    spec = importlib.util.spec_from_file_location(name, EXAMPLES / f"{name}.py")
    assert spec is not None and spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def test_digits_supcon(capsys: pytest.CaptureFixture[str]) -> None:
    pytest.importorskip("sklearn")
    before, after = load("digits_supcon").main(steps=10, batch=256)
    assert before > 0.95
    assert after > 0.8
    assert "learned numbers after 10 steps" in capsys.readouterr().out


def test_emoji_translation(capsys: pytest.CaptureFixture[str]) -> None:
    pytest.importorskip("emoji")
    right = load("emoji_translation").main(steps=10, batch=128)
    assert right > 0.1
    assert "German to English" in capsys.readouterr().out


# train_clip: an odd batch, so that ranks have uneven parts, a queue that is written over.
CLIP = ("--batch", "65", "--queue", "100")


@pytest.fixture(scope="module")
def curve() -> list[float]:
    """The losses of one process, without a break."""
    return load("train_clip").main([*CLIP, "--steps", "4"])


def test_train_clip_learns(capsys: pytest.CaptureFixture[str]) -> None:
    losses = load("train_clip").main(["--batch", "64", "--steps", "20"])
    assert losses[-1] < 0.8 * losses[0]
    assert float(re.findall(r"(\d+)% of 1000 unseen", capsys.readouterr().out)[0]) > 2


def test_train_clip_goes_on_where_it_was_left(tmp_path: Path, curve: list[float]) -> None:
    clip = load("train_clip")
    kept = ("--checkpoint", str(tmp_path / "clip.pt"))
    losses = [loss for steps in "24" for loss in clip.main([*CLIP, *kept, "--steps", steps])]
    assert losses == curve
    forgotten = clip.main(["--batch", "65", *kept[:1], str(tmp_path / "other.pt"), "--steps", "4"])
    assert forgotten != curve


@pytest.mark.gates
def test_train_clip_on_two_ranks_is_train_clip_on_one(tmp_path: Path, curve: list[float]) -> None:
    """With the gradient cache, and a break after the second step."""
    kept = ("--checkpoint", str(tmp_path / "clip.pt"))
    losses: list[float] = []
    for steps in "24":
        printed = on_two_ranks("train_clip", *CLIP, *kept, "--sub-batch", "8", "--steps", steps)
        losses += map(float, re.findall(r"loss (\S+)", printed))
    assert losses == pytest.approx(curve, abs=1e-4)


def on_two_ranks(name: str, *options: str) -> str:
    """What an example prints under torchrun; nothing of its process group may be left."""
    launcher = (sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node=2")
    program = (str(Path(__file__).with_name("threads_left.py")), str(EXAMPLES / f"{name}.py"))
    command = [*launcher, *program, *options]
    done = subprocess.run(command, capture_output=True, text=True, check=False, timeout=240)
    assert done.returncode == 0, done.stderr
    return done.stdout


def test_train_clip_takes_a_64_fold_batch_on_the_same_budget() -> None:
    clip = load("train_clip")
    world = clip.World()

    def peak(batch: int, sub_batch: int | None) -> int:
        options = argparse.Namespace(sub_batch=sub_batch, queue=0)
        training, pairs = clip.Training(options, None), world.batch(0, batch)
        # The optimizer makes its state in the first step.
        training.train(world.batch(1, 16))
        with AllocationSpy() as spy:
            training.train(pairs)
        return spy.peak_bytes

    before, after = peak(16, None), peak(64 * 16, 16)
    print(f"{before / 2**20:.1f} MiB for 16 pairs, {after / 2**20:.1f} MiB for 1024")
    assert after < 1.6 * before
    assert peak(8 * 16, None) > 5 * before
