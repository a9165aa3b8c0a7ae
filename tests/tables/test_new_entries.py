"""A new data set, normalization or network is one file and one line of a table.

This test does that, in a copy of the package, and trains with all three through the real program.
"""

import os
import pathlib
import shutil
import subprocess
import sys

import pytest

ROOT = pathlib.Path(__file__).resolve().parents[2]

DATA_SET = """
import numpy as np
from tfadv.data.arrays import ArrayDataset


def load(entry, data_dir, image_size, seed):
    labels = np.arange(24) % entry.num_classes
    images = np.random.default_rng(seed).integers(0, 256, (24, 8, 8, 1), dtype=np.uint8)
    return ArrayDataset(entry.name, (images[8:], labels[8:]), (images[:8], labels[:8]), 3)
"""

NORMALIZATION = """
import keras


@keras.saving.register_keras_serializable("toy")
class MaximumNormalization(keras.layers.Layer):
    def __init__(self, gamma_initializer="ones", **kwargs):
        super().__init__(**kwargs)
        self.gamma_initializer = gamma_initializer

    def build(self, input_shape):
        self.gamma = self.add_weight(
            name="gamma", shape=input_shape[-1:], initializer=self.gamma_initializer
        )

    def call(self, inputs):
        largest = keras.ops.max(keras.ops.abs(inputs), axis=(1, 2), keepdims=True)
        return self.gamma * inputs / (largest + 1e-5)

    def get_config(self):
        return {**super().get_config(), "gamma_initializer": self.gamma_initializer}
"""

NETWORK = """
import keras
from tfadv import layers


def ToyNet(depth, norm, num_classes, image_size, channels, weight_decay, norm_options, seed):
    inputs = keras.Input((*image_size, channels))
    x = keras.layers.Conv2D(depth, 3)(layers.InputContract()(inputs))
    x = layers.normalization(norm, depth, **(norm_options or {}))(x)
    x = keras.layers.GlobalAveragePooling2D()(keras.layers.ReLU()(x))
    return keras.Model(inputs, keras.layers.Dense(num_classes)(x), name="toy_net")
"""

# Where the file goes, the file, the table, the line that begins it, and the new line.
NEW = [
    ("data", DATA_SET, "datasets", "for entry in (", 'Entry("toy", "toy", 3, 8, 1, 16, 8),'),
    (
        "layers",
        NORMALIZATION,
        "normalizations",
        "NORMALIZATIONS = {",
        '"toy": ("tfadv.layers.toy:MaximumNormalization", _nothing),',
    ),
    (
        "models",
        NETWORK,
        "networks",
        "NETWORKS = {",
        '"toy": Network("tfadv.models.toy:ToyNet", lambda network, depth, blocks: (1,), 8),',
    ),
]


@pytest.fixture
def package(tmp_path):
    """A copy of the package with a new data set, normalization and network."""
    shutil.copytree(ROOT / "tfadv", tmp_path / "tfadv", ignore=shutil.ignore_patterns("*.pyc"))
    for room, file, table, beginning, line in NEW:
        (tmp_path / "tfadv" / room / "toy.py").write_text(file)
        path = tmp_path / "tfadv" / "tables" / f"{table}.py"
        before, after = path.read_text().split(f"{beginning}\n")
        path.write_text(f"{before}{beginning}\n{line}\n{after}")
    return tmp_path


def train(package, flags):
    done = subprocess.run(
        [sys.executable, "-m", "tfadv.train", *flags.split()],
        cwd=package,
        env={**os.environ, "PYTHONPATH": str(package)},
        capture_output=True,
        text=True,
        timeout=300,
    )
    assert done.returncode == 0, done.stderr[-3000:]
    return done.stdout


def test_a_new_data_set_normalization_and_network_are_one_file_and_one_line_each(package):
    flags = "--dataset=toy --norm=toy --network=toy --depth=4 --epochs=1 --steps_per_epoch=2 "
    flags += "--batch_size=8 --images_per_worker=8 --num_steps=1 --eval_num_steps=1 --run_dir=run"
    said = train(package, flags)
    assert "data:        toy, 16 images of 8x8x1, 3 classes" in said
    assert "network:     toy_net, norm toy" in said
    # The toy layer counts as a normalization where only those are trained.
    train(package, f"{flags}2 --trainable=norm --init_from=run")
    assert (package / "run2" / "model.keras").is_file()
