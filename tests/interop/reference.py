"""Check quantscope's figures and files against numpy and the safetensors library.

The script shares only the definitions with quantscope: a scale is absmax / 127 and a
value is round-half-even(x / scale) within -127..127, both in float32. The decoded
value is float32(scale * value), and errors are computed from it in float64.

    reference.py analyze MODEL JSON      the JSON of `quantscope analyze MODEL --json`
    reference.py quantized MODEL OUT     the output of `quantscope quantize MODEL -o OUT`
    reference.py dequantized OUT FLOAT   the output of `quantscope dequantize OUT -o FLOAT`
    reference.py dump MODEL              the figures themselves, as JSON of that shape

MODEL, OUT and FLOAT are safetensors files, or directories with some. Each difference
is printed on a line, and the exit code is 1 if there is any.

Needs numpy and safetensors.
"""

import argparse
import json
import math
import sys
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import safetensors

LEVELS = 127
# Figures are sums over millions of elements, so they depend on the order of additions.
TOLERANCE = 1e-6

BITS_OF_FLOAT = {"F64": 64, "F32": 32, "BF16": 16, "F16": 16}


# Reading -----------------------------------------------------------------------


@dataclass
class Tensor:
    dtype: str
    shape: tuple
    data: bytes

    @property
    def is_float(self):
        return self.dtype in BITS_OF_FLOAT

    @property
    def parameters(self):
        return math.prod(self.shape)

    def values(self):
        """The elements, flat: floats as float32 (F64 as float64), I8 as int8."""
        match self.dtype:
            case "F64":
                return np.frombuffer(self.data, "<f8")
            case "F32":
                return np.frombuffer(self.data, "<f4")
            case "F16":
                return np.frombuffer(self.data, "<f2").astype(np.float32)
            case "BF16":
                # BF16 is the upper half of a float32.
                return (np.frombuffer(self.data, "<u2").astype(np.uint32) << 16).view(np.float32)
            case "I8":
                return np.frombuffer(self.data, "i1")
        raise ValueError(f"no values for {self.dtype}")


def read(path):
    """All tensors of a safetensors file, or of all files in a directory, by name."""
    path = Path(path)
    files = sorted(path.glob("*.safetensors")) if path.is_dir() else [path]
    if not files:
        raise SystemExit(f"{path}: no safetensors file in this folder")
    tensors = {}
    for file in files:
        for name, raw in safetensors.deserialize(file.read_bytes()):
            if name in tensors:
                raise SystemExit(f"{file}: {name} is in another file as well")
            tensors[name] = Tensor(raw["dtype"], tuple(raw["shape"]), bytes(raw["data"]))
    return tensors


# The arithmetic ----------------------------------------------------------------


def groups_of(values, scales):
    """`values` as one row for each of `scales` scales.

    In every scheme a scale covers consecutive elements: the whole tensor, a slice
    along the first axis, or a block of a row.
    """
    return values.reshape(scales, -1)


def scales_of(groups):
    """The scale of every group, in float32."""
    absmax = np.abs(groups).max(axis=1)
    scale = (absmax / absmax.dtype.type(LEVELS)).astype(np.float32)
    # A group of zeros, or of values so small that the scale underflows to zero.
    return np.where(scale == 0, np.finfo(np.float32).tiny, scale)


def quantize(groups, scale):
    """int8 values, in the arithmetic of the elements (float32, or float64)."""
    steps = np.rint(groups / scale[:, None].astype(groups.dtype))
    return np.clip(steps, -LEVELS, LEVELS).astype(np.int8)


def dequantize(q, scale):
    return scale[:, None] * q.astype(np.float32)


def statistics(values):
    values_64 = values.astype(np.float64)
    finite = bool(np.isfinite(values).all())
    result = {
        "count": values.size,
        "zeros": int((values == 0).sum()),
        "nan": int(np.isnan(values).sum()),
        "inf": int(np.isinf(values).sum()),
    }
    if finite and values.size:
        result |= {
            "min": values.min(),
            "max": values.max(),
            "absmax": np.abs(values).max(),
            "mean": values_64.mean(),
            "std": values_64.std(),
        }
    return result


def errors(values, q, back):
    """The errors between `values` and `back`; None where undefined."""
    x = values.astype(np.float64).ravel()
    y = back.astype(np.float64).ravel()
    q = q.ravel()
    difference = x - y
    signal, noise = x @ x, difference @ difference
    nonzero = int((x != 0).sum())
    norms = math.sqrt(signal) * math.sqrt(y @ y)
    mse = noise / x.size
    return {
        "mse": mse,
        "rmse": math.sqrt(mse),
        "max_abs_error": np.abs(difference).max(),
        "sqnr_db": 10 * math.log10(signal / noise) if signal > 0 and noise > 0 else None,
        "cosine_similarity": (x @ y) / norms if norms > 0 else None,
        "relative_error": math.sqrt(noise / signal) if signal > 0 else None,
        "zeroed": int(((x != 0) & (q == 0)).sum()) / nonzero if nonzero else 0.0,
        "levels_used": int(np.unique(q).size),
    }


def quantization(values, scales):
    """Scales and errors of a tensor that is quantized with `count` scales."""
    groups = groups_of(values, scales)
    scale = scales_of(groups)
    q = quantize(groups, scale)
    return scale, errors(values, q, dequantize(q, scale))


def is_finite(tensor):
    return tensor.parameters > 0 and bool(np.isfinite(tensor.values()).all())


# Comparing ---------------------------------------------------------------------


class Report:
    def __init__(self):
        self.differences = 0

    def differs(self, where, message):
        self.differences += 1
        print(f"{where}: {message}")

    def equal(self, where, found, expected):
        if found != expected:
            self.differs(where, f"found {found}, expected {expected}")

    def close(self, where, found, expected, slack=0.0):
        """Equal up to the tolerance; `slack` is an additional absolute difference."""
        if expected is None or found is None:
            self.equal(where, found, expected)
        elif not math.isclose(found, expected, rel_tol=TOLERANCE, abs_tol=slack):
            self.differs(where, f"found {found}, expected {expected}")

    def finish(self, summary):
        print(f"{summary}, {self.differences or 'no'} differences")
        return 1 if self.differences else 0


def compare_analysis(model, document):
    report = Report()
    tensors = read(model)
    entries = {entry["name"]: entry for entry in document["tensors"]}
    report.equal("names of the tensors", sorted(entries), sorted(tensors))
    report.equal("totals.tensors", document["totals"]["tensors"], len(tensors))
    for key, expected in (
        ("parameters", sum(tensor.parameters for tensor in tensors.values())),
        ("bytes", sum(len(tensor.data) for tensor in tensors.values())),
    ):
        report.equal(f"totals.{key}", document["totals"][key], expected)

    quantized = 0
    for name, tensor in tensors.items():
        entry = entries.get(name)
        if entry is None:
            continue
        report.equal(f"{name} dtype", entry["dtype"], tensor.dtype)
        report.equal(f"{name} shape", tuple(entry["shape"]), tensor.shape)
        report.equal(f"{name} parameters", entry["parameters"], tensor.parameters)
        report.equal(f"{name} bytes", entry["bytes"], len(tensor.data))
        if not tensor.is_float:
            report.equal(f"{name} quantizable", entry["quantizable"], False)
            continue
        compare_statistics(report, name, tensor, entry["stats"])
        if entry.get("quantization") is not None:
            quantized += 1
            compare_quantization(report, name, tensor, entry["quantization"], document["scheme"])
        elif entry["quantizable"]:
            report.differs(name, "is quantizable, but has no figures")
    if quantized == 0:
        report.differs(model, "no tensor has figures of its quantization")
    return report.finish(f"{len(tensors)} tensors, {quantized} with figures of their quantization")


def compare_statistics(report, name, tensor, stats):
    values = tensor.values()
    expected = statistics(values)
    for key in ("count", "zeros", "nan", "inf"):
        report.equal(f"{name} {key}", stats[key], expected[key])
    if "min" not in expected:
        return
    for key in ("min", "max", "absmax"):
        # JSON has the digits of the element type: 0.1 is 0.1f32.
        report.equal(f"{name} {key}", values.dtype.type(stats[key]), expected[key])
    report.close(f"{name} std", stats["std"], expected["std"])
    # A mean close to zero consists mostly of rounding errors.
    report.close(f"{name} mean", stats["mean"], expected["mean"], 1e-12 * float(expected["absmax"]))


def compare_quantization(report, name, tensor, found, scheme):
    if not is_finite(tensor):
        report.differs(name, "has figures of a quantization, but is empty or not finite")
        return
    per_tensor = not isinstance(found["scale"], list)
    scales = np.atleast_1d(np.array(found["scale"], np.float64)).astype(np.float32)
    if len(tensor.shape) >= 2:
        expected = scale_shape(tensor.shape, scheme)
        report.equal(
            f"{name} scales",
            (per_tensor, scales.size),
            (len(expected) == 1, math.prod(expected)),
        )
    if scales.size == 0 or tensor.parameters % scales.size != 0:
        report.differs(name, f"{scales.size} scales for {tensor.parameters} elements")
        return
    scale, expected = quantization(tensor.values(), scales.size)
    compare_array(report, f"{name} scale", scales, scale)
    report.equal(f"{name} levels_used", found["levels_used"], expected.pop("levels_used"))
    for key, value in expected.items():
        # dB are logarithmic, so a relative tolerance is meaningless near 0 dB.
        report.close(f"{name} {key}", found[key], value, TOLERANCE if key == "sqnr_db" else 0.0)


def scale_shape(shape, scheme):
    """The shape of the scales of a tensor of two or more dimensions."""
    kind, _, block = scheme.partition(":")
    if kind == "per-tensor":
        return (1,)
    if kind == "per-channel":
        return (shape[0], 1)
    if kind == "per-block":
        row = math.prod(shape[1:])
        if row % int(block):
            raise SystemExit(f"blocks of {block} do not divide rows of {row}")
        return (shape[0], row // int(block))
    raise SystemExit(f"unknown scheme {scheme}")


def compare_quantized(model, out):
    report = Report()
    source, result = read(model), read(out)
    quantized = 0
    expected_names = set(source)
    for name, tensor in source.items():
        if name not in result:
            report.differs(name, "is missing")
            continue
        if not tensor.is_float or result[name].dtype != "I8":
            if result[name] != tensor:
                report.differs(name, "is neither int8 nor what it was")
            continue
        quantized += 1
        expected_names.add(name + "_scale")
        compare_int8(report, name, tensor, result[name], result.get(name + "_scale"))
    report.equal("names beyond the expected", sorted(set(result) - expected_names), [])
    if quantized == 0:
        report.differs(out, "no tensor is int8")
    return report.finish(f"{len(source)} tensors, {quantized} of them int8")


def compare_int8(report, name, tensor, int8, scale_tensor):
    report.equal(f"{name} shape", int8.shape, tensor.shape)
    if scale_tensor is None:
        report.differs(name, "has no scale")
        return
    report.equal(f"{name} scale dtype", scale_tensor.dtype, "F32")
    if not tensor.shape or not is_finite(tensor):
        report.differs(name, "is int8, but was a scalar, empty or not finite")
        return
    rows = tensor.shape[0]
    shape = scale_tensor.shape
    per_tensor = shape == (1,)
    in_rows = len(shape) == 2 and shape[0] == rows and shape[1] > 0
    if not (per_tensor or in_rows and (tensor.parameters // rows) % shape[1] == 0):
        report.differs(name, f"has a scale of shape {shape} for a tensor of shape {tensor.shape}")
        return
    groups = groups_of(tensor.values(), math.prod(shape))
    scale = scales_of(groups)
    compare_array(report, f"{name} scale", scale_tensor.values(), scale)
    compare_array(report, f"{name} int8 values", int8.values(), quantize(groups, scale).ravel())


def compare_array(report, where, found, expected):
    if found.shape != expected.shape:
        report.differs(where, f"{found.size} elements, expected {expected.size}")
        return
    wrong = found != expected
    if wrong.any():
        first = int(np.argmax(wrong))
        report.differs(
            where,
            f"{int(wrong.sum())} of {found.size} differ; "
            f"number {first} is {found[first]}, expected {expected[first]}",
        )


def compare_dequantized(out, back):
    report = Report()
    source, result = read(out), read(back)
    quantized = {
        name for name in source if source[name].dtype == "I8" and name + "_scale" in source
    }
    scales = {name + "_scale" for name in quantized}
    report.equal("names of the tensors", sorted(result), sorted(set(source) - scales))
    for name in sorted(set(source) - scales):
        tensor = result.get(name)
        if tensor is None:
            continue
        report.equal(f"{name} shape", tensor.shape, source[name].shape)
        if name in quantized:
            if not tensor.is_float:
                report.differs(name, f"is {tensor.dtype}, expected a float")
                continue
            scale = source[name + "_scale"].values()
            expected = dequantize(groups_of(source[name].values(), scale.size), scale).ravel()
        elif tensor.dtype == source[name].dtype:
            if tensor != source[name]:
                report.differs(name, "is not what it was")
            continue
        elif tensor.is_float and source[name].is_float:
            expected = source[name].values()
        else:
            report.differs(name, f"is {tensor.dtype}, expected {source[name].dtype}")
            continue
        compare_array(report, name, tensor.values(), rounded_to(tensor.dtype, expected))
    if not quantized:
        report.differs(out, "no tensor is int8 with a scale")
    return report.finish(f"{len(result)} tensors, {len(quantized)} of them were int8")


def rounded_to(dtype, values):
    """`values` rounded to `dtype`."""
    match dtype:
        case "F64":
            return values.astype(np.float64)
        case "F32":
            return values.astype(np.float32)
        case "F16":
            return values.astype(np.float16).astype(np.float32)
        case "BF16":
            # Rounds finite values to nearest, ties to even: adds half a step, minus one
            # if the last remaining bit is zero.
            bits = values.astype(np.float32).view(np.uint32)
            bits = bits + 0x7FFF + ((bits >> 16) & 1)
            return (bits & np.uint32(0xFFFF0000)).view(np.float32)
    raise ValueError(f"{dtype} is not a float")


def dump(model, scheme):
    """The figures of every finite float tensor of two or more dimensions."""
    entries = []
    for name, tensor in read(model).items():
        entry = {
            "name": name,
            "dtype": tensor.dtype,
            "shape": tensor.shape,
            "parameters": tensor.parameters,
            "bytes": len(tensor.data),
        }
        if tensor.is_float:
            entry["stats"] = statistics(tensor.values())
            if len(tensor.shape) >= 2 and is_finite(tensor):
                shape = scale_shape(tensor.shape, scheme)
                scale, figures = quantization(tensor.values(), math.prod(shape))
                scale = scale.tolist()
                entry["quantization"] = {"scale": scale[0] if shape == (1,) else scale, **figures}
        entries.append(entry)
    json.dump(
        {"model": str(model), "scheme": scheme, "tensors": entries},
        sys.stdout,
        indent=1,
        default=lambda number: number.item(),
    )
    print()
    return 0


def main():
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    commands = parser.add_subparsers(dest="command", required=True)
    for command, paths in (
        ("analyze", ("model", "json")),
        ("quantized", ("model", "out")),
        ("dequantized", ("out", "float")),
        ("dump", ("model",)),
    ):
        subparser = commands.add_parser(command)
        for path in paths:
            subparser.add_argument(path, type=Path)
    subparser.add_argument(
        "--scheme", default="per-tensor", help="per-tensor, per-channel or per-block:N"
    )
    arguments = parser.parse_args()

    match arguments.command:
        case "analyze":
            document = json.loads(arguments.json.read_text())
            return compare_analysis(arguments.model, document)
        case "quantized":
            return compare_quantized(arguments.model, arguments.out)
        case "dequantized":
            return compare_dequantized(arguments.out, arguments.float)
        case "dump":
            return dump(arguments.model, arguments.scheme)


if __name__ == "__main__":
    sys.exit(main())
