import threading

import keras
import numpy as np
import pytest
import tensorflow as tf

from tests.models import chains
from tfadv import models
from tfadv.layers import scope

FORMS = [*chains.CLONEABLE, chains.subclassed, chains.subclassed_around_functional]
DOMAINS = ["adv", "clean", 0, 2, 6]


def close(actual, expected):
    np.testing.assert_allclose(actual, expected, 1e-4, 1e-5)


def check_all_domains(model):
    """Every domain, eager and in graphs, in inference and in training, against the layers alone."""
    x = chains.images()
    function = tf.function(lambda x, domain: models.call(model, x, domain=domain))
    for domain in ("clean", "adv", 2):  # tracing the clean domain first
        expected, _ = chains.by_hand(model, x, domain)
        close(function(x, domain), expected)
        close(models.call(model, x, domain=domain), expected)
        expected, moved = chains.by_hand(model, x, domain, training=True)
        weights = model.get_weights()
        close(models.call(model, x, training=True, domain=domain), expected)
        for actual, value in zip(model.get_weights(), moved, strict=True):
            close(actual, value)
        model.set_weights(weights)
    adv, clean = (chains.by_hand(model, x, domain)[0] for domain in ("adv", "clean"))
    assert np.abs(adv - clean).max() > 0.1  # or the test would see nothing


@pytest.mark.parametrize("form", FORMS, ids=lambda form: form.__name__)
def test_every_form_of_model(form):
    check_all_domains(chains.scramble(form()))


@pytest.mark.parametrize("form", chains.CLONEABLE, ids=lambda form: form.__name__)
def test_converted_models(form):
    plain = chains.scramble(form(keras.layers.BatchNormalization))
    check_all_domains(chains.scramble(models.convert(plain, "mbn")))


@pytest.mark.parametrize("form", chains.CLONEABLE, ids=lambda form: form.__name__)
def test_reloaded_models_give_the_same_bits(form, tmp_path):
    model = chains.scramble(form())
    model.save(tmp_path / "model.keras")
    loaded = keras.models.load_model(tmp_path / "model.keras")
    for domain in DOMAINS:
        expected = models.call(model, chains.images(), domain=domain)
        assert np.array_equal(models.call(loaded, chains.images(), domain=domain), expected)


def test_a_reloaded_copy_of_a_converted_model_gives_the_same_bits(tmp_path):
    plain = chains.scramble(chains.nested(keras.layers.BatchNormalization))
    model = chains.scramble(models.convert(plain, "mbn"))
    model.save(tmp_path / "model.keras")
    loaded = keras.models.load_model(tmp_path / "model.keras")
    for domain in DOMAINS:
        expected = models.call(model, chains.images(), domain=domain)
        assert np.array_equal(models.call(loaded, chains.images(), domain=domain), expected)


def test_the_split_may_be_a_tensor():
    model, x = chains.scramble(chains.nested()), chains.images()
    spec = [tf.TensorSpec([None, *chains.SHAPE]), tf.TensorSpec([], tf.int64)]
    function = tf.function(lambda x, n: models.call(model, x, domain=n), input_signature=spec)
    for count in (0, 1, 4, 6):
        close(function(x, count), chains.by_hand(model, x, count)[0])
        close(models.call(model, x, domain=tf.constant(count)), chains.by_hand(model, x, count)[0])
        close(models.call(model, x, domain=np.int64(count)), chains.by_hand(model, x, count)[0])


@pytest.mark.parametrize("run_eagerly", [False, True])
def test_predict_is_the_adv_domain_whatever_was_called_before(run_eagerly):
    model, x = chains.scramble(chains.nested()), chains.images()
    model.compile(run_eagerly=run_eagerly)
    expected, _ = chains.by_hand(model, x, "adv")
    models.call(model, x, domain="clean")
    close(model.predict(x, verbose=0), expected)
    models.call(model, x, domain="clean")
    close(model.predict(x, verbose=0), expected)
    close(model(x), expected)


def test_domains_give_the_image_different_gradients():
    model, x = chains.scramble(chains.nested()), tf.constant(chains.images())

    def gradient(function):
        with tf.GradientTape() as tape:
            tape.watch(x)
            total = tf.reduce_sum(function(x))
        return tape.gradient(total, x).numpy()

    extracted = {domain: models.extract(model, domain) for domain in ("clean", "adv")}
    for domain, plain in extracted.items():
        actual = gradient(lambda x, domain=domain: models.call(model, x, domain=domain))
        close(actual, gradient(plain))
    assert not np.allclose(gradient(extracted["adv"]), gradient(extracted["clean"]), atol=1e-2)


def test_running_statistics():
    model, x = chains.scramble(chains.nested()), chains.images()
    before = model.get_weights()
    outputs = models.call(model, x, training=True, domain=2, running_statistics=True)
    close(outputs, models.call(model, x, domain=2))
    for variable, value in zip(model.get_weights(), before, strict=True):
        assert np.array_equal(variable, value)


def test_a_model_without_mixtures_ignores_the_domain():
    model, x = chains.scramble(chains.flat(keras.layers.BatchNormalization)), chains.images()
    for domain in DOMAINS:
        assert np.array_equal(models.call(model, x, domain=domain), model(x))


class Cached(chains.Subclassed):
    """Calls its mixtures in a function of its own, which keeps what it traced first."""

    def __init__(self):
        super().__init__()
        self.traced = tf.function(super().call)

    def call(self, images, training=None):
        return self.traced(images, training=training)


class Skipping(chains.Subclassed):
    skips = False

    def call(self, images, training=None):
        if not self.skips:
            return super().call(images, training=training)
        return self.last[1](self.last[0](self.first(images)))


@pytest.mark.parametrize("domain", ["adv", "clean", 2])
def test_a_call_that_does_not_reach_a_mixture_raises(domain):
    x = chains.images()
    cached = Cached()
    cached(x, training=False)  # traces
    skipping = Skipping()
    skipping(x)
    skipping.skips = True
    for model in (cached, skipping):
        with pytest.raises(
            RuntimeError, match=r"called its mixture '.*norm.*' outside of this"
        ) as e:
            models.call(model, x, domain=domain)
        assert "\n" not in str(e.value)
    assert scope.current().domain == "adv"


def test_a_failed_call_leaves_no_scope():
    model, x = chains.scramble(chains.flat()), chains.images()
    with pytest.raises(ValueError):
        models.call(model, x[:, :2], domain="clean")
    assert scope.current().domain == "adv"
    close(model(x), chains.by_hand(model, x, "adv")[0])


class Meeting(keras.layers.Layer):
    """Waits in the middle of the model until the other thread is there too."""

    def __init__(self, barrier):
        super().__init__()
        self.barrier = barrier

    def call(self, x):
        self.barrier.wait(30)
        return x

    def compute_output_shape(self, shape):
        return shape


def test_threads_keep_their_domains_apart():
    barrier, x = threading.Barrier(2), chains.images()
    first, *rest = chains.leaves()
    model = chains.scramble(chains.functional([first, Meeting(barrier), *rest], chains.SHAPE))
    expected = {domain: chains.by_hand(model, x, domain)[0] for domain in ("adv", "clean")}
    results = {}

    def work(domain):
        results[domain] = models.call(model, x, domain=domain)

    threads = [threading.Thread(target=work, args=[domain]) for domain in expected]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    for domain, value in expected.items():
        close(results[domain], value)


@pytest.mark.parametrize(
    "domain", ["advs", -1, None, True, 2.0, tf.constant(-1), tf.constant([1, 2]), tf.constant(1.0)]
)
def test_a_wrong_domain_is_refused(domain):
    message = 'domain must be "adv", "clean" or the number of adversarial images; received '
    with pytest.raises(ValueError, match=message):
        models.call(chains.flat(), chains.images(), domain=domain)


def test_mixtures_are_found_at_any_depth():
    mixtures = models.mixtures(chains.functional_in_sequential_in_functional())
    assert {layer.name for layer in mixtures} == {"norm0", "norm1"}
    assert models.mixtures(chains.flat(keras.layers.BatchNormalization)) == []


def attack_and_predict(model, rounds):
    """Returns logits, gradients and predictions of two threads that share a model."""
    x, results, errors = chains.images(), {"attacked": [], "predicted": []}, []
    barrier = threading.Barrier(2)

    def attack():
        for number in range(rounds):
            barrier.wait(60)
            network = models.Frozen(
                models.logits(model),
                ("adv", "clean")[number % 2],
                rematerialize=number % 4 > 1,
            )
            with tf.GradientTape() as tape:
                images = tf.constant(x)
                tape.watch(images)
                logits = network(images)
            results["attacked"].append((logits.numpy(), tape.gradient(logits, images).numpy()))

    def predict():
        for _ in range(rounds):
            barrier.wait(60)
            results["predicted"].append([model(x).numpy() for _ in range(3)])

    def noting(work):
        try:
            work()
        except Exception as error:
            errors.append(error)
            barrier.abort()

    threads = [threading.Thread(target=noting, args=[work]) for work in (attack, predict)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert not errors
    return results


def test_one_thread_attacks_a_model_while_another_predicts_with_it():
    """Neither sees what the other's network folds, leaves out or computes again."""
    conv, norm0, *middle, pool, dense = chains.leaves()
    dense = keras.layers.Dense(2, activation="softmax", name="dense")
    body = keras.Sequential([keras.Input((3, 2, 4)), norm0, *middle])
    model = chains.scramble(chains.functional([conv, body, pool, dense], chains.SHAPE))
    x = chains.images()
    expected, rounds = model(x).numpy(), 24
    alone = {}
    for domain in ("adv", "clean"):
        network = models.extract(models.logits(model), domain)
        with tf.GradientTape() as tape:
            images = tf.constant(x)
            tape.watch(images)
            logits = network(images)
        alone[domain] = logits.numpy(), tape.gradient(logits, images).numpy()
    results = attack_and_predict(model, rounds)
    assert len(results["attacked"]) == len(results["predicted"]) == rounds
    for predictions in results["predicted"]:
        for each in predictions:
            assert np.array_equal(each, expected)  # to the bit
    for number, pair in enumerate(results["attacked"]):
        for actual, value in zip(pair, alone[("adv", "clean")[number % 2]], strict=True):
            close(actual, value)
    assert np.array_equal(model(x), expected)


def test_calls_that_overlap_without_nesting_leave_nothing_behind():
    """The second call begins while the first one runs, and ends after it."""
    model = chains.scramble(chains.nested(keras.layers.BatchNormalization))
    x = chains.images()
    expected = model(x).numpy()
    second_runs, first_ended, results = threading.Event(), threading.Event(), {}

    class Waits(keras.layers.Layer):
        def call(self, x):
            if threading.current_thread() is first:
                if not second_runs.is_set():
                    second.start()
                assert second_runs.wait(60)
            elif threading.current_thread() is second:
                second_runs.set()
                assert first_ended.wait(60)
            return x

        def compute_output_shape(self, shape):
            return shape

    waiting = chains.functional([model, Waits()], chains.SHAPE)

    def call(name):
        results[name] = models.call(
            waiting, x, training=True, running_statistics=True, rematerialize=name == "second"
        ).numpy()

    def first_call():
        call("first")
        first_ended.set()

    first = threading.Thread(target=first_call)
    second = threading.Thread(target=call, args=["second"])
    first.start()
    first.join()
    second.join()
    close(results["first"], expected)
    close(results["second"], expected)
    assert np.array_equal(model(x), expected)
    # And training moves the statistics again.
    before = model.get_weights()
    model(x, training=True)
    assert any(not np.array_equal(a, b) for a, b in zip(before, model.get_weights(), strict=True))
