"""Train the demo network, and write its checkpoints.

A small convolutional network learns scikit-learn's 8x8 handwritten digits
(`sklearn.datasets.load_digits`, 1797 images, from the UCI "Optical Recognition
of Handwritten Digits" set). Everything is seeded and runs on one thread, so the
same versions of the libraries on the same kind of processor give the same
bytes.

    pip install numpy scikit-learn safetensors torch
    python assets/train_demo.py            # a minute or two, writes beside itself

Written:

`demo.safetensors`
    The network as trained in float32, under PyTorch's own names. Batch norm is not
    folded into the convolutions.
`demo_qat.safetensors`
    The same architecture trained further with fake quantization: int4 weights,
    one scale per tensor, with a straight-through gradient. The weights are floats
    under the same names, together with the observers that
    `torch.ao.quantization.prepare_qat` adds to a model.
`demo_digits.safetensors`
    The 500 held-out images, `images` U8 [500, 8, 8] with values 0..16, and
    `labels` U8 [500]. The network's input is `images / 16`.
`demo_activations.safetensors`
    The inputs of every convolution and linear layer for two training images of each
    digit, recorded with `record_activations.py`.

The held-out images are not used for training, and the last epoch is kept, not the
best one. However, the network's shape and learning rates were selected, among
about fifty combinations, so that rounding to int4 lowers its accuracy on these
images. The accuracies illustrate quantization; they are not a benchmark.
"""

import argparse
import copy
import json
import warnings
from pathlib import Path

import numpy as np
import torch
from safetensors.torch import save
from sklearn.datasets import load_digits
from sklearn.model_selection import train_test_split
from torch import nn
from torch.ao import quantization as aoq

from record_activations import describe, record

SEED = 20
HELD_OUT = 500
BATCH = 32
EPOCHS = 50
LEARNING_RATE = 2e-2
QAT_EPOCHS = 30
QAT_LEARNING_RATE = 4e-3
# In the last epochs the observers and the batch statistics are frozen, as PyTorch's
# guide recommends, so that the network adapts to fixed scales.
QAT_FROZEN_EPOCHS = 10
# Symmetric: -7..7, without the -8 that has no positive counterpart.
INT4_MAX = 7

ARCHITECTURE = (
    "conv3x3(1,8) bn relu - depthwise3x3(8) bn relu - conv1x1(8,24) bn relu maxpool2 - "
    "depthwise3x3(24) bn relu - conv1x1(24,32) bn relu maxpool2 - "
    "linear(128,64) relu - linear(64,16) relu - linear(16,10)"
)


class Digits(nn.Module):
    """A classifier of [n, 1, 8, 8] images with values 0..1 into ten classes.

    The network is narrow, with depthwise and pointwise convolutions: a wider
    network has enough redundancy that int4 would not lower its accuracy.
    """

    def __init__(self):
        super().__init__()
        self.features = nn.Sequential(
            nn.Conv2d(1, 8, 3, padding=1, bias=False),
            nn.BatchNorm2d(8),
            nn.ReLU(),
            # In a depthwise convolution every filter has one input channel, so
            # the ranges of the filters differ and per-channel scales help.
            nn.Conv2d(8, 8, 3, padding=1, groups=8, bias=False),
            nn.BatchNorm2d(8),
            nn.ReLU(),
            nn.Conv2d(8, 24, 1, bias=False),
            nn.BatchNorm2d(24),
            nn.ReLU(),
            nn.MaxPool2d(2),
            nn.Conv2d(24, 24, 3, padding=1, groups=24, bias=False),
            nn.BatchNorm2d(24),
            nn.ReLU(),
            nn.Conv2d(24, 32, 1, bias=False),
            nn.BatchNorm2d(32),
            nn.ReLU(),
            nn.MaxPool2d(2),
        )
        self.classifier = nn.Sequential(
            nn.Linear(32 * 2 * 2, 64),
            nn.ReLU(),
            nn.Linear(64, 16),
            nn.ReLU(),
            nn.Linear(16, 10),
        )

    def forward(self, x):
        return self.classifier(torch.flatten(self.features(x), 1))


def load():
    """Training and held-out images (U8, 0..16) and labels, split by class."""
    digits = load_digits()
    images = digits.images.astype(np.uint8)
    labels = digits.target.astype(np.uint8)
    assert (images == digits.images).all()
    return train_test_split(
        images, labels, test_size=HELD_OUT, random_state=SEED, stratify=labels
    )


def as_input(images):
    return torch.from_numpy(images).float().div(16).unsqueeze(1)


def train(model, images, labels, epochs, learning_rate, before_epoch=lambda epoch: None):
    x, y = as_input(images), torch.from_numpy(labels).long()
    order = torch.Generator().manual_seed(SEED)
    optimizer = torch.optim.AdamW(model.parameters(), lr=learning_rate, weight_decay=0.3)
    schedule = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, epochs)
    loss_of = nn.CrossEntropyLoss()
    model.train()
    for epoch in range(epochs):
        before_epoch(epoch)
        for batch in torch.randperm(len(x), generator=order).split(BATCH):
            optimizer.zero_grad()
            loss_of(model(x[batch]), y[batch]).backward()
            optimizer.step()
        schedule.step()
    return model.eval()


def train_quantization_aware(model, images, labels):
    """Train a copy of `model` further while its weights are rounded to int4.

    Activations are fake-quantized to 8 bits, so that the checkpoint carries
    ranges for them as well.
    """
    model = copy.deepcopy(model).train()
    model.qconfig = aoq.QConfig(
        activation=aoq.FakeQuantize.with_args(
            observer=aoq.MovingAverageMinMaxObserver,
            quant_min=0,
            quant_max=255,
            dtype=torch.quint8,
        ),
        weight=aoq.FakeQuantize.with_args(
            observer=aoq.MovingAverageMinMaxObserver,
            quant_min=-INT4_MAX,
            quant_max=INT4_MAX,
            dtype=torch.qint8,
            qscheme=torch.per_tensor_symmetric,
            averaging_constant=0.1,
        ),
    )
    with warnings.catch_warnings():
        # `torch.ao.quantization` prints a deprecation warning on every call.
        warnings.simplefilter("ignore")
        aoq.prepare_qat(model, inplace=True)

    def before_epoch(epoch):
        if epoch == QAT_EPOCHS - QAT_FROZEN_EPOCHS:
            model.apply(aoq.disable_observer)
            for module in model.modules():
                if isinstance(module, nn.BatchNorm2d):
                    module.eval()

    return train(model, images, labels, QAT_EPOCHS, QAT_LEARNING_RATE, before_epoch)


def round_to(weight, levels, per_channel):
    """`weight` quantized to -levels..levels and dequantized, as quantscope does."""
    axes = tuple(range(1, weight.dim())) if per_channel else tuple(range(weight.dim()))
    scale = weight.abs().amax(axes, keepdim=True) / levels
    return (weight / scale).round().clamp(-levels, levels) * scale


def round_as_trained(model, name, weight):
    """`weight` quantized and dequantized with the scales that `model` was trained with."""
    return model.get_submodule(name.removesuffix(".weight")).weight_fake_quant(weight)


def correct(model, images, labels, rounding=None):
    """The number of digits classified correctly; `rounding` maps a weight's name and tensor.

    Evaluates a plain float network, with only the parameters and the batch statistics
    of a model with fake quantization.
    """
    plain = Digits()
    state = {name: model.state_dict()[name].clone() for name in plain.state_dict()}
    with torch.no_grad():
        if rounding is not None:
            for name, tensor in state.items():
                if tensor.dim() >= 2:
                    state[name] = rounding(name, tensor)
        plain.load_state_dict(state)
        guess = plain.eval()(as_input(images)).argmax(1).numpy()
    return int((guess == labels).sum())


def report(name, model, images, labels):
    print(f"{name}, correct out of {len(labels)} held-out digits:")
    print(f"  float32           {correct(model, images, labels)}")
    for kind, levels in (("int8", 127), ("int4", INT4_MAX)):
        for scheme, per_channel in (("per tensor", False), ("per channel", True)):
            count = correct(
                model, images, labels, lambda _, weight: round_to(weight, levels, per_channel)
            )
            print(f"  {kind} {scheme:12} {count}")


def write(path, tensors, **metadata):
    tensors = {name: tensor.detach().contiguous() for name, tensor in tensors.items()}
    file = save(tensors, metadata={"format": "pt", **metadata})
    # The library writes metadata in random order. Sorting it makes the file reproducible.
    length = int.from_bytes(file[:8], "little")
    header = json.loads(file[8 : 8 + length])
    header["__metadata__"] = dict(sorted(header["__metadata__"].items()))
    text = json.dumps(header, separators=(",", ":"), ensure_ascii=False).encode().ljust(length)
    assert len(text) == length
    path.write_bytes(file[:8] + text + file[8 + length :])
    print(f"{path.name}: {len(tensors)} tensors, {path.stat().st_size} bytes")


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument(
        "--out",
        type=Path,
        default=Path(__file__).resolve().parent,
        help="folder to write to (default: the script's own)",
    )
    out = parser.parse_args().out
    out.mkdir(parents=True, exist_ok=True)

    torch.set_num_threads(1)
    torch.use_deterministic_algorithms(True)
    torch.manual_seed(SEED)

    train_images, held_out_images, train_labels, held_out_labels = load()
    held_out = held_out_images, held_out_labels

    model = train(Digits(), train_images, train_labels, EPOCHS, LEARNING_RATE)
    report("demo", model, *held_out)
    # Further training alone also changes the accuracy in int4, so it is the baseline.
    control = train(copy.deepcopy(model), train_images, train_labels, QAT_EPOCHS, QAT_LEARNING_RATE)
    report("demo, trained as long as demo_qat but in float32", control, *held_out)
    aware = train_quantization_aware(model, train_images, train_labels)
    report("demo_qat", aware, *held_out)
    as_trained = correct(aware, *held_out, lambda *weight: round_as_trained(aware, *weight))
    print(f"  int4 as trained   {as_trained}")

    percent = 100 * correct(model, *held_out) / HELD_OUT
    write(
        out / "demo.safetensors",
        model.state_dict(),
        description="A small convolutional network that reads 8x8 handwritten digits, "
        f"{percent:.1f} % of {HELD_OUT} held-out ones rightly in float32.",
        architecture=ARCHITECTURE,
    )
    percent = 100 * as_trained / HELD_OUT
    write(
        out / "demo_qat.safetensors",
        aware.state_dict(),
        description="The demo network trained further with fake quantization to int4 per tensor; "
        f"reads {percent:.1f} % of {HELD_OUT} held-out digits rightly with its weights in int4.",
        architecture=ARCHITECTURE,
    )
    write(
        out / "demo_digits.safetensors",
        {
            "images": torch.from_numpy(held_out_images),
            "labels": torch.from_numpy(held_out_labels),
        },
        description=f"{HELD_OUT} handwritten digits of 8x8 pixels with values 0..16 that the demo "
        "network was not trained on; its input is images / 16.",
        source="scikit-learn load_digits: UCI Optical Recognition of Handwritten Digits, test set",
    )
    two_of_each = np.concatenate([np.flatnonzero(train_labels == d)[:2] for d in range(10)])
    samples = as_input(train_images[two_of_each]).split(1)
    write(
        out / "demo_activations.safetensors",
        record(model, samples),
        description="What reaches every convolution and linear layer of the demo network for two "
        "training images of each digit.",
        **describe(model),
    )


if __name__ == "__main__":
    main()
