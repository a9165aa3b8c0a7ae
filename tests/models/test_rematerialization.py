"""Networks that compute their activations again are the networks that keep them."""

import os
import re
import subprocess
import sys
import zipfile

import keras
import numpy as np
import pytest
import tensorflow as tf

import tfadv
from tests.models import chains
from tfadv.layers import normalization
from tfadv.models import rematerialization

SHAPE = (6, 6, 4)
X = np.random.default_rng(0).uniform(-1, 1, (6, *SHAPE)).astype("float32")


def conv(**options):
    # Before a normalization a bias has a gradient of rounding errors alone.
    return keras.layers.Conv2D(4, 3, padding="same", use_bias=False, **options)


def add(x, *layers):
    y = x
    for layer in layers:
        y = layer(y)
    return keras.layers.Add()([x, y])


def model_of(body, shape=SHAPE, kind=keras.Model):
    keras.utils.set_random_seed(1)
    inputs = keras.Input(shape)
    x = keras.layers.GlobalAveragePooling2D()(body(inputs))
    return kind(inputs, keras.layers.Dense(3)(x))


def residual(norm="bn", **options):
    def body(x):
        for _ in range(3):
            x = add(x, normalization(norm, 4), keras.layers.ReLU(), conv())
        return x

    return chains.scramble(model_of(body, **options))


def chain():
    keras.utils.set_random_seed(5)
    hidden = [f() for _ in range(4) for f in (conv, tfadv.layers.BatchNormalization)]
    head = [keras.layers.Flatten(), keras.layers.Dropout(0.5, seed=1), keras.layers.Dense(3)]
    return keras.Sequential([keras.Input(SHAPE), *hidden, *head])


class Branch(keras.layers.Layer):
    """Layers in a layer without a `training` argument, with a loss of its own."""

    def __init__(self):
        super().__init__()
        self.parts = [conv(), tfadv.layers.BatchNormalization(), keras.layers.Dropout(0.5, seed=2)]

    def build(self, input_shape):
        for part in self.parts:
            part.build(input_shape)

    def call(self, x):
        y = x
        for part in self.parts:
            y = part(y)
        self.add_loss(tf.reduce_mean(tf.square(y)))
        return x + y


def layers_in_layers():
    return model_of(lambda x: Branch()(Branch()(Branch()(x))))


def shared():
    """Layers in several places, penalties on activities, concatenation, operations."""

    def body(x):
        norm, drop = normalization("mbn", 4), keras.layers.Dropout(0.5, seed=3)
        for _ in range(2):
            y = drop(norm(conv(activity_regularizer="l2")(x)))
            y = keras.layers.Concatenate()([x, y, keras.ops.relu(x)])
            x = keras.layers.Conv2D(4, 1, activity_regularizer="l2")(y)
        return x

    return model_of(body)


def base():
    keras.utils.set_random_seed(7)
    inputs = x = keras.Input(SHAPE)
    for _ in range(2):
        x = add(x, conv(), normalization("mbn", 4))
    return keras.Model(inputs, x)


def nested():
    """A model in the model, both where all flows through it and in a branch."""
    inner = base()
    return model_of(lambda x: add(add(inner(conv()(x), training=False), inner), conv()))


class Doubled(keras.Model):
    def call(self, images, training=None):
        return 2.0 * super().call(images, training=training)


def results(model, rematerialize, domain, training=True, running_statistics=False):
    """Outputs, gradients to images and weights, what layers assign, and their losses."""

    @tf.function(autograph=False)
    def step(images):
        with tf.GradientTape(persistent=True) as tape:
            tape.watch(images)
            with keras.StatelessScope(collect_losses=True) as scope:
                outputs = tfadv.models.call(
                    model,
                    images,
                    training=training,
                    domain=domain,
                    running_statistics=running_statistics,
                    rematerialize=rematerialize,
                )
            loss = tf.reduce_sum(tf.square(tf.cast(outputs, tf.float32))) + sum(scope.losses)
        return {
            "outputs": outputs,
            "image": tape.gradient(loss, images),
            "weights": tape.gradient(loss, [v.value for v in model.trainable_variables]),
            "assigned": [scope.get_current_value(v) for v in model.variables],
            "losses": scope.losses,
        }

    return step(tf.constant(X))


def assert_same(actual, expected):
    for name, values in expected.items():
        pairs = zip(tf.nest.flatten(actual[name]), tf.nest.flatten(values), strict=True)
        for value, wanted in pairs:
            # Variables that a call does not use have no gradient, where a sum would have zeros.
            assert (value is None) == (wanted is None), name
            if wanted is not None:
                # The same operations, but another order where several gradients are summed.
                wanted = np.asarray(wanted, "float64")
                np.testing.assert_allclose(value, wanted, 1e-5, 1e-5 * np.abs(wanted).max(), name)


@pytest.mark.parametrize(
    "make",
    [
        chain,
        layers_in_layers,
        shared,
        nested,
        lambda: residual("gn", kind=Doubled),
    ],
    ids=["chain", "layers in layers", "shared", "nested", "own call"],
)
def test_every_form_of_model(make):
    model = make()
    expected = results(model, False, 2)
    # Dropout draws the same masks in both runs, or neither of these would agree.
    assert_same(results(model, True, 2), expected)
    if make in (layers_in_layers, shared):
        assert len(expected["losses"]) == (3 if make is layers_in_layers else 4)


@pytest.mark.parametrize("domain", ["clean", 2])
def test_runs_a_block_again_in_the_domain_of_the_call(domain):
    model = residual("mbn")
    expected = results(model, False, domain)
    assert_same(results(model, True, domain), expected)
    # And another domain would have given something else.
    other = results(model, True, "adv")["image"]
    assert np.abs(other - expected["image"]).max() > 0.01 * np.abs(other).max()
    assert any(value is None for value in expected["weights"]) == isinstance(domain, str)


def test_runs_a_block_again_with_running_statistics():
    model = residual()
    expected = results(model, False, "adv", running_statistics=True)
    actual = results(model, True, "adv", running_statistics=True)
    assert_same(actual, expected)
    assert not any(value is not None for value in actual["assigned"])
    other = results(model, True, "adv")["image"]
    assert np.abs(other - expected["image"]).max() > 0.01 * np.abs(other).max()


@pytest.mark.slow
def test_half_precision():
    before = keras.config.dtype_policy()
    keras.config.set_dtype_policy("mixed_bfloat16")
    try:
        model = residual("mbn")
    finally:
        keras.config.set_dtype_policy(before)
    assert_same(results(model, True, 2), results(model, False, 2))


def last_layers(model):
    return [
        [block.nodes[-1].operation.name for block in blocks]
        for _, blocks in rematerialization.blocks(model)
    ]


def test_cuts_a_residual_network_at_its_blocks():
    model = tfadv.models.SmallResNet(14, image_size=8, width=1)
    outputs = [f"res{stage}_block{i}_out" for stage in (2, 3, 4) for i in (0, 1)]
    assert last_layers(model) == [["relu0", *outputs[:-1], "logits"]]


def test_cuts_a_chain_into_pieces_and_a_model_in_a_model_by_itself():
    ((_, blocks),) = rematerialization.blocks(chain())
    assert [len(block.nodes) for block in blocks] == [4, 4, 3]  # of 11
    (_, inner), (_, outer) = rematerialization.blocks(nested())
    assert [len(block.nodes) for block in inner] == [3, 3]
    assert [len(block.nodes) for block in outer] == [1, 1, 2, 4]
    assert [block.leaf for block in outer] == [True, False, True, True]


def saved(model, path):
    model.save(path)
    with zipfile.ZipFile(path) as file:
        return {name: file.read(name) for name in file.namelist() if name != "metadata.json"}


def test_leaves_the_model_as_it_was(tmp_path):
    model = nested()

    def look():
        parts = [model, *model._flatten_layers()]
        return [(sorted(vars(part)), len(part._inbound_nodes)) for part in parts]

    before = saved(model, tmp_path / "before.keras"), look(), [v.path for v in model.variables]
    results(model, True, 2)
    with pytest.raises(ValueError):
        tfadv.models.call(model, X[:, :2], rematerialize=True)
    after = saved(model, tmp_path / "after.keras"), look(), [v.path for v in model.variables]
    assert after == before


def test_works_eagerly():
    model, twin = residual("mbn"), residual("mbn")
    for each, rematerialize in ((model, True), (twin, False)):
        with tf.GradientTape() as tape:
            outputs = tfadv.models.call(
                each, X, training=True, domain=2, rematerialize=rematerialize
            )
            loss = tf.reduce_sum(tf.square(outputs))
        each.slopes = tape.gradient(loss, [v.value for v in each.trainable_variables])
    for actual, expected in ((model.slopes, twin.slopes), (model.variables, twin.variables)):
        for a, b in zip(actual, expected, strict=True):
            np.testing.assert_allclose(a, b, rtol=1e-5, atol=1e-5)


def test_xla_does_not_merge_the_second_run_with_the_first():
    # Equal computations on equal values are one to XLA, and would be kept for the gradient.
    relu = {"activation": "relu"}  # whose gradient needs what it made of the convolution
    model = model_of(lambda x: add(add(add(x, conv(**relu)), conv(**relu)), conv(**relu)))

    def slope(images, rematerialize):
        with tf.GradientTape() as tape:
            tape.watch(images)
            outputs = tfadv.models.call(model, images, rematerialize=rematerialize)
            loss = tf.reduce_sum(tf.square(outputs))
        return tape.gradient(loss, images)

    function = tf.function(slope, jit_compile=True, autograph=False)
    convolutions, slopes = [], []
    for rematerialize in (False, True):
        compiler = function.experimental_get_compiler_ir(tf.constant(X), rematerialize)
        program = compiler(stage="optimized_hlo")
        convolutions.append(len(re.findall(r" convolution\(", program)))
        slopes.append(function(X, rematerialize))
    # The last of the three blocks runs only once.
    assert convolutions[1] == convolutions[0] + 2
    np.testing.assert_allclose(slopes[1], slopes[0], rtol=1e-4, atol=1e-6)


class Noise(keras.layers.Layer):
    def call(self, x):
        return x + tf.random.normal(tf.shape(x))


def test_refuses_what_it_cannot_run_again():
    inputs = keras.Input(SHAPE)
    # A subclassed model is refused even if it holds a functional one: its code calls that one, and
    # only a change of the live model would lead it through the blocks.
    held = chains.subclassed_around_functional()
    for model in (chains.subclassed(), held, keras.Model(inputs, conv()(inputs))):
        with pytest.raises(ValueError, match="rematerialize needs a functional or .* of several"):
            rematerialization.blocks(model)
    x = inputs = keras.Input([3])
    x = keras.layers.Embedding(5, 4, mask_zero=True)(x)
    masked = keras.Model(inputs, keras.layers.GlobalAveragePooling1D()(x))
    with pytest.raises(ValueError, match="rematerialize needs layers without masks; received 'emb"):
        rematerialization.blocks(masked)
    noisy = model_of(lambda x: add(add(Noise()(x), conv()), conv()))
    with pytest.raises(ValueError, match="needs layers that draw with keras.random; .*Normal") as e:
        results(noisy, True, "adv")
    assert "\n" not in str(e.value)


PEAK = """
import sys, keras, numpy as np, tensorflow as tf, tfadv
model = tfadv.models.SmallResNet(62, image_size=32, width=8, seed=1)
loss_of = keras.losses.SparseCategoricalCrossentropy(from_logits=True)

@tf.function(autograph=False)
def step(images, labels):
    with tf.GradientTape() as tape, keras.StatelessScope():
        outputs = tfadv.models.call(
            model, images, training=True, rematerialize=sys.argv[1] == "True"
        )
        loss = loss_of(labels, outputs)
    return [tf.norm(g) for g in tape.gradient(loss, [v.value for v in model.trainable_variables])]

def peak(count):
    images = np.random.default_rng(0).uniform(0, 255, (count, 32, 32, 3)).astype("float32")
    open("/proc/self/clear_refs", "w").write("5")
    step(tf.constant(images), tf.constant(np.arange(count) % 10))
    status = open("/proc/self/status").read()
    return int(status.split("VmHWM:")[1].split()[0]) / 1024

step.get_concrete_function(tf.TensorSpec([None, 32, 32, 3]), tf.TensorSpec([None], tf.int64))
print("PEAK", peak(8), peak(512))
"""


@pytest.mark.slow
@pytest.mark.skipif(not os.path.exists("/proc/self/clear_refs"), reason="needs Linux's /proc")
def test_memory_of_a_deep_network():
    grown = {}
    for rematerialize in (False, True):
        done = subprocess.run(
            [sys.executable, "-c", PEAK, str(rematerialize)],
            env={**os.environ, "MALLOC_ARENA_MAX": "1"},
            capture_output=True,
            text=True,
            check=True,
        )
        first, last = map(float, done.stdout.split("PEAK")[1].split())
        grown[rematerialize] = last - first
    print(grown)
    assert grown[True] < 0.5 * grown[False]
