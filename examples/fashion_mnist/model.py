"""The model file of the example: `lanac examples/fashion_mnist/model.py --budget 0.5x`."""

from pathlib import Path

from data import FashionMnist
from network import ResNet
from safetensors.torch import load_file


def model():
    net = ResNet()
    net.load_state_dict(load_file(Path(__file__).parent / "teacher.safetensors"))
    return net


def train_data():
    return FashionMnist("train", shift=1)


def val_data():
    return FashionMnist("t10k")
