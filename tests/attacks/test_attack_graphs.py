import functools
import gc
import weakref

import keras
import numpy as np
import pytest
import tensorflow as tf

from tfadv import attacks
from tfadv.attacks import PGD


@pytest.mark.parametrize("jit_compile", [None, True])
@pytest.mark.parametrize("targeted, restarts", [(True, 2), (False, 1)])
def test_eager_and_graph_give_the_same_bits(case, jit_compile, restarts, targeted):
    attack = PGD(16, num_steps=4, targeted=targeted, restarts=restarts, jit_compile=jit_compile)

    @tf.function
    def step(images, labels, seed):
        return attack(case.model, images, labels, value_range=case.range, seed=seed)

    eager = attack(case.model, case.images, case.labels, value_range=case.range, seed=(1, 2))
    graph = step(case.images, case.labels, tf.constant([1, 2]))
    np.testing.assert_array_equal(eager, graph)
    plain = attack.replace(jit_compile=False)
    plain = plain(case.model, case.images, case.labels, value_range=case.range, seed=(1, 2))
    np.testing.assert_allclose(eager, plain, atol=1e-3)


def test_a_caller_may_compile_it_all(case):
    attack = PGD(16, num_steps=2, start_from_clean=0.5)
    given = {"value_range": case.range, "seed": np.stack([np.arange(6), np.arange(6)], 1)}

    @tf.function(jit_compile=True)
    def step(images):
        return attack(case.model, images, case.labels, num_classes=7, **given)

    plain = attack(case.model, case.images, case.labels, **given)
    np.testing.assert_allclose(step(case.images), plain, atol=1e-3)


def test_starts_have_the_same_bits_under_xla(case):
    for seed in (tf.constant([1, 2]), tf.constant(np.stack([np.arange(6), np.arange(6)], 1))):
        zeros = tf.zeros_like(case.images)  # nothing to add, so no fused product and sum
        draw = functools.partial(PGD().start, zeros, case.labels, 7, value_range=case.range)
        compiled = tf.function(lambda seed, draw=draw: draw(seed=seed), jit_compile=True)
        for plain, same in zip(draw(seed=seed), compiled(seed), strict=True):
            np.testing.assert_array_equal(plain, same)


def test_xla_is_for_gpus_alone(case, monkeypatch):
    compiled = []
    function = tf.function
    monkeypatch.setattr(
        tf, "function", lambda *args, **kwargs: compiled.append(kwargs) or function(*args, **kwargs)
    )
    for devices, expected in ([], False), (["a GPU"], True):
        monkeypatch.setattr(tf.config, "get_visible_devices", lambda kind, devices=devices: devices)
        compiled.clear()
        PGD(num_steps=1)(case.model, case.images, case.labels, value_range=(0, 255), seed=(0, 0))
        assert any(kwargs.get("jit_compile") for kwargs in compiled) == expected


def test_unknown_batch_size_and_keys_per_image(case):
    attack = PGD(16, num_steps=3, restarts=2, start_from_clean=0.5)
    keys = np.stack([np.arange(6), np.arange(6)], 1)
    step = tf.function(
        lambda images, labels, seed: attack(
            case.model, images, labels, value_range=case.range, seed=seed
        ),
        input_signature=[
            tf.TensorSpec([None, 4, 5, 3], tf.uint8),
            tf.TensorSpec([None], tf.int64),
            tf.TensorSpec([None, 2], tf.int64),
        ],
    )
    images = case.images.astype("uint8")
    whole = step(images, case.labels, keys)
    np.testing.assert_array_equal(
        whole, attack(case.model, images, case.labels, value_range=case.range, seed=keys)
    )
    np.testing.assert_allclose(step(images[:2], case.labels[:2], keys[:2]), whole[:2], atol=1e-3)
    assert step(images[:0], case.labels[:0], keys[:0]).shape == (0, 4, 5, 3)


@pytest.mark.parametrize(
    "kind",
    ["PGD", "Square", *(pytest.param(each, marks=pytest.mark.slow) for each in ("APGD", "FAB"))],
)
def test_parts_with_keys_of_their_own_are_attacked_as_if_alone(case, kind):
    options = {"num_queries": 5} if kind == "Square" else {"num_steps": 3, "restarts": 2}
    if kind == "PGD":
        options["start_from_clean"] = 0.5
    attack = getattr(attacks, kind)(epsilon=8, **options)
    assert attack.takes_parts
    given = {"value_range": case.range, "num_classes": 7}
    keys = np.array([[1, 2], [1, 3], [5, 2]])
    whole = attack(case.model, case.images, case.labels, seed=keys, **given)
    for number, key in enumerate(keys):
        part = slice(2 * number, 2 * number + 2)
        alone = attack(case.model, case.images[part], case.labels[part], seed=key, **given)
        np.testing.assert_allclose(whole[part], alone, atol=1e-3)
    same = attack(case.model, case.images, case.labels, seed=keys[:1], **given)
    one = attack(case.model, case.images, case.labels, seed=keys[0], **given)
    np.testing.assert_array_equal(same, one)


def test_second_call_is_no_trace(case):
    attack = PGD(16, num_steps=3)

    def run(logits_fn, seed):
        attack(logits_fn, case.images, case.labels, value_range=case.range, seed=seed)
        current, goals = attack.start(case.images, case.labels, 7, seed, case.range)
        for steps in (1, 2):
            attack.advance(logits_fn, case.images, current, goals, steps, 1.0, case.range)
        attack.gradient(logits_fn, case.images, goals)

    for logits_fn in (case.model, case.model.__call__):
        run(logits_fn, (0, 0))
        traces = case.model.traces
        for seed in range(1, 4):
            run(logits_fn, (seed, 5))
        assert case.model.traces == traces


def test_the_network_is_traced_once_where_the_classes_are_known(case):
    for given in ({"num_classes": 7}, {"labels": np.eye(7)[case.labels]}):
        case.model.traces = 0
        given = {"labels": case.labels, "images": case.images, **given}
        PGD(num_steps=3)(case.model, **given, value_range=case.range, seed=(0, 0))
        assert case.model.traces == 1


class Prepared:
    """A network as `tfadv.models.Frozen` is one, which never changes."""

    def __init__(self, model):
        self.prepare = lambda: model

    def __call__(self, images):
        return self.prepare()(images)


@pytest.mark.parametrize("norm", ["linf", "l2"])
def test_attacks_on_a_network_that_never_changes_share_a_graph(case, norm):
    network = Prepared(case.model)
    given = {"value_range": case.range, "num_classes": case.classes}
    keys = np.stack([np.arange(6), np.arange(6)], 1)
    first = PGD(16, 2, num_steps=3, norm=norm)
    others = [
        first.replace(epsilon=8, targeted=False, clip_start=True),
        first.replace(step_size=0.7, num_steps=7, step_size_rule="fixed", restarts=3),
        first.replace(loss="margin"),
    ]
    case.model.traces = 0
    traces = []
    for attack in (first, *others):
        for seed in ((1, 2), keys):
            run = tf.function(functools.partial(attack, **given), autograph=False)
            shared = run(network, case.images, case.labels, seed=tf.constant(seed))
            traces.append(case.model.traces)
            alone = attack(case.model, case.images, case.labels, seed=seed, **given)
            np.testing.assert_array_equal(shared, alone)
            case.model.traces = 0
    # Restarts look at the logits once more; the margin is another loss.
    assert traces == [1, 0, 0, 0, 1, 1, 1, 0]


def test_a_dropped_network_is_freed(case):
    attack = PGD(16, num_steps=2)
    network = Prepared(case.model)
    attack(network, case.images, case.labels, value_range=case.range, seed=(0, 0))
    reference = weakref.ref(network)
    del network
    gc.collect()
    assert reference() is None


@pytest.mark.parametrize("jit_compile", [False, True])
def test_a_dropped_model_is_freed(case, jit_compile):
    attack = PGD(16, num_steps=2, jit_compile=jit_compile)
    model = type(case.model)()
    attack(model, case.images, case.labels, value_range=case.range, seed=(0, 0))
    reference = weakref.ref(model)
    del model
    gc.collect()
    assert reference() is None


def test_a_callable_that_cannot_be_held_weakly_works(case):
    class Slots:
        __slots__ = ()

        def __call__(self, images):
            return case.model(images)

    attack = PGD(16, num_steps=2)
    given = {"value_range": case.range, "seed": (0, 0)}
    np.testing.assert_array_equal(
        attack(Slots(), case.images, case.labels, **given),
        attack(case.model, case.images, case.labels, **given),
    )


def test_no_gradient_flows_back_and_variables_are_left_alone(case):
    model = keras.Sequential([
        keras.Input([4, 5, 3]),
        keras.layers.Conv2D(4, 3),
        keras.layers.BatchNormalization(),
        keras.layers.Flatten(),
        keras.layers.Dense(7),
    ])  # fmt: skip
    before = [np.array(value) for value in model.get_weights()]
    attack = PGD(16, num_steps=3)

    def step(inside):
        given = {"value_range": case.range, "seed": (0, 0)}
        images = tf.convert_to_tensor(case.images)
        if not inside:
            adversarial = attack(model, images, case.labels, **given)
        with tf.GradientTape() as tape:
            tape.watch(images)
            if inside:
                adversarial = attack(model, images, case.labels, **given)
            loss = tf.reduce_mean(model(adversarial) ** 2)
        return tape.gradient(loss, [images, *model.trainable_variables])

    outside, *expected = step(inside=False)
    assert outside is None
    for run in (step, tf.function(step)):
        back, *gradients = run(inside=True)
        assert back is None
        for gradient, known in zip(gradients, expected, strict=True):
            np.testing.assert_allclose(gradient, known, rtol=1e-4, atol=1e-5)
    for value, known in zip(model.get_weights(), before, strict=True):
        np.testing.assert_array_equal(value, known)


def test_gradient_is_that_of_the_loss(case):
    goals = (case.labels + 1) % 7
    for loss in ("cross_entropy", "margin"):
        gradient = PGD(loss=loss).gradient(case.model, case.images, goals)
        known = case.model.gradient(case.images.astype(float), goals, loss)
        np.testing.assert_allclose(gradient, known, rtol=1e-3, atol=1e-6)


def test_small_gradients_of_a_float16_network_do_not_vanish():
    # 1.2e-4 (what is left of the softmax) times 1e-4 is below what float16 holds.
    weights = tf.constant([[1e-4, -1e-4]], tf.float16)

    def logits_fn(images):
        flat = tf.cast(tf.reshape(images, [-1, 1]), tf.float16)
        return flat @ weights + tf.constant([9.0, 0.0], tf.float16)

    result = PGD(16, 16, 1, targeted=False, start_from_clean=1)(
        logits_fn, np.full([1, 1, 1, 1], 100.0), [0], value_range=(0, 255), seed=(0, 0)
    )
    assert result.numpy().item() == 84
