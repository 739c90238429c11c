"""mlp_rows, a network's encoders and decoder, against torch's modules, in one process.

Run: python tests/benchmarks/bm_mlp_rows.py [--threads N] [--rows 12000 400000] [--compile] [--json]
Interleaved rounds; ratios are of the time of torch's modules with the same parameters in the same
round, errors against the same in float64; peak is memory over the inputs.
"""

from __future__ import annotations

import argparse
from collections.abc import Callable, Iterator
from functools import partial

import torch
from torch import Tensor

from meshsim import ops
from meshsim.benchmarks import torch_layers
from meshsim.nn import MLP
from meshsim.timing import Figures, measure, require
from tests.benchmarks.report import MODES, parse, parser, report

Rows = Callable[[Tensor], Tensor]
ENDS = {"encoder": (4, None, True), "decoder": (None, 3, False)}  # inputs, outputs, norm


def cases(options: argparse.Namespace) -> Iterator[tuple[str, Figures]]:
    for name, (inputs, outputs, norm) in ENDS.items():
        width = options.width
        torch.manual_seed(0)
        net = MLP(inputs or width, outputs or width, width=width, norm=norm)
        plain = torch_layers(net)

        def ours(x: Tensor, net: MLP = net) -> Tensor:
            return ops.mlp_rows(x, net.tensors(), net.norm is not None)

        calls: dict[str, Rows] = {"torch": plain, "meshsim": ours}
        if options.compile:
            calls["torch.compile"] = torch.compile(plain, dynamic=False)
        for rows in options.rows:
            given = torch.randn(rows, inputs or width)

            def forward(run: Rows, x: Tensor = given) -> tuple[Tensor, ...]:
                with torch.no_grad():
                    return (run(x),)

            def both(run: Rows, x: Tensor = given, net: MLP = net) -> tuple[Tensor, ...]:
                y = run(x)
                return torch.autograd.grad(y, list(net.parameters()), y.detach())

            for mode, call in zip(MODES, (forward, both), strict=True):
                net.double()
                exact = call(plain, given.double())
                net.float()
                bound = {variant: partial(call, run) for variant, run in calls.items()}
                yield (
                    f"{name}, {rows} rows, width {width}, {mode}",
                    measure(bound, exact, rounds=options.rounds, seconds=options.seconds),
                )


def main() -> None:
    known = parser(__doc__)
    known.add_argument("--rows", type=int, nargs="*", default=[12_000, 400_000])
    known.add_argument("--width", type=int, default=128)
    known.add_argument("--compile", action="store_true", help="torch.compile too (slow to start)")
    options = parse(known)
    require(["mlp_rows", "mlp_rows_backward"])
    report(options, cases(options))


if __name__ == "__main__":
    main()
