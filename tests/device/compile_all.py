"""Compiles every kernel for a GPU of compute capability 9.0 on a machine without one; run by test_compile.py.

What a launch would compile is compiled and not run: functions are called with tensors of the CPU, whose contents do not
matter. Prints one line per kernel: its name, and how many of its variants were compiled.
"""

import sys
from collections import Counter

import numpy as np
import torch
from triton.backends.compiler import GPUTarget
from triton.compiler import ASTSource, compile
from triton.runtime.jit import JITFunction

from xwalloc.bitstream import planes as coder
from xwalloc.bitstream.choices import Choice
from xwalloc.bitstream.planes import Order
from xwalloc.bitstream.tables import shipped
from xwalloc.device import coder as device_coder
from xwalloc.device import quantiser, samples, trials, wavelet
from xwalloc.device.coder import encoder
from xwalloc.device.coder.sections import Call
from xwalloc.transform.wavelet import exact_filters, get_wavelet, plan

TARGET = GPUTarget("cuda", 90, 32)
POINTERS = {
    torch.int8: "i8", torch.uint8: "u8", torch.int16: "i16", torch.uint16: "u16", torch.int32: "i32",
    torch.uint32: "u32", torch.int64: "i64", torch.float32: "fp32", torch.float64: "fp64", torch.bool: "i1",
}  # fmt: skip

compiled: Counter[str] = Counter()
done = set()


def specialised(kernel, args, kwargs):
    """Types and constants of a launch, as Triton derives them from its arguments."""
    signature, constants = {}, {}
    values = dict(zip(kernel.arg_names, args, strict=False)) | {
        k: v for k, v in kwargs.items() if k in kernel.arg_names
    }
    for parameter in kernel.params:
        value = values[parameter.name]
        if isinstance(value, torch.Tensor):
            signature[parameter.name] = "*" + POINTERS[value.dtype]
        elif parameter.is_constexpr or value is None or (value == 1 and not parameter.do_not_specialize):
            signature[parameter.name], constants[parameter.name] = "constexpr", value
        else:
            assert isinstance(value, int), "a float would become a float32"
            signature[parameter.name] = "i32" if abs(value) < 2**31 else "i64"
    return signature, constants


def launch(kernel, *args, grid, warmup, **kwargs):
    signature, constants = specialised(kernel, args, kwargs)
    options = {name: value for name, value in kwargs.items() if name not in kernel.arg_names}
    key = kernel.__name__, str(signature), str(constants)
    if key in done:
        return
    done.add(key)
    program = compile(ASTSource(kernel, signature, constants), target=TARGET, options=options)
    text = program.asm["ptx"]
    assert "cubin" in program.asm
    assert "fma" not in text, f"{key} has a contracted product and sum"
    compiled[kernel.__name__] += 1


def compile_transforms():
    for shape, levels, tree, boundary, name in (
        ((64, 300), 2, "dyadic", "reflect", "bior4.4"), ((1000,), 2, "dyadic", "reflect", "bior4.4"),
        ((16, 8, 8), 2, "packet", "periodization", "db2"), ((1, 6, 5), 1, "dyadic", "reflect", "bior4.4"),
    ):  # fmt: skip
        geometry = plan(shape, levels, tree)
        for side, transform in (("analysis", wavelet.forward_exact), ("synthesis", wavelet.inverse_exact)):
            filters = exact_filters(get_wavelet(name), side, 10)
            transform(torch.zeros((2, *shape), dtype=torch.float64), geometry, [filters], boundary, bounds=[1.0])


def compile_samples(dtypes):
    one = torch.ones((1, 1), dtype=torch.float64)
    table, boxes = torch.ones((1, 1, 5), dtype=torch.float64), [(0, 1, 0, 50, 0, 40)]
    for dtype in dtypes:
        x = torch.from_numpy(np.zeros((2, 3, 2000), dtype))
        floats, integers, mask = torch.zeros(x.shape, dtype=torch.float64), x.to(torch.int32), x.to(torch.uint8)
        samples.to_units(x, one, one)
        samples.round_products(floats, one)
        quantiser.dequantise(integers, one, torch.ones((1, 1, 3), dtype=torch.float64))
        latents = floats.reshape(2, 3, 1, 50, 40)
        quantiser.magnitude_sums(latents, boxes, one, 0.4)
        quantiser.quantise(latents, boxes, one, torch.ones((2, 3, 1), dtype=torch.float64))
        samples.finish(floats, table, None, None, torch.empty_like(x), integral=True)
        samples.finish(floats, table, integers, x[0, 0, :2], torch.empty_like(x), integral=False)
        samples.residuals(x, floats, table, None, None, integral=True)
        samples.residuals(x, floats, table, mask, x[0, 0, :2], integral=False)
        samples.bounded_residuals(x, floats, table, None, None, one, integral=True)
        samples.misses(x, x, one)
        samples.squares(x, x, one)


def compile_trials():
    floats = torch.zeros((2, 3, 1, 50, 40), dtype=torch.float64)
    quanta, ranks = torch.ones((2, 8), dtype=torch.float64), torch.ones((2, 5), dtype=torch.int32)
    trials.try_quanta(floats, [(0, 1, 0, 50, 0, 40)], quanta, torch.ones(1, dtype=torch.float64))
    units, scales = torch.zeros((2, 7, 2000), dtype=torch.float64), torch.ones((2, 2), dtype=torch.float64)
    latents, basis = torch.zeros((2, 8, 3, 2000), dtype=torch.float64), torch.ones((2, 3, 7), dtype=torch.float64)
    for holes in (None, units.to(torch.uint8)):
        trials.residual_sums(units, latents, basis, ranks, scales, holes)


def compile_coder():
    planes = coder.planes_of(3)
    planes["base"], planes["ny"], planes["nx"], planes["sy"], planes["code"] = [0, 60, 120], 6, 10, 10, 1
    geometry = device_coder.Geometry.of([planes])
    kinds = Order.FLAGS_FIRST
    sections = [
        device_coder.Section(geometry, np.ones(3, np.uint8), kind, 2, shipped(), at, masked)
        for kind, at, masked in ((kinds.latents, 0, None), (kinds.residuals, 180, 0))
    ]
    values, mask = torch.zeros(360, dtype=torch.int32), torch.zeros(180, dtype=torch.uint8)
    encoder.download = lambda *tensors: [torch.ones_like(tensor).numpy() for tensor in tensors]
    for lanes in (4, 512):
        call = Call(sections, [[lanes]] * 2, values.device)
        found = encoder._classified(call, values, mask)
        choices = [Choice.usual(section.kind) for section in sections]
        encoder._coded(call, found, encoder._chosen(call, found))
        part = np.array([lanes]), np.array([9]), torch.zeros(4 * lanes + 18, dtype=torch.uint8)
        device_coder.decode(sections, [device_coder.Streams(choice, *part) for choice in choices], values, mask)


if __name__ == "__main__":
    JITFunction.run = launch
    compile_transforms()
    compile_coder()
    compile_samples(sys.argv[1:])
    compile_trials()
    for kernel, count in sorted(compiled.items()):
        sys.stdout.write(f"{kernel} {count}\n")
