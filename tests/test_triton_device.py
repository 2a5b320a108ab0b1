"""What the Triton backend owes a device: strips of whole waves, launches where the tensors are."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from types import SimpleNamespace

import contrastile.functional as losses
import pytest
import torch
from contrastile.backends.gpu import forms, scene
from contrastile.backends.gpu.scene import Scene
from contrastile.backends.gpu.strips import PARTIALS, wave
from contrastile.backends.triton import TritonBackend
from contrastile.backends.triton.device import Device
from contrastile.backends.triton.precision import precision, uses_tensor_cores
from contrastile.problem import Channel, Problem, Scores
from contrastile.problem.spec import Sizes, Spec
from torch import Tensor

H200 = Device("sm_90", 132)
COLS = 65_536
BYTES_A_PAIR = 2 + PARTIALS


def lowered(query: Tensor, key: Tensor, **options: int) -> tuple[Spec, Sizes]:
    """What a backend is asked about."""
    scores = Scores.of("test", query, key)
    spec, tensors = Problem.of("test", scores, [Channel()], Channel, **options).lower()
    return spec, Sizes.of(spec, tensors)


@pytest.mark.parametrize(
    ("size", "rows"), [(64, 67_584), (256, 16_896), (1024, 4224), (1000, 4224), (10**6, 128)]
)
def test_a_wave_has_an_output_tile_for_each_multiprocessor(size: int, rows: int) -> None:
    assert wave(H200.processors, size) == rows


@pytest.mark.parametrize(
    ("room", "rows"),
    [
        pytest.param(16_896 * 2.9, 2 * 16_896, id="whole waves"),
        pytest.param(16_896, 16_896, id="one wave"),
        pytest.param(16_895, 131 * 128, id="whole tiles"),
        pytest.param(127, 127, id="less than a tile"),
        pytest.param(0.5, 1, id="less than a row"),
    ],
)
def test_strips_are_whole_waves(room: float, rows: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(Device, "of", staticmethod(lambda _: H200))
    # Embeddings that take no memory.
    query, key = (torch.zeros(1, 256).bfloat16().expand(COLS, 256) for _ in "xy")
    tile = TritonBackend().tile(*lowered(query, key, workspace=round(room * COLS * BYTES_A_PAIR)))
    assert (tile.rows, tile.cols, tile.itemsize) == (rows, COLS, BYTES_A_PAIR)


@pytest.mark.parametrize("index", [0, 1])
def test_the_device_of_the_tensors_is_made_current(
    index: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(torch.cuda, "device", lambda device: f"guard of {device}")
    monkeypatch.setattr(torch.cuda, "current_device", lambda: 0)
    job = SimpleNamespace(sizes=SimpleNamespace(device=torch.device("cuda", index)))
    guard = Scene.on_device(SimpleNamespace(job=job))  # type: ignore[arg-type]
    assert guard == (f"guard of cuda:{index}" if index else scene.NOWHERE_ELSE)


@pytest.mark.parametrize("small", [forms.SMALL, 0])
@pytest.mark.parametrize("loss", ["clip_loss", "nt_xent", "siglip_loss"])
def test_every_launch_is_under_the_guard(
    loss: str, small: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    from triton.runtime.interpreter import GridExecutor

    guards: list[Scene] = []
    launched: list[bool] = []

    @contextlib.contextmanager
    def guard(self: Scene) -> Iterator[None]:
        guards.append(self)
        yield
        guards.pop()

    monkeypatch.setattr(forms, "SMALL", small)
    monkeypatch.setattr(Scene, "on_device", guard)
    monkeypatch.setattr(GridExecutor, "__call__", lambda *_, **__: launched.append(bool(guards)))
    x, y = (torch.randn(24, 8).requires_grad_() for _ in "xy")
    getattr(losses, loss)(x, y, logit_scale=3.0, backend="triton").backward()
    assert launched and all(launched)


@pytest.mark.parametrize(
    ("arch", "tf32"), [("sm_80", True), ("sm_90", True), ("gfx942", True), ("gfx90a", False)]
)
def test_tf32_where_triton_has_it(arch: str, tf32: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    assert precision(torch.float32, arch, True) == ("tf32" if tf32 else "ieee")
    assert precision(torch.float32, arch, False) == "ieee"
    assert uses_tensor_cores(torch.float32, arch, True) == tf32
    assert precision(torch.float64, arch, True) == "ieee"
    # Products outside the tensor cores are worth keeping at any size.
    monkeypatch.setattr(Device, "of", staticmethod(lambda _: Device(arch, 100)))
    query = torch.zeros(4, 8)
    spec, sizes = lowered(query, query + 1)
    assert (TritonBackend().keeping(spec._replace(tf32=True), sizes).from_size > 0) == tf32
    assert TritonBackend().keeping(spec, sizes).from_size == 0
