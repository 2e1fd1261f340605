"""Which operators of the bundled networks round with the number of threads, in float32 on the CPU.

    python benchmarks/threads.py --side 128 --threads 2

Runs each network once. Every operator is computed twice from the same inputs, with one thread and with
several, so that a difference is its own and not one that it was given. Prints one line for each operator that
differs, and whether the networks' results do; the last line is one JSON object.
"""

from __future__ import annotations

import argparse
import json
from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

from wsigen.nn.model import load_model
from wsigen.stain.stainer import load_stainer

Found = dict[str, tuple[int, int]]
"""By operator: calls that differ, and all calls."""


class TwiceMode(TorchDispatchMode):
    """Computes every operator that only reads its inputs with one thread and with several.

    Args:
        threads: several.
    """

    def __init__(self, threads: int) -> None:
        super().__init__()
        self.threads = threads
        self.found: Found = {}

    def __torch_dispatch__(
        self, func: Callable[..., Any], types: Any, args: tuple = (), kwargs: dict[str, Any] | None = None
    ) -> Any:
        """Return the result of one thread."""
        kwargs = kwargs or {}
        # what writes cannot be done twice, what draws never agrees, what is allocated only holds anything
        tags = func.tags  # type: ignore[attr-defined]
        changes = func._schema.is_mutable or torch.Tag.nondeterministic_seeded in tags  # type: ignore[attr-defined]
        if changes or "empty" in str(func):
            return func(*args, **kwargs)
        results = []
        for threads in (self.threads, 1):
            torch.set_num_threads(threads)
            results.append(func(*args, **kwargs))
        several, one = results
        pairs = zip(tree_leaves(several), tree_leaves(one), strict=True)
        apart = any(isinstance(b, Tensor) and not torch.equal(a, b) for a, b in pairs)
        differing, calls = self.found.get(str(func), (0, 0))
        self.found[str(func)] = differing + apart, calls + 1
        return one


def compare(run: Callable[[], Any], threads: int) -> Found:
    """Return which operators of a forward pass differ between one thread and several."""
    before, mode = torch.get_num_threads(), TwiceMode(threads)
    try:
        with torch.no_grad(), mode:
            run()
    finally:
        torch.set_num_threads(before)
    return mode.found


def agree(run: Callable[[], Tensor], threads: int) -> bool:
    """Return whether a forward pass gives the same bits with one thread and with several."""
    before = torch.get_num_threads()
    results = []
    try:
        for number in (1, threads):
            torch.set_num_threads(number)
            with torch.no_grad():
                results.append(run())
    finally:
        torch.set_num_threads(before)
    return torch.equal(*results)


def main(argv: Sequence[str] | None = None) -> dict[str, dict[str, Any]]:
    """Compare the bundled networks, print, return what differs."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--side", type=int, default=128, help="of the input, px; a multiple of 64")
    parser.add_argument("--threads", type=int, default=2)
    args = parser.parse_args(argv)
    model, stainer = load_model("default", None, "cpu", upscaled=True), load_stainer("SYN")
    denoiser, upscaler = model.denoiser, model.upscaler
    assert upscaler is not None, "the bundled model has one"
    random = torch.Generator().manual_seed(0)

    def noise(channels: int) -> Tensor:
        return torch.randn(1, channels, args.side, args.side, generator=random)

    x, z, one = noise(3), noise(upscaler.noise_channels), torch.ones(1)
    runs: dict[str, Callable[[], Tensor]] = {
        "denoiser": lambda: denoiser(x, one, one),
        "upscaler": lambda: upscaler(x, z, one),
        "stainer": lambda: stainer(x),
    }
    result: dict[str, dict[str, Any]] = {}
    for name, run in runs.items():
        found, equal = compare(run, args.threads), agree(run, args.threads)
        differ = {op: list(counts) for op, counts in found.items() if counts[0]}
        result[name] = {"equal": equal, "operators": differ}
        said = "agree" if equal else "differ"
        print(f"{name}: results {said}; of {len(found)} operators, {len(differ)} differ")
        for op, (differing, calls) in differ.items():
            print(f"  {op}: {differing} of {calls} calls")
    print(json.dumps({"side": args.side, "threads": args.threads, **result}))
    return result


if __name__ == "__main__":
    main()
