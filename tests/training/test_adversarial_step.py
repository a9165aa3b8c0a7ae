"""The changes of one step of adversarial training, against independent computations."""

import keras
import numpy as np
import pytest
import tensorflow as tf

import tfadv
from tests.training import cases

X, Y = cases.images(12)
RATE = 0.5


def sgd(**options):
    return keras.optimizers.SGD(RATE, **options)


def weights(model):
    return {variable.path: variable.numpy() for variable in model.variables}


def loss_of(z, y):
    return tf.nn.sparse_softmax_cross_entropy_with_logits(labels=y, logits=z)


def gradients(model, x, y, total):
    """Returns the gradients of the summed cross entropy over `total`, by variable path."""
    with tf.GradientTape() as tape:
        loss = tf.reduce_sum(loss_of(model(x, training=True), y)) / total
    slopes = tape.gradient(loss, [variable.value for variable in model.trainable_variables])
    return {
        variable.path: gradient.numpy()
        for variable, gradient in zip(model.trainable_variables, slopes, strict=True)
    }


def assert_close(actual, expected, tolerance=2e-6):
    assert set(actual) == set(expected)
    for name, value in expected.items():
        np.testing.assert_allclose(actual[name], value, rtol=0, atol=tolerance, err_msg=name)


@pytest.mark.parametrize("norm, ratio", [("keras", 1.0), ("bn", 0.4), ("gn", 0.4)])
def test_sgd_update_is_the_gradient_of_the_mini_batch(norm, ratio):
    model, twin = cases.normalized(norm), cases.normalized(norm)
    stay = cases.kept(len(X), ratio)
    batch = np.concatenate([cases.mirrored(X), X[:stay]])
    slopes = gradients(twin, batch, np.concatenate([Y, Y[:stay]]), len(batch))
    expected = weights(twin)  # whose moving statistics that call has moved
    for name, slope in slopes.items():
        expected[name] = expected[name] - RATE * slope
    cases.train(cases.compiled(model, sgd()), X, Y, clean_ratio=ratio)
    assert_close(weights(model), expected)


def test_batch_statistics_apart_are_those_of_two_calls():
    model, twin = cases.normalized("bn"), cases.normalized("bn")
    parts = [(cases.mirrored(X), Y), (X, Y)]
    slopes = [gradients(twin, x, y, 2 * len(X)) for x, y in parts]  # moves the twin's statistics
    expected = weights(twin)
    for name in slopes[0]:
        expected[name] = expected[name] - RATE * (slopes[0][name] + slopes[1][name])
    cases.train(cases.compiled(model, sgd()), X, Y, batch_statistics="apart")
    assert_close(weights(model), expected)


@pytest.mark.parametrize("ratio", [1.0, 0.4])
def test_sgd_update_through_a_mixture_is_that_of_two_plain_networks(ratio):
    model = cases.normalized("mbn")
    stay = cases.kept(len(X), ratio)
    expected = weights(model)
    moved, slopes = {}, {}
    for domain, x, y in (("adv", cases.mirrored(X), Y), ("clean", X[:stay], Y[:stay])):
        plain = tfadv.models.extract(model, domain)
        for name, slope in gradients(plain, x, y, len(X) + stay).items():
            own = name.replace("norm/", f"norm/{domain}/")
            slopes[own] = slopes.get(own, 0) + slope
        for name, value in weights(plain).items():
            if "moving" in name:
                moved[name.replace("norm/", f"norm/{domain}/")] = value
    for name in expected:
        expected[name] = moved[name] if name in moved else expected[name] - RATE * slopes[name]
    # The names of the two are the same, or this would compare nothing.
    assert len(moved) == 4 and set(moved) | set(slopes) == set(expected)
    cases.train(cases.compiled(model, sgd()), X, Y, clean_ratio=ratio)
    assert_close(weights(model), expected)


@pytest.mark.parametrize(
    ("options", "untouched"),
    [({"clean_ratio": 0.0}, "clean"), ({"attack": None}, "adv")],
)
def test_branch_without_images_stays_as_it_is(options, untouched):
    model = cases.normalized("mbn")
    before = weights(model)
    # Decay and momentum would move it even with gradients of zero.
    optimizer = sgd(momentum=0.9, weight_decay=0.1)
    cases.compiled(model, optimizer)
    training = tfadv.callbacks.AdversarialTraining(
        **{"attack": cases.Mirror(), "value_range": (0, 1), **options}
    )
    model.fit(X, Y, batch_size=12, epochs=2, verbose=0, callbacks=[training])
    for name, value in weights(model).items():
        same = f"norm/{untouched}/" in name
        assert np.array_equal(value, before[name]) == same, name


def moments(x, model):
    z = x.reshape(len(x), -1).astype("float64") @ model.get_layer("dense").kernel.numpy()
    return z.mean(axis=0), z.var(axis=0)


def moved(before, batches):
    """A moving statistic after the mean of its changes over batches."""
    return before + 0.1 * np.mean([batch - before for batch in batches], axis=0)


@pytest.mark.parametrize("norm", ["keras", "bn", "mbn"])
@pytest.mark.parametrize(("ratio", "parts"), [(0.4, 1), (1.0, 3)])
def test_moving_statistics_after_one_step(norm, ratio, parts):
    model = cases.normalized(norm)
    before = weights(model)
    batches = []
    for x in np.split(X, parts):
        clean = x[: cases.kept(len(x), ratio)]
        adversarial = cases.mirrored(x)
        if norm != "mbn":
            adversarial = clean = np.concatenate([adversarial, clean])
        batches.append({"adv": moments(adversarial, model), "clean": moments(clean, model)})
    cases.train(cases.compiled(model, sgd()), X, Y, clean_ratio=ratio, accumulation_steps=parts)
    actual = weights(model)
    for domain in ("adv", "clean"):
        for number, statistic in enumerate(("moving_mean", "moving_variance")):
            name = f"norm/{domain}/{statistic}" if norm == "mbn" else f"norm/{statistic}"
            expected = moved(before[name], [batch[domain][number] for batch in batches])
            np.testing.assert_allclose(actual[name], expected, rtol=1e-5, err_msg=name)


def test_accumulated_parts_give_the_mean_gradient():
    model, twin = cases.normalized("bn"), cases.normalized("bn")
    expected = {v.path: v.numpy() for v in twin.trainable_variables}
    for part in np.split(np.arange(12), 3):
        batch = np.concatenate([cases.mirrored(X[part]), X[part]])
        slopes = gradients(twin, batch, np.concatenate([Y[part], Y[part]]), 3 * len(batch))
        for name, slope in slopes.items():
            expected[name] = expected[name] - RATE * slope
    cases.train(cases.compiled(model, sgd()), X, Y, accumulation_steps=3)
    actual = weights(model)
    assert_close({name: actual[name] for name in expected}, expected)
    assert int(model.optimizer.iterations) == 1


@pytest.mark.parametrize("norm", [pytest.param("bn", marks=pytest.mark.slow), "mbn"])
def test_parts_that_are_attacked_together_make_the_same_step(norm):
    # Two calls of three parts each, with their own draws, batch statistics and metrics either way.
    attack = tfadv.attacks.PGD(epsilon=20, num_steps=3, start_from_clean=0.5)
    models, logs = [], []
    for parts in (1, 3):
        model = cases.compiled(cases.normalized(norm), sgd(), metrics=["accuracy"])
        options = {"accumulation_steps": 6, "attack_parts": parts}
        logs.append(cases.train(model, X, Y, attack=attack, **options))
        models.append(weights(model))
    assert logs[0] == pytest.approx(logs[1], rel=1e-6)
    assert_close(*models, tolerance=1e-6)


class Recording(tfadv.attacks.Attack):
    """PGD that keeps its adversarial images."""

    def __init__(self, **options):
        self.attack = tfadv.attacks.PGD(**options)
        super().__init__(targeted=self.attack.targeted)
        self.attacked = tf.Variable(tf.zeros(X.shape), trainable=False)

    def __call__(self, *args, **kwargs):
        images, goals = self.attack(*args, **kwargs)
        self.attacked.assign(images)
        return images, goals


@pytest.mark.parametrize("norm", ["keras", "mbn"])
def test_attack_sees_the_network_at_inference_and_moves_no_statistics(norm):
    model, attack = cases.normalized(norm), Recording(epsilon=20, num_steps=4, targeted=False)
    before = weights(model)
    plain = tfadv.models.extract(model, "adv")
    cases.train(cases.compiled(model, sgd()), X, Y, attack=attack)
    # One update of the statistics, by the images of the training pass alone.
    images = attack.attacked.numpy()
    name = "norm/adv/moving_mean" if norm == "mbn" else "norm/moving_mean"
    seen = images if norm == "mbn" else np.concatenate([images, X])
    mean, _ = moments(seen, cases.normalized(norm))
    np.testing.assert_allclose(weights(model)[name], moved(before[name], [mean]), rtol=1e-5)
    # The attack is the one on the plain network of the adv branch, in inference.
    np.testing.assert_allclose(images, attacked_by_hand(plain, step_of=attack.attack), atol=1e-6)


def attacked_by_hand(plain, step_of):
    """Untargeted PGD with the draws of the first step of worker 0."""
    key = tf.random.fold_in(tf.constant([0, 0], tf.int64), tf.constant(0, tf.int64), alg="philox")
    current, _ = step_of.start(X, Y, cases.CLASSES, key, (0, 1))
    current = current.numpy()
    assert np.abs(current - X).max() > 0.01  # a random start
    for _ in range(step_of.num_steps):
        with tf.GradientTape() as tape:
            now = tf.constant(current)
            tape.watch(now)
            loss = tf.reduce_sum(loss_of(plain(now, training=False), Y))
        slope = np.sign(tape.gradient(loss, now).numpy())
        current = current + step_of.effective_step_size / 255 * slope
        current = np.clip(current, np.maximum(X - 20 / 255, 0), np.minimum(X + 20 / 255, 1))
    return current


class Look(keras.callbacks.Callback):
    def __init__(self, attack):
        super().__init__()
        self.attack, self.seen = attack, []

    def on_train_batch_end(self, batch, logs=None):
        self.seen.append(self.attack.attacked.numpy())


def test_draws_depend_on_seed_and_step():
    draws = {}
    for seed in (0, 0, 1):
        model, attack = cases.network(), Recording(epsilon=20, num_steps=0)
        look = Look(attack)
        cases.compiled(model, keras.optimizers.SGD(0.0, gradient_accumulation_steps=2))
        cases.train(
            model,
            np.tile(X, (2, 1, 1, 1)),
            np.tile(Y, 2),
            attack=attack,
            seed=seed,
            callbacks=[look],
            fit={"batch_size": 12},
        )
        first, second = look.seen
        # Also where the optimizer itself accumulates, and `iterations` stands still.
        assert not np.array_equal(first, second)
        if seed in draws:
            np.testing.assert_array_equal(look.seen, draws[seed])
        draws[seed] = look.seen
    assert not np.array_equal(draws[0][0], draws[1][0])


def test_activity_regularizers_dropout_and_frozen_layers():
    dense = keras.layers.Dense(5, activity_regularizer=keras.regularizers.L2(0.3), name="dense")
    # Keras takes the sum over the images up to some version, then their mean.
    probe = keras.layers.Dense(1, kernel_initializer="ones", activity_regularizer="l2")
    probe(np.ones((2, 1)))
    images = 24 if float(probe.losses[0]) == pytest.approx(0.01) else 1
    frozen = keras.layers.Dense(7, trainable=False, name="frozen")
    model = cases.network(frozen, dense, keras.layers.Dropout(0.0, seed=1))
    before = weights(model)
    batch = np.concatenate([cases.mirrored(X), X]).reshape(24, -1)
    for name in ("frozen", "dense"):
        batch = batch @ before[f"{name}/kernel"] + before[f"{name}/bias"]
    z = batch @ before["logits/kernel"] + before["logits/bias"]
    expected = cases.cross_entropy(z, np.tile(Y, 2)).mean() + 0.3 * np.square(batch).sum() / images
    cases.compiled(model, keras.optimizers.SGD(0.0))
    assert cases.train(model, X, Y)["loss"] == pytest.approx(expected, rel=1e-5)
    cases.compiled(model, sgd())
    # A real attack calls the layers too, which must not add to the penalty.
    loss = cases.train(model, X, Y, attack=tfadv.attacks.PGD(epsilon=0, num_steps=2))["loss"]
    clean = np.tile(batch[12:], (2, 1))
    z = clean @ before["logits/kernel"] + before["logits/bias"]
    expected = cases.cross_entropy(z, np.tile(Y, 2)).mean() + 0.3 * np.square(clean).sum() / images
    assert loss == pytest.approx(expected, rel=1e-5)
    for name, value in weights(model).items():
        if "seed" not in name:
            assert np.array_equal(value, before[name]) == ("frozen" in name), name


def test_random_layers_draw_again_for_each_part():
    dropout = keras.layers.Dropout(0.5, seed=1)
    model = cases.compiled(cases.network(dropout))
    cases.train(model, X, Y, accumulation_steps=3, fit={"batch_size": 6})
    # Keras counts the draws: two batches of three.
    assert dropout.seed_generator.state.numpy().tolist() == [1, 6]


def test_refuses_layers_that_assign_what_gradients_train():
    # The assignment would be lost, and inference would use other weights than training did.
    model = cases.network(keras.layers.SpectralNormalization(keras.layers.Dense(6, name="dense")))
    with pytest.raises(ValueError, match="must not assign .* received '.*dense/kernel'"):
        cases.train(cases.compiled(model), X, Y)


@pytest.mark.parametrize("norm", [pytest.param("keras", marks=pytest.mark.slow), "mbn"])
def test_attack_compiled_with_xla_makes_the_same_step(norm):
    # What happens on a GPU; the last batch is smaller, so that sizes are known in the graph alone.
    models, logs = [], []
    for jit_compile in (False, True):
        model = cases.compiled(cases.normalized(norm), sgd())
        attack = tfadv.attacks.PGD(epsilon=20, num_steps=2, jit_compile=jit_compile)
        logs.append(cases.train(model, X, Y, attack=attack, fit={"batch_size": 5}))
        models.append(weights(model))
    assert logs[0] == pytest.approx(logs[1], abs=1e-5)
    assert_close(*models, tolerance=1e-5)
