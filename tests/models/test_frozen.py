import keras
import numpy as np
import pytest
import tensorflow as tf

from tests.models import chains
from tfadv import attacks, keras_internals, layers, models
from tfadv.models import folding

FORMS = [*chains.CLONEABLE, chains.subclassed, chains.subclassed_around_functional]


def close(actual, expected, rounding=1e-5):
    scale = np.abs(expected).max()
    np.testing.assert_allclose(actual, expected, rounding, rounding * scale)


def gradient(network, x):
    x = tf.constant(x)
    with tf.GradientTape() as tape:
        tape.watch(x)
        logits = tf.cast(network(x), tf.float32)
        loss = tf.reduce_sum(tf.sin(logits))
    return tape.gradient(loss, x).numpy()


def insides(model):
    """Returns the attributes of every layer of a model, to see that none was added or changed."""
    layers = keras_internals.flatten_layers(model)
    return [{name: id(value) for name, value in vars(layer).items()} for layer in layers]


def operations(function, *args):
    graph = tf.function(function, autograph=False).get_concrete_function(*args).graph
    operations = list(graph.get_operations())
    for name in graph._functions:
        operations += graph._get_function(name).graph.get_operations()
    return operations


def zoo(norm):
    """Everything that can be folded once, and much that cannot, scrambled."""

    def bn(x):
        return layers.normalization(norm, x.shape[-1])(x)

    inputs = keras.Input([8, 8, 3])
    x = bn(keras.layers.Conv2D(6, 3, strides=2, padding="same")(inputs))  # folded
    x = keras.layers.ReLU()(x)
    x = bn(keras.layers.DepthwiseConv2D(3, depth_multiplier=2, use_bias=False)(x))  # folded
    y = keras.layers.Conv2D(12, 1, activation="relu")(x)  # its activation lies between
    x = keras.layers.Add()([x, bn(y)])
    kept = keras.layers.Conv2D(12, 1)(x)  # its outputs have another use
    x = bn(kept) + kept
    x = bn(keras.layers.Conv2DTranspose(4, 2)(x))  # not one of the layers
    x = keras.layers.GroupNormalization(2)(x)
    shared = keras.layers.Conv2D(4, 1)
    x = bn(shared(shared(x)))  # one layer, in two places
    x = keras.layers.MaxPooling2D(2)(bn(x))
    x = bn(keras.layers.Dense(5)(keras.layers.Flatten()(x)))  # folded
    model = keras.Model(inputs, keras.layers.Dense(4)(keras.activations.tanh(x)))
    return chains.scramble(model)


@pytest.mark.parametrize("form", FORMS, ids=lambda form: form.__name__)
def test_every_form_of_model_by_hand(form):
    model = chains.scramble(form())
    x = chains.images()
    for domain in ("clean", "adv"):
        expected, _ = chains.by_hand(model, x, domain)
        close(models.Frozen(model, domain)(x), expected, 1e-4)
        close(models.Frozen(model, domain, rematerialize=False, fold=False)(x), expected, 1e-4)
        if form not in chains.CLONEABLE:
            with pytest.raises(ValueError, match="^precision='bfloat16' needs a functional or seq"):
                models.Frozen(model, domain, "bfloat16")
            continue
        low = models.Frozen(model, domain, "bfloat16")(x)
        far = np.abs(low - expected).max() / np.abs(expected).max()
        assert 1e-4 < far < 0.05


@pytest.mark.parametrize("norm", ["bn", "mbn"])
def test_folding_changes_neither_logits_nor_gradients(norm):
    model = zoo(norm)
    x = np.random.default_rng(0).normal(size=(3, 8, 8, 3)).astype("float32")
    for domain in ("adv", "clean"):  # after which Keras's layers know that they were called
        models.call(model, x, domain=domain)
    before, known = model.get_weights(), insides(model)
    assert len(folding.folded(model, "adv", None)) == 2 * 3
    for domain in ("adv", "clean"):

        def usual(x, domain=domain):
            return models.call(model, x, domain=domain)

        close(models.Frozen(model, domain)(x), usual(x))
        close(gradient(models.Frozen(model, domain), x), gradient(usual, x), 1e-4)
        for precision, bits in (("bfloat16", 8), ("float16", 11)):
            low = models.Frozen(model, domain, precision)
            assert low(x).dtype == "float32"  # the last layer stays as it is
            far = np.abs(low(x) - usual(x)).max() / np.abs(usual(x)).max()
            assert 2.0**-20 < far < 16 * 2.0**-bits
    for old, new in zip(before, model.get_weights(), strict=True):
        np.testing.assert_array_equal(old, new)
    assert insides(model) == known


def test_folds_a_dense_layer_by_hand():
    model = keras.Sequential([keras.Input([2]), keras.layers.Dense(2), layers.BatchNormalization()])
    # Kernel, bias; gamma, beta, moving mean, moving variance (with epsilon a square).
    values = [[1, 2], [3, 4]], [1, -1], [3, 2], [5, 7], [2, 1], [4 - 1e-5, 1 - 1e-5]
    model.set_weights([np.array(value, "float32") for value in values])
    # (1 + 9 + 1 - 2) / 2 * 3 + 5 and (2 + 12 - 1 - 1) / 1 * 2 + 7
    close(models.Frozen(model)(tf.constant([[1.0, 3.0]])), [[18.5, 31.0]], 1e-6)


def test_folds_all_of_a_network_once_per_attack():
    model = keras.applications.MobileNetV2((32, 32, 3), alpha=0.35, weights=None, classes=4)
    assert len(folding.folded(model, "adv", None)) == 2 * 52  # all of its batch normalizations
    network, attack = models.Frozen(models.SmallResNet(8, width=4)), attacks.PGD(num_steps=3)
    x, y = tf.zeros([2, 32, 32, 3]), tf.constant([1, 2])

    def run(x):
        return attack(network, x, y, value_range=(0, 255), seed=(0, 0), num_classes=10)

    graph = tf.function(run, autograph=False).get_concrete_function(x).graph
    functions = {
        function.signature.name: [node.op for node in function.node_def]
        for function in graph.as_graph_def().library.function
    }
    [inside] = [types for name, types in functions.items() if name.startswith("while_body")]
    [outside] = [types for types in functions.values() if {"While", "StatelessWhile"} & {*types}]
    assert outside.count("Rsqrt") == 9 and "Rsqrt" not in inside
    assert inside.count("ReadVariableOp") == 2  # of the last layer, which nothing is folded into
    assert inside.count("BiasAdd") == 9 + 1


def test_live_weights_and_the_models_own_dtype():
    model = zoo("bn")
    x = tf.constant(np.random.default_rng(0).normal(size=(2, 8, 8, 3)), tf.float32)
    network = tf.function(models.Frozen(model), autograph=False)
    first = network(x)
    chains.scramble(model, seed=5)
    close(network(x), model(x))
    assert np.abs(network(x) - first).max() > 1e-2

    mixed = models.SmallResNet(8, width=4, seed=0)
    keras.config.set_dtype_policy("mixed_bfloat16")
    try:
        mixed = models.SmallResNet(8, width=4, seed=0)
    finally:
        keras.config.set_dtype_policy("float32")
    x = tf.zeros([1, 32, 32, 3])
    kinds = [
        op.outputs[0].dtype.name
        for op in operations(models.Frozen(mixed), x)
        if op.type == "Conv2D"
    ]
    assert kinds == ["bfloat16"] * 9


def test_low_precision_is_low_where_it_counts():
    model = models.SmallResNet(8, width=4)
    ops = operations(models.Frozen(model, precision="bfloat16"), tf.zeros([1, 32, 32, 3]))
    dtypes = {
        kind: {op.outputs[0].dtype.name for op in ops if op.type == kind}
        for kind in ("Conv2D", "BiasAdd", "Relu", "AddV2", "MatMul")
    }
    assert dtypes["Conv2D"] == dtypes["Relu"] == {"bfloat16"}
    assert "float32" in dtypes["MatMul"]  # the logits
    # Nine kernels and their biases, the input of the first convolution, and that of the mean.
    assert sum(op.type == "Cast" for op in ops) == 20


def test_mixtures_obey_and_rematerialization_agrees():
    model = chains.scramble_mixtures(models.SmallResNet(8, width=4, norm="mbn", seed=0))
    x = np.random.default_rng(0).uniform(0, 255, [2, 32, 32, 3]).astype("float32")
    adv, clean = (models.Frozen(model, domain)(x) for domain in ("adv", "clean"))
    assert np.abs(adv - clean).max() > 1e-3
    for domain, logits in (("adv", adv), ("clean", clean)):
        close(logits, models.call(model, x, domain=domain), 1e-4)
        again = models.Frozen(model, domain, rematerialize=True)
        close(gradient(again, x), gradient(models.Frozen(model, domain), x), 1e-4)


@pytest.mark.parametrize("jit_compile", [False, pytest.param(True, marks=pytest.mark.slow)])
def test_attack_in_low_precision_stays_in_the_ball(jit_compile):
    model = models.SmallResNet(8, width=4, image_size=8, seed=0)
    x = np.random.default_rng(0).uniform(0, 255, [4, 8, 8, 3]).astype("float32")
    y = np.arange(4)
    attack = attacks.PGD(epsilon=2, num_steps=4, jit_compile=jit_compile)
    options = dict(value_range=(0, 255), seed=(0, 0))
    plain = attack(model, x, y, **options).numpy()
    for precision in models.PRECISIONS if not jit_compile else ("float32", "float16"):
        images = attack(models.Frozen(model, precision=precision), x, y, **options).numpy()
        assert images.dtype == np.float32 and images.min() >= 0 and images.max() <= 255
        assert np.abs(images - x).max() <= 2 + 2**-16  # of 255, in float32
        assert np.mean(images == plain) > (0.99 if precision == "float32" else 0.8)


@pytest.mark.parametrize("policy", ["float32", "mixed_bfloat16"])
def test_a_16_bit_attack_casts_only_at_its_ends(policy):
    before = keras.config.dtype_policy()
    keras.config.set_dtype_policy(policy)
    model = models.SmallResNet(8, width=4, norm="mbn", image_size=8, seed=0)
    keras.config.set_dtype_policy(before)
    network, attack = models.Frozen(model, precision="bfloat16"), attacks.PGD(num_steps=3)

    def attacked(images):
        given = {"value_range": (0, 255), "seed": (0, 0), "num_classes": 10}
        return attack(network, images, [0, 1], **given)

    graph = tf.function(attacked).get_concrete_function(tf.TensorSpec([2, 8, 8, 3])).graph
    [steps] = [
        function
        for function in graph.as_graph_def().library.function
        if function.signature.name.startswith("while_body")
    ]
    types = {"Conv2D": set(), "MatMul": set()}
    casts = []
    for node in steps.node_def:
        if node.op in types:
            types[node.op].add(node.attr["T"].type)
        elif node.op == "Cast":
            casts.append((node.attr["SrcT"].type, node.attr["DstT"].type))
    # The logits are a float32 product; every convolution, also of a gradient, is in 16 bits.
    half, single = tf.bfloat16.as_datatype_enum, tf.float32.as_datatype_enum
    assert types == {"Conv2D": {half}, "MatMul": {single}}
    # Scaled images to 16 bits, pooled features to float32, and back in the gradient.
    assert sorted(casts) == sorted(2 * [(half, single), (single, half)])


def test_refuses():
    model = keras.Sequential([keras.Input([2]), keras.layers.Dense(2)])
    with pytest.raises(ValueError, match="domain must be .*received 3"):
        models.Frozen(model, 3)
    with pytest.raises(ValueError, match="precision must be one of .*received 'int8'"):
        models.Frozen(model, precision="int8")


def test_it_never_changes():
    # What was compiled of it would not see it.
    network = models.Frozen(models.SmallResNet(8, width=4))
    with pytest.raises(AttributeError, match="^Frozen.precision cannot be assigned: .*make a new"):
        network.precision = "bfloat16"
