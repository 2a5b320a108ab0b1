"""The doctor says what will run here and why, and the same to a program."""

from __future__ import annotations

import json
import re

import pytest
import torch
from contrastile import __version__, doctor, native
from contrastile.backends import BACKENDS
from contrastile.backends.triton import backend as triton
from contrastile.cli import main

GPU = torch.device("cuda", 0)


@pytest.fixture(autouse=True)
def compiling(monkeypatch: pytest.MonkeyPatch) -> None:
    """As for a user: the tests alone have Triton compute on the CPU."""
    monkeypatch.setattr(triton, "interpreting", lambda: False)


@pytest.fixture
def gpu(monkeypatch: pytest.MonkeyPatch) -> None:
    """A GPU for which problems can be described; nothing can be computed on it."""
    described = doctor._problems(torch.device("cpu"))
    assert not isinstance(described, str)
    there = {k: (spec, sizes._replace(device=GPU)) for k, (spec, sizes) in described.items()}
    monkeypatch.setattr(doctor, "devices", lambda: [torch.device("cpu"), GPU])
    monkeypatch.setattr(doctor, "_problems", lambda d: there if d == GPU else described)


@pytest.fixture
def no_gpu(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)


def test_text_and_json_have_the_same_facts(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["doctor"]) == 0
    text = capsys.readouterr().out
    assert main(["doctor", "--json"]) == 0
    found = json.loads(capsys.readouterr().out)
    assert found.pop("contrastile") == __version__
    assert found.keys() == doctor.TITLES.keys()
    for title, (key, lines) in zip(doctor.TITLES.values(), found.items(), strict=True):
        assert title == doctor.TITLES[key] and title in text
        for name, fact in lines.items():
            assert re.search(rf"^  {re.escape(name)} +{re.escape(fact)}$", text, re.M), name
    assert found["backends"].keys() == {backend.name for backend in BACKENDS}
    assert found["environment"]["torch"] == torch.__version__


@pytest.mark.usefixtures("no_gpu")
def test_without_a_gpu_triton_is_not_ready(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(doctor, "installed_triton", lambda: "3.5.1")
    found = doctor.facts()
    assert found["backends"]["triton"] == "installed, but there is no GPU here"
    assert found["backends"]["cpu"] == "ready for tensors on cpu"
    said = found["runs"]["GPU tensors"]
    assert said == f"{doctor.gpus()}; Triton 3.5.1 is installed and would be used on one"


@pytest.mark.usefixtures("no_gpu")
def test_a_missing_triton_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    for place in (doctor, triton):
        monkeypatch.setattr(place, "installed_triton", lambda: None)
    found = doctor.facts()
    assert found["environment"]["triton"] == "not installed"
    assert "pip install 'contrastile[triton]'" in found["runs"]["GPU tensors"]
    assert found["backends"]["triton"] in found["runs"]["GPU tensors"]


def test_what_computes_tensors_on_the_cpu(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch, "get_num_threads", lambda: 7)
    if level := native.level():
        said = f"backend cpu, compiled pass, {level}, on 7 threads"
        assert doctor.facts()["runs"]["cpu tensors"] == said
    monkeypatch.setattr(native, "load", lambda: None)
    found = doctor.facts()
    said = "backend cpu, plain torch on 7 threads, slower: the extension was not built"
    assert found["runs"]["cpu tensors"] == said
    assert found["extension"]["contrastile._C"].startswith("not built")


@pytest.mark.usefixtures("gpu")
def test_a_gpu_runs_triton(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(doctor, "installed_triton", lambda: "3.5.1")
    found = doctor.facts()
    assert found["runs"]["cuda:0 tensors"] == "backend triton 3.5.1"
    assert found["backends"]["triton"] == "ready for tensors on cuda:0"
    assert found["backends"]["reference"] == "ready for tensors on cpu, cuda:0"
    assert "GPU tensors" not in found["runs"]


@pytest.mark.usefixtures("gpu")
def test_a_gpu_without_triton_says_why_nothing_runs(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(triton, "installed_triton", lambda: "3.4.0")
    found = doctor.facts()
    said = found["runs"]["cuda:0 tensors"]
    assert said.startswith("no backend can compute this; cpu: the embeddings are on cuda:0")
    assert "triton: triton 3.4.0 is too old" in said
    assert found["backends"]["triton"].startswith("triton 3.4.0 is too old")


def test_a_gpu_that_cannot_be_used_is_no_error(monkeypatch: pytest.MonkeyPatch) -> None:
    """As one that another process holds, or whose memory is full."""
    monkeypatch.setattr(doctor, "devices", lambda: [torch.device("cpu"), GPU])
    zeros = torch.zeros

    def refused(*size: int, device: torch.device, dtype: torch.dtype) -> torch.Tensor:
        if device == GPU:
            raise RuntimeError("CUDA error: device busy\nCompile with TORCH_USE_CUDA_DSA")
        return zeros(*size, device=device, dtype=dtype)

    monkeypatch.setattr(torch, "zeros", refused)
    found = doctor.facts()
    assert found["runs"]["cuda:0 tensors"] == "nothing: CUDA error: device busy"
