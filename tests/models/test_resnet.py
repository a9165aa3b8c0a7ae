"""The residual networks against counts that are published and against a network in NumPy."""

import itertools

import keras
import numpy as np
import pytest
import tensorflow as tf

from tfadv import layers
from tfadv.models import ResNet, SmallResNet, StridedSmallResNet, call
from tfadv.tables import networks

TINY = dict(depth=14, blocks=(1, 1, 1, 1), num_classes=5, image_size=32, seed=3)


def pixels(*shape, seed=0):
    return np.random.default_rng(seed).uniform(0, 255, shape).astype("float32")


def count(model):
    """Parameters as they are published: without moving statistics."""
    return sum(int(np.prod(variable.shape)) for variable in model.trainable_variables)


def scramble(model):
    """Gives every variable another value: none stays at a zero or a one that could hide it."""
    generator = np.random.default_rng(7)
    for variable in model.variables:
        value = generator.normal(size=variable.shape)
        if "kernel" in variable.path:
            value /= np.sqrt(np.prod(variable.shape[:-1]))
        elif "variance" in variable.path:
            value = 0.5 + np.abs(value)
        variable.assign(value)


# --- A network in NumPy, float64, from the weights of a model by the names of its layers.


def np_windows(x, size, strides, fill=0.0):
    """Windows [b, h, w, channels, size, size] under TensorFlow's SAME: the odd one goes last."""
    pads = [max((-(-n // strides) - 1) * strides + size - n, 0) for n in x.shape[1:3]]
    x = np.pad(x, [(0, 0), *((p // 2, p - p // 2) for p in pads), (0, 0)], constant_values=fill)
    views = np.lib.stride_tricks.sliding_window_view(x, (size, size), (1, 2))
    return views[:, ::strides, ::strides]


class Reference:
    def __init__(self, model, groups=1, branches=True):
        self.model, self.groups, self.branches = model, groups, branches

    def arrays(self, name):
        return [np.asarray(v, "float64") for v in self.model.get_layer(name).variables]

    def conv(self, x, name, strides=1, groups=1):
        (kernel,) = self.arrays(name)
        xs = np.split(x, groups, axis=-1)
        kernels = np.split(kernel, groups, axis=-1)
        return np.concatenate(
            [
                np.einsum("bhwcij,ijcd->bhwd", np_windows(x, kernel.shape[0], strides), k)
                for x, k in zip(xs, kernels, strict=True)
            ],
            axis=-1,
        )

    def norm(self, x, name):
        gamma, beta, mean, variance = self.arrays(name)
        return gamma * (x - mean) / np.sqrt(variance + 1e-5) + beta

    def block(self, x, name, convs, strided, strides, project):
        y = x
        for k in range(1, convs + 1):
            y = self.conv(
                y,
                f"{name}_conv{k}",
                strides if k == strided else 1,
                self.groups if k == 2 and convs == 3 else 1,
            )
            y = self.norm(y, f"{name}_norm{k}")
            if k < convs:
                y = np.maximum(y, 0)
        if project:
            x = self.conv(x, f"{name}_convshortcut", strides)
            x = self.norm(x, f"{name}_normshortcut")
        return np.maximum(x + y if self.branches else x, 0)

    def head(self, x):
        kernel, bias = self.arrays("logits")
        return x.mean((1, 2)) @ kernel + bias

    def resnet(self, images, blocks):
        x = self.conv(images.astype("float64") * 2 / 255 - 1, "conv0", 2)
        x = np.maximum(self.norm(x, "norm0"), 0)
        x = np_windows(x, 3, 2, -np.inf).max((-2, -1))
        for stage, number in enumerate(blocks):
            for i in range(number):
                strides = 2 if stage and not i else 1
                x = self.block(x, f"res{stage + 2}_block{i}", 3, 2, strides, project=not i)
        return self.head(x)

    def small_resnet(self, images, n):
        x = self.conv(images.astype("float64") * 2 / 255 - 1, "conv0")
        x = np.maximum(self.norm(x, "norm0"), 0)
        for stage, i in itertools.product(range(3), range(n)):
            first = stage > 0 and i == 0
            x = self.block(x, f"res{stage + 2}_block{i}", 2, 1, 2 if first else 1, project=first)
        return self.head(x)


# --- Architecture


@pytest.mark.parametrize(
    "depth, published", [(50, 25557032), (101, 44549160), (152, 60192808), (200, 64673832)]
)
def test_parameter_counts_are_the_published_ones(depth, published):
    assert count(ResNet(depth)) == published


def test_resnext_is_a_matter_of_arguments():
    # torchvision's resnext50_32x4d.
    assert count(ResNet(50, cardinality=32, group_width=4)) == 25028904


def test_small_resnet_parameter_count():
    # By hand, n = 1, width 16, RGB, 10 classes: stem, three stages, dense, two projections.
    stem = 27 * 16 + 32
    stages = 2 * (9 * 16 * 16 + 32) + 9 * 16 * 32 + 64 + 9 * 32 * 32 + 64
    stages += 9 * 32 * 64 + 128 + 9 * 64 * 64 + 128
    projections = 16 * 32 + 64 + 32 * 64 + 128
    assert count(SmallResNet(8)) == stem + stages + projections + 64 * 10 + 10


@pytest.mark.parametrize("groups, image_size", [(1, 32), (2, 32), (1, (37, 45))])
def test_resnet_equals_a_network_in_numpy(groups, image_size):
    blocks = (2, 1, 1)
    model = ResNet(
        14,
        blocks=blocks,
        num_classes=5,
        image_size=image_size,
        width=4,
        cardinality=groups,
        group_width=3 if groups > 1 else None,
    )
    scramble(model)
    images = pixels(3, *model.input_shape[1:])
    expected = Reference(model, groups).resnet(images, blocks)
    assert np.std(expected) > 0.1
    np.testing.assert_allclose(model(images), expected, rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("image_size, channels", [(8, 1), (13, 3)])
def test_small_resnet_equals_a_network_in_numpy(image_size, channels):
    model = SmallResNet(14, num_classes=5, image_size=image_size, channels=channels, width=4)
    scramble(model)
    images = pixels(3, image_size, image_size, channels)
    expected = Reference(model).small_resnet(images, 2)
    assert np.std(expected) > 0.1
    np.testing.assert_allclose(model(images), expected, rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("size", [32, 33, 47, 224, 255])
def test_output_shapes_are_those_of_symmetric_padding(size):
    model = ResNet(**{**TINY, "image_size": size}, width=2)

    def window(n, kernel, strides):  # Caffe's and PyTorch's rule, padding kernel // 2.
        return (n + 2 * (kernel // 2) - kernel) // strides + 1

    n = window(size, 7, 2)
    assert model.get_layer("conv0").output.shape == (None, n, n, 2)
    n = window(n, 3, 2)
    assert model.get_layer("pool0").output.shape == (None, n, n, 2)
    for stage in range(4):
        n = n if stage == 0 else window(n, 3, 2)
        shape = model.get_layer(f"res{stage + 2}_block0_out").output.shape
        assert shape == (None, n, n, 8 * 2**stage)


def test_depth_table():
    for depth, blocks in networks.DEPTHS.items():
        assert 3 * sum(blocks) + 2 == depth
    assert {d: sum(networks.DEPTHS[d]) for d in (338, 518, 638)} == {
        338: 112,
        518: 172,
        638: 212,
    }


def test_hooks_compose():
    seen = []

    def record(make, x, name):
        seen.append(name)
        return make.normalization(x.shape[-1], name=f"{name}_extra", gamma="zeros")(x)

    model = ResNet(
        **{**TINY, "depth": 17, "blocks": (1, 2, 1, 1)}, width=2, norm="mbn", after_stage=record
    )
    assert seen == ["res2", "res3", "res4", "res5"]
    # A gamma of zero leaves nothing of the image.
    np.testing.assert_array_equal(model(pixels(2, 32, 32, 3)), np.zeros((2, 5)))
    seen.clear()
    SmallResNet(14, width=2, after_block=record)
    assert seen == [f"res{stage}_block{i}" for stage in (2, 3, 4) for i in (0, 1)]


# --- ResNet-638


@pytest.fixture(scope="module")
def deep():
    return ResNet(638, num_classes=10, image_size=32, width=4, seed=0)


def test_resnet638_has_638_layers_with_unique_names(deep):
    names = [layer.name for layer in deep.layers]
    assert len(set(names)) == len(names)
    weighted = (keras.layers.Conv2D, keras.layers.Dense)
    counted = [layer.name for layer in deep.layers if isinstance(layer, weighted)]
    assert len([name for name in counted if "shortcut" not in name]) == 638
    assert len([name for name in counted if "shortcut" in name]) == 4
    stages = [sum(n.startswith(f"res{s}_") and n.endswith("_out") for n in names) for s in range(6)]
    assert stages == [0, 0, 3, 24, 182, 3]
    paths = [variable.path for variable in deep.variables]
    assert len(set(paths)) == len(paths)


def test_resnet638_trains_one_step(deep):
    images, labels = pixels(2, 32, 32, 3), np.array([1, 2])
    before = deep.get_layer("norm0").moving_mean.numpy()
    variables = [variable.value for variable in deep.trainable_variables]
    with tf.GradientTape() as tape:
        logits = call(deep, images, training=True)
        loss = keras.losses.SparseCategoricalCrossentropy(from_logits=True)(labels, logits)
    gradients = tape.gradient(loss, variables)
    assert logits.shape == (2, 10)
    assert all(np.isfinite(gradient).all() for gradient in gradients)
    assert deep.trainable_variables[0].path == "conv0/kernel"
    assert np.abs(gradients[0]).max() > 0
    for variable, gradient in zip(deep.trainable_variables, gradients, strict=True):
        variable.assign_sub(0.1 * gradient)
    assert np.abs(deep.get_layer("res5_block2_norm3").gamma).max() > 0
    assert np.abs(deep.get_layer("norm0").moving_mean.numpy() - before).max() > 0


@pytest.mark.slow
def test_resnet638_is_saved_and_loaded(deep, tmp_path):
    deep.save(tmp_path / "deep.keras")
    loaded = keras.models.load_model(tmp_path / "deep.keras")
    images = pixels(2, 32, 32, 3)
    np.testing.assert_array_equal(loaded(images), deep(images))


# --- Initialization


@pytest.mark.parametrize("training", [False, True])
@pytest.mark.parametrize("norm", ["bn", "mbn", "gn", "ln", "in"])
def test_blocks_start_as_their_shortcuts(norm, training):
    model = SmallResNet(14, norm, image_size=8, width=4)
    outputs = [layer.output for layer in model.layers if layer.name.endswith("_out")]
    sums = [layer.output for layer in model.layers if layer.name.endswith("_normshortcut")]
    with layers.scope.enter("adv"):  # without which a mixture in training warns
        outs, projections = keras.Model(model.input, [outputs, sums])(
            pixels(4, 8, 8, 3), training=training
        )
    for i in (1, 3, 5):
        np.testing.assert_array_equal(outs[i], outs[i - 1])
    for i, projection in zip((2, 4), projections, strict=True):
        np.testing.assert_array_equal(outs[i], np.maximum(projection, 0))


def test_resnet_starts_without_its_branches():
    model = ResNet(17, blocks=(1, 2, 1, 1), num_classes=5, image_size=32, width=4, seed=1)
    images = pixels(3, 32, 32, 3)
    expected = Reference(model, branches=False).resnet(images, (1, 2, 1, 1))
    np.testing.assert_allclose(model(images), expected, rtol=1e-4, atol=1e-6)
    # All other gammas are one, and nothing else keeps the branches from the output.
    for layer in model.layers:
        if hasattr(layer, "gamma"):
            is_last = layer.name.endswith("norm3")
            np.testing.assert_array_equal(layer.gamma, np.full(layer.gamma.shape, 1.0 - is_last))
            layer.gamma.assign(tf.ones_like(layer.gamma))
    assert np.abs(model(images) - expected).max() > 1e-3


def test_initial_kernels():
    model = ResNet(**TINY, width=32)
    convs = [layer for layer in model.layers if isinstance(layer, keras.layers.Conv2D)]
    assert len(convs) == 17
    for layer in convs:
        assert not layer.use_bias
        values = layer.kernel.numpy()
        z = values / np.sqrt(2 / (np.prod(values.shape[:2]) * values.shape[-1]))
        # Deviation and mean of n normal values, five standard errors wide.
        assert abs(z.std() - 1) < 5 / np.sqrt(2 * z.size)
        assert abs(z.mean()) < 5 / np.sqrt(z.size)
        assert np.abs(z).max() > 2.5  # A truncated normal, scaled to this deviation, ends at 2.27.
    logits = model.get_layer("logits")
    values = logits.kernel.numpy() / 0.01
    assert abs(values.std() - 1) < 5 / np.sqrt(2 * values.size)
    np.testing.assert_array_equal(logits.bias, np.zeros(5))


def kernels(model):
    return {v.path: v.numpy() for v in model.trainable_variables if v.path.endswith("kernel")}


def test_seed_decides_the_initial_weights_by_layer():
    one, same, other = (kernels(SmallResNet(14, width=4, seed=seed)) for seed in (0, 0, 1))
    deeper = kernels(SmallResNet(20, width=4, seed=0))
    for path, values in one.items():
        np.testing.assert_array_equal(values, same[path])
        np.testing.assert_array_equal(values, deeper[path])
        assert np.abs(values - other[path]).min() > 0
    assert len({values.flat[0] for values in one.values()}) == len(one)


def test_without_a_seed_keras_has_the_say():
    keras.utils.set_random_seed(1)
    one = kernels(SmallResNet(8, width=4))
    keras.utils.set_random_seed(1)
    same, other = (kernels(SmallResNet(8, width=4)) for _ in range(2))
    for path, values in one.items():
        np.testing.assert_array_equal(values, same[path])
        assert np.abs(values - other[path]).min() > 0


# --- Weight decay, dtypes, files


@pytest.mark.parametrize("norm", ["bn", "mbn", "gn"])
def test_weight_decay_is_on_kernels_alone(norm):
    model = ResNet(**TINY, width=4, norm=norm)
    for variable in model.trainable_variables:
        variable.assign_add(tf.ones_like(variable))
    squares = [np.sum(v.astype("float64") ** 2) for v in kernels(model).values()]
    assert len(squares) == len(model.losses) == 18
    np.testing.assert_allclose(sum(model.losses), 1e-4 * sum(squares) / 2, rtol=1e-5)
    for variable in model.variables:
        assert (variable.regularizer is not None) == variable.path.endswith("kernel")


def test_weight_decay_can_be_left_out():
    assert not SmallResNet(8, width=2, weight_decay=0.0).losses


@pytest.mark.parametrize(
    "policy, inside, outside",
    [
        ("mixed_bfloat16", "bfloat16", "float32"),
        ("mixed_float16", "float16", "float32"),
        ("float64", "float64", "float64"),
    ],
)
def test_logits_are_never_half_precision(policy, inside, outside):
    before = keras.config.dtype_policy()
    keras.config.set_dtype_policy(policy)
    try:
        model = SmallResNet(8, "mbn", image_size=8, width=4)
    finally:
        keras.config.set_dtype_policy(before)
    assert model.get_layer("res4_block0_out").output.dtype == inside
    assert model(np.zeros((2, 8, 8, 3), "uint8")).dtype == outside


def test_saved_model_gives_the_same_bits(tmp_path):
    model = SmallResNet(
        8, "mbn", image_size=8, width=4, norm_options={"affine": "shared"}, name="mine"
    )
    scramble(model)
    model.save(tmp_path / "model.keras")
    loaded = keras.models.load_model(tmp_path / "model.keras")
    assert loaded.name == "mine"
    assert loaded.get_layer("res3_block0_norm1").affine == "shared"
    images = pixels(2, 8, 8, 3)
    for domain in ("adv", "clean"):
        np.testing.assert_array_equal(
            call(loaded, images, domain=domain), call(model, images, domain=domain)
        )


# --- Wrong input


@pytest.mark.parametrize(
    "make, arguments, message",
    [
        (ResNet, dict(depth=18), "one of 50, 101, 152, 200, 338, 518, 638, or blocks"),
        (ResNet, dict(depth="50"), "received '50'"),
        (ResNet, dict(depth=50, image_size=31), "at least 32 pixels; received 31"),
        (ResNet, dict(depth=50, image_size=(224, 16)), "at least 32 pixels"),
        (ResNet, dict(depth=50, image_size=224.0), "received 224.0"),
        (ResNet, dict(depth=152, blocks=(1, 1, 1, 1)), "= 14 for the given blocks; received 152"),
        (ResNet, dict(depth=14.0, blocks=(1, 1, 1, 1)), "received 14.0"),
        (ResNet, dict(depth=14, blocks=(1, 0, 3)), "positive integers"),
        (ResNet, dict(depth=2, blocks=()), "positive integers"),
        (ResNet, dict(depth=50, cardinality=3), "cardinality must divide width=64"),
        (ResNet, dict(depth=50, cardinality=0), "cardinality must be an integer of at least 1"),
        (ResNet, dict(depth=50, channels=4), "channels must be 1"),
        (ResNet, dict(depth=50, norm="batch"), "norm must be one of bn, mbn, gn, ln, in"),
        (ResNet, dict(depth=50, num_classes=1), "num_classes must be an integer of at least 2"),
        (ResNet, dict(depth=50, width=None), "width must be an integer of at least 1"),
        (ResNet, dict(depth=50, weight_decay=-1e-4), "weight_decay must be at least 0"),
        (ResNet, dict(depth=50, seed=-1), "seed must be an integer of at least 0"),
        (SmallResNet, dict(depth=18), r"6n \+ 2 \(8, 14, 20, 26, 32, ...\); received 18"),
        (SmallResNet, dict(depth=2), "received 2"),
        (SmallResNet, dict(depth=True), "received True"),
        (SmallResNet, dict(image_size=7), "between 8 and 64 pixels; received 7"),
        (SmallResNet, dict(image_size=65), "between 8 and 64 pixels; received 65"),
        (SmallResNet, dict(image_size=(32, 32, 3)), "between 8 and 64 pixels"),
    ],
)
def test_wrong_input_is_one_line(make, arguments, message):
    with pytest.raises(ValueError, match=message) as error:
        make(**arguments)
    assert "\n" not in str(error.value)


def test_check_returns_the_blocks():
    assert networks.check("resnet", 152, 224) == (3, 8, 36, 3)
    assert networks.check("resnet", 638, (224, 224), [3, 40, 166, 3]) == (3, 40, 166, 3)
    assert networks.check("small_resnet", np.int64(20), 28) == (3, 3, 3)
    with pytest.raises(
        ValueError, match="network must be one of resnet, .*, strided_small_resnet; .*vgg"
    ):
        networks.check("vgg", 16, 224)
    with pytest.raises(ValueError, match="blocks must be None"):
        networks.check("small_resnet", 8, 32, (1, 1, 1))


def test_strided_small_resnet_halves_its_images_once_more():
    plain, strided = SmallResNet(8, image_size=28), StridedSmallResNet(8, image_size=28)
    assert plain.count_params() == strided.count_params()
    for model, sizes in ((plain, (28, 14, 7)), (strided, (14, 7, 4))):
        for stage, size in zip((2, 3, 4), sizes, strict=True):
            assert model.get_layer(f"res{stage}_block0_out").output.shape[1:3] == (size, size)
    with pytest.raises(ValueError, match="stem_strides must be .*; received 0"):
        SmallResNet(8, stem_strides=0)
