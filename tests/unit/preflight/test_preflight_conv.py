"""The verdict on a bfloat16 convolution, from good and bad numbers; the measurement itself, where it can run."""

from __future__ import annotations

import math
from dataclasses import replace

import pytest
import torch
from preflight_jobs import QUICK
from torch import Tensor

from ssvae.models.conv import CausalConv3d
from ssvae.preflight.conv import ConvNumbers, compare, conv_note, conv_problems, measure_conv

GOOD = ConvNumbers(bf16_s=0.4, fp32_s=1.0, bf16_bytes=500, fp32_bytes=1000, error=0.003)
CPU = torch.device("cpu")


def test_good_numbers_pass() -> None:
    assert conv_problems(GOOD, QUICK) == []
    assert "0.40 of the time (400.0 ms), 0.50 of the memory, difference 0.003" in conv_note(GOOD)


@pytest.mark.parametrize(
    ("change", "what"),
    [
        ({"bf16_s": 9.0}, "takes 9.0 times as long in bfloat16 as in float32 (limit 1.5)"),
        ({"bf16_bytes": 3000}, "takes 3.0 times the memory in bfloat16 that it takes in float32 (limit 1.5)"),
        ({"bf16_bytes": 17000}, "takes 17.0 times the memory"),
        ({"error": 0.3}, "differs from float32 by 0.3 of its norm (limit 0.02)"),
        ({"error": math.nan}, "differs from float32 by nan"),
    ],
)
def test_bad_numbers_are_named(change: dict[str, float], what: str) -> None:
    (problem,) = conv_problems(replace(GOOD, **change), QUICK)  # type: ignore[arg-type]  # int or float, as the field
    assert what in problem.what
    assert ("another torch" in problem.remedy) or ("another version of torch" in problem.remedy)
    assert "error" in change or "cuDNN 9.15" in problem.remedy


def test_all_that_is_wrong_is_named() -> None:
    assert len(conv_problems(ConvNumbers(9, 1, 9, 1, 9), QUICK)) == 3


def test_two_exact_types_agree() -> None:
    numbers = compare(CPU, (4, 3, 8, 8), torch.float64)
    assert 0 < numbers.error < 1e-5
    assert numbers.bf16_s > 0 and numbers.fp32_s > 0 and numbers.fp32_bytes == 0


def test_a_kernel_that_is_wrong_in_one_type_is_seen(monkeypatch: pytest.MonkeyPatch) -> None:
    real = CausalConv3d.forward

    def broken(self: CausalConv3d, x: Tensor) -> Tensor:
        return real(self, x) * (1.1 if x.dtype is torch.float64 else 1.0)

    monkeypatch.setattr(CausalConv3d, "forward", broken)
    numbers = replace(GOOD, error=compare(CPU, (4, 3, 8, 8), torch.float64).error)
    (problem,) = conv_problems(numbers, QUICK)
    assert "of its norm" in problem.what


@pytest.mark.skipif(torch.cuda.is_available(), reason="of machines without a GPU")
def test_a_cpu_says_why_nothing_is_measured() -> None:
    assert measure_conv(True, QUICK) == {"skipped": "no GPU: VAEs are not trained in bfloat16 on a CPU"}


@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a GPU")
def test_this_gpu() -> None:
    facts = measure_conv(True, QUICK)
    assert facts["problems"] == [], facts
