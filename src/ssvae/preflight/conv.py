"""Is a 3-D convolution in bfloat16 what it should be: faster and smaller than in float32, and right?

PyTorch 2.9 with the cuDNN 9.10 that it brings leaves cuDNN for these convolutions: they take 3 to 17 times the memory
and many times the time (pytorch issue 166643; cuDNN from 9.15 on has them). A video VAE is made of them.

Dimension legend
    C channels, T frames, H W pixels    clip (1,C,T,H,W)
"""

from __future__ import annotations

import statistics
import time
from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor

from ssvae.core.seeds import torch_generator
from ssvae.models.conv import CausalConv3d
from ssvae.preflight.base import Facts, Limits, Problem

SHAPE = (128, 9, 128, 128)
"""(C,T,H,W): a wide layer at a high resolution, 75 MB a tensor in float32."""
_REPEATS = 5
_REMEDY = (
    "install cuDNN 9.15 or newer beside this torch (pip install -U 'nvidia-cudnn-cu12>=9.15'), or another torch, "
    "or train with train.precision=fp32 (pytorch issue 166643)"
)


@dataclass(frozen=True)
class ConvNumbers:
    """Forward and backward pass of one convolution: seconds and bytes at the peak, in bfloat16 and in float32; error:
    largest relative difference (of norms) among output and gradients of weight and clip."""

    bf16_s: float
    fp32_s: float
    bf16_bytes: int
    fp32_bytes: int
    error: float


def conv_problems(numbers: ConvNumbers, limits: Limits) -> list[Problem]:
    """What is wrong with these numbers; a NaN is."""
    problems = []
    time_ratio, memory_ratio = numbers.bf16_s / numbers.fp32_s, numbers.bf16_bytes / max(numbers.fp32_bytes, 1)
    if not time_ratio <= limits.conv_time:
        text = f"a 3-D convolution takes {time_ratio:.1f} times as long in bfloat16 as in float32"
        problems.append(Problem(f"{text} (limit {limits.conv_time:g})", _REMEDY))
    if not memory_ratio <= limits.conv_memory:
        text = f"a 3-D convolution takes {memory_ratio:.1f} times the memory in bfloat16 that it takes in float32"
        problems.append(Problem(f"{text} (limit {limits.conv_memory:g})", _REMEDY))
    if not numbers.error <= limits.conv_error:
        text = f"a 3-D convolution in bfloat16 differs from float32 by {numbers.error:.2g} of its norm"
        remedy = "numbers from this GPU cannot be trusted: try another one, and another version of torch"
        problems.append(Problem(f"{text} (limit {limits.conv_error:g})", remedy))
    return problems


def conv_note(numbers: ConvNumbers) -> str:
    """The numbers as one line."""
    time_ratio, memory_ratio = numbers.bf16_s / numbers.fp32_s, numbers.bf16_bytes / max(numbers.fp32_bytes, 1)
    return (
        f"bfloat16 against float32: {time_ratio:.2f} of the time ({1000 * numbers.bf16_s:.1f} ms), "
        f"{memory_ratio:.2f} of the memory, difference {numbers.error:.1g}"
    )


def measure_conv(wanted: bool, limits: Limits) -> Facts:
    """On this rank's GPU. wanted: will bfloat16 be trained in? If not, faults are warnings."""
    if not torch.cuda.is_available():
        return {"skipped": "no GPU: VAEs are not trained in bfloat16 on a CPU"}
    numbers = compare(torch.device("cuda", torch.cuda.current_device()), SHAPE, torch.bfloat16)
    found = [list(problem) for problem in conv_problems(numbers, limits)]
    return {"note": conv_note(numbers), "problems" if wanted else "warnings": found}


def compare(device: torch.device, shape: tuple[int, int, int, int], low: torch.dtype) -> ConvNumbers:
    """Time, memory and agreement of one convolution of the VAE's own kind in ``low`` and in float32."""
    generator = torch_generator(0, "preflight/conv")
    clip = torch.randn((1, *shape), generator=generator).to(device, memory_format=torch.channels_last_3d)
    with torch.device(device):
        conv = CausalConv3d(shape[0], shape[0])
    weight = torch.randn(conv.weight.shape, generator=generator) / (27 * shape[0]) ** 0.5
    conv.load_state_dict({"weight": weight, "bias": torch.zeros(shape[0])})
    exact, fp32_s, fp32_bytes = _run(conv, clip)
    rough, low_s, low_bytes = _run(conv.to(low), clip.to(low))
    # A gradient that is zero by symmetry would make any difference infinite: the sum of squares has none.
    error = max(float((a - b.float()).norm() / a.norm()) for a, b in zip(exact, rough, strict=True))
    return ConvNumbers(low_s, fp32_s, low_bytes, fp32_bytes, error)


def _run(conv: CausalConv3d, clip: Tensor) -> tuple[list[Tensor], float, int]:
    """(output, gradients of weight and clip), median seconds, peak bytes beyond what was there (0 on a CPU)."""
    clip = clip.detach().requires_grad_()

    def once() -> list[Tensor]:
        conv.zero_grad()
        clip.grad = None
        out = conv(clip)
        out.square().mean().backward()
        assert conv.weight.grad is not None and clip.grad is not None
        return [out.detach(), conv.weight.grad.detach(), clip.grad.detach()]

    on_gpu = clip.device.type == "cuda"
    once()
    conv.zero_grad()
    clip.grad = None
    before = torch.cuda.memory_allocated(clip.device) if on_gpu else 0
    if on_gpu:
        torch.cuda.reset_peak_memory_stats(clip.device)
    found = [value.float().cpu() for value in once()]
    peak = torch.cuda.max_memory_allocated(clip.device) - before if on_gpu else 0
    return found, statistics.median(_timed(once, on_gpu) for _ in range(_REPEATS)), peak


def _timed(call: Callable[[], object], on_gpu: bool) -> float:
    begun = time.perf_counter()
    call()
    if on_gpu:
        torch.cuda.synchronize()
    return time.perf_counter() - begun
