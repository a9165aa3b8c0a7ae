"""FLOPs counted by hand, by TensorFlow's profiler, and published; rates by hand."""

import itertools

import keras
import numpy as np
import pytest
import tensorflow as tf

import tfadv
from tfadv import layers, models
from tfadv.programs import costs


def without_values(make):
    with keras.StatelessScope(initialize_variables=False):
        return make()


def small(norm=None, **options):
    inputs = keras.Input((10, 12, 3))
    x = keras.layers.Conv2D(8, 3, strides=2, padding="same", use_bias=False, **options)(inputs)
    if norm:
        x = layers.normalization(norm, 8)(x)
    x = keras.layers.ReLU()(x)
    x = keras.layers.Conv2D(4, 1, use_bias=False)(x)
    x = keras.layers.Flatten()(x)
    return keras.Model(inputs, keras.layers.Dense(7)(x))


# Products: 5 x 6 positions, 9 x 3 numbers in, 8 channels out; then 8 in, 4 out; then 120 in, 7 out.
FIRST, SECOND, DENSE = 30 * 27 * 8, 30 * 8 * 4, 120 * 7


@pytest.mark.parametrize("norm", [None, "bn", "mbn", "gn"])
def test_by_hand(norm):
    cost = costs.network_cost(without_values(lambda: small(norm)))
    forward = FIRST + SECOND + DENSE
    assert cost.forward == 2 * forward
    assert cost.image_gradient == 2 * (forward + forward)
    # The first convolution needs no gradient to the image; every one to its weights.
    assert cost.update == 2 * (forward + forward + SECOND + DENSE)
    kernels = 9 * 3 * 8 + 8 * 4 + 120 * 7 + 7
    affine = {None: 0, "bn": 16, "gn": 16, "mbn": 32}[norm]
    moving = affine if norm in ("bn", "mbn") else 0
    assert cost.parameters == kernels + affine
    assert cost.reduced_bytes == 4 * (kernels + affine + moving)


def test_what_is_frozen_needs_no_gradient():
    model = small("bn")
    models.train_only_normalization(model)
    cost = costs.network_cost(model)
    # Down to the normalization after the first convolution, and nothing to any kernel.
    assert cost.update == 2 * (FIRST + 2 * SECOND + 2 * DENSE)
    assert cost.parameters == 16


def test_activations_by_hand():
    cost = costs.network_cost(without_values(lambda: small("bn")))
    image, hidden, narrow = 10 * 12 * 3, 30 * 8, 30 * 4
    # What convolutions multiply with their kernels' gradients, normalization with its own; and the
    # ReLU's output, which is the next convolution's input.
    assert cost.update_bytes == 4 * (image + hidden + hidden + narrow)
    # To the image alone: where the ReLU passed.
    assert cost.attack_bytes == 4 * hidden


def test_other_layers():
    inputs = keras.Input((8, 8, 6))
    x = keras.layers.DepthwiseConv2D(3, padding="same", use_bias=False)(inputs)
    x = layers.GroupedConv2D(12, 3, padding="same", groups=3, use_bias=False)(x)
    x = layers.NonLocalMeans()([x, x, x])
    cost = costs.network_cost(keras.Model(inputs, x))
    depthwise, grouped, means = 64 * 9 * 6, 64 * 9 * 2 * 12, 2 * 64 * 64 * 12
    assert cost.forward == 2 * (depthwise + grouped + means)
    assert cost.image_gradient == 2 * (2 * depthwise + 2 * grouped + means + 2 * means)


def test_as_tensorflows_own_profiler():
    with tf.Graph().as_default() as graph:
        image = tf.compat.v1.placeholder(tf.float32, (2, 10, 10, 4))
        kernel = tf.compat.v1.placeholder(tf.float32, (3, 3, 4, 6))
        weights = tf.compat.v1.placeholder(tf.float32, (6 * 25, 5))
        x = tf.nn.conv2d(image, kernel, 2, "SAME")
        x = tf.matmul(tf.reshape(x, (2, -1)), weights)
        tf.gradients(x, [image, kernel, weights])
        ours = {op.name: costs.flops(op) for op in graph.get_operations()}
        options = tf.compat.v1.profiler.ProfileOptionBuilder.float_operation()
        options = {**options, "output": "none"}
        profile = tf.compat.v1.profiler.profile(graph, cmd="scope", options=options)
        theirs, open_ = {}, [profile]
        while open_:
            node = open_.pop()
            theirs[node.name] = node.float_ops
            open_ += node.children
    counted = {name: count for name, count in ours.items() if count}
    assert len(counted) == 6
    assert counted == {name: theirs[name] for name in counted}


@pytest.mark.parametrize(
    ("equation", "shapes", "products"),
    [
        ("...ik,...kj->...ij", ((2, 3, 4), (2, 4, 5)), 2 * 3 * 4 * 5),
        ("b...k,kj->b...j", ((2, 6, 7, 4), (4, 5)), 2 * 6 * 7 * 4 * 5),
        ("...k,...k->...", ((6, 7, 4), (7, 4)), 6 * 7 * 4),
    ],
)
def test_einsum(equation, shapes, products):
    with tf.Graph().as_default():
        result = tf.einsum(equation, *(tf.compat.v1.placeholder(tf.float32, s) for s in shapes))
        counts = {op.type: costs.flops(op) for op in result.graph.get_operations()}
    assert counts["Einsum"] == 2 * products


def test_published():
    # He et al.'s ResNet-50 with the stride on the 3x3 convolution: 4.09 GMAC (torchvision).
    model = without_values(lambda: models.ResNet(50))
    cost = costs.network_cost(model)
    assert cost.forward / 2e9 == pytest.approx(4.09, abs=0.005)
    assert cost.parameters == 25557032
    assert not np.any([hasattr(v, "_value") and v._value is not None for v in model.variables])


def test_rematerialization_keeps_less():
    model = without_values(lambda: models.SmallResNet(20, image_size=16, width=4))
    cost = costs.network_cost(model)
    assert cost.rematerialized_update_bytes < 0.5 * cost.update_bytes
    assert cost.rematerialized_attack_bytes < cost.attack_bytes


def test_refuses_what_it_cannot_count():
    with pytest.raises(ValueError, match="of a fixed size; received .*None, None, 3"):
        costs.network_cost(
            keras.Sequential([keras.Input((None, None, 3)), keras.layers.Conv2D(2, 1)])
        )

    class Own(keras.Model):
        pass

    with pytest.raises(ValueError, match="must be functional or sequential; received Own"):
        costs.network_cost(Own())


@pytest.mark.parametrize("attacked", [True, False])
def test_rates_are_measured_on_real_training_steps(attacked, monkeypatch):
    inputs = keras.Input((8, 8, 3))
    x = keras.layers.Conv2D(4, 3, activation="relu")(inputs)
    model = keras.Model(inputs, keras.layers.Dense(5)(keras.layers.Flatten()(x)))
    loss = keras.losses.CategoricalCrossentropy(from_logits=True)
    model.compile(keras.optimizers.SGD(0.1), loss, jit_compile=False)
    cost = costs.network_cost(model)
    real = costs._seconds
    # Two seconds a call without iterations, six with four: the difference is the attack's.
    waits = itertools.cycle([2.0, 6.0] if attacked else [2.0])

    def seconds(function):
        assert real(function) > 0
        return next(waits)

    monkeypatch.setattr(costs, "_seconds", seconds)
    attack = tfadv.attacks.PGD(8, num_steps=20) if attacked else None
    rates = costs.measure_rates(model, attack, cost, images=6, clean_ratio=0.5)
    if attacked:
        assert rates == (4 * 6 * cost.image_gradient / 4, 9 * cost.update / 2)
    else:
        assert rates == (6 * cost.update / 2,) * 2
    # Every step ran: once to be traced, and five times.
    assert int(model.optimizer.iterations) == (12 if attacked else 6)
