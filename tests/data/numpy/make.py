"""Creates the NumPy fixtures with numpy 2; run it in this directory.

plain.npz, packed.npz  the same arrays, stored and compressed
fortran.npz            the same with matrices in Fortran order
lone.npy               one array
expected.safetensors   the arrays, in C order
"""

import numpy as np
from safetensors.numpy import save_file

rng = np.random.default_rng(3)
arrays = {
    "dense/kernel": rng.normal(size=(6, 8)).astype(np.float32),
    "dense/bias": rng.normal(size=8).astype(np.float16),
    "cube": rng.normal(size=(2, 3, 4)),
    "step": np.array(7, dtype=np.int64),
    "flags": np.array([True, False]),
    "large": np.zeros((60, 100), dtype=np.float32),
}
np.savez("plain.npz", **arrays)
np.savez_compressed("packed.npz", **arrays)
arrays.pop("large")
np.savez("fortran.npz", **{name: np.array(array, order="F") for name, array in arrays.items()})
np.save("lone.npy", arrays["dense/kernel"])
save_file(arrays, "expected.safetensors")
