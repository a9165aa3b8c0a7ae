import numpy as np
import pytest
import tensorflow as tf
from tensorboard.backend.event_processing.plugin_event_accumulator import EventAccumulator

from tests.evaluation import cases
from tfadv import attacks, evaluation, inspection
from tfadv.callbacks import AdversarialImages, AdversarialTraining

ATTACK = attacks.PGD(epsilon=40, step_size=8, num_steps=3)
NAMES = [f"class {i}, also" for i in range(cases.CLASSES)]


@pytest.fixture
def drawn(monkeypatch):
    """The arguments of every call of `pairs_figure`."""
    calls, original = [], inspection.pairs_figure

    def draw(*arguments):
        calls.append(arguments)
        return original(*arguments)

    monkeypatch.setattr(inspection, "pairs_figure", draw, raising=False)
    return calls


def fit(callback, x, y, model, epochs):
    model.compile("sgd", "sparse_categorical_crossentropy")
    model.fit(
        x.astype("float32"), y, batch_size=6, epochs=epochs, verbose=0, shuffle=False,
        callbacks=[AdversarialTraining(None), callback],
    )  # fmt: skip


def show(callback, model):
    """Calls the callback as `fit` does, without updates."""
    model.compile("sgd", "mse")
    callback.set_model(model)
    callback.on_train_begin()
    callback.on_epoch_end(0)
    callback.on_train_end()


def shown(directory):
    """Step -> image."""
    events = EventAccumulator(str(directory / "validation"))
    events.Reload()
    return {
        event.step: tf.io.decode_png(event.tensor_proto.string_val[2]).numpy()
        for event in events.Tensors("adversarial_images")
    }


def test_shows_the_evaluations_images_targets_and_starts(tmp_path, drawn):
    model = cases.regression()
    x, y = cases.images(model, 12)
    fit(
        AdversarialImages(tmp_path, (x, y), ATTACK, 3, 2, seed=5, class_names=NAMES), x, y, model, 5
    )
    # Two updates an epoch.
    assert {step: image.shape[2] for step, image in shown(tmp_path).items()} == {4: 4, 8: 4}
    (clean, adversarial, epsilon, captions, value_range), second = drawn
    np.testing.assert_array_equal(clean, x[:3])
    np.testing.assert_array_equal(second[0], x[:3])
    assert (epsilon, value_range) == (40, (0, 255))
    change = np.abs(adversarial - clean)
    assert 20 < change.max() <= 40

    # As the evaluation makes them, in batches of another size, of the model that `fit` ended with.
    again = AdversarialImages(tmp_path, (x, y), ATTACK, 3, seed=5, class_names=NAMES)
    show(again, model)
    _, adversarial, _, captions, _ = drawn[-1]
    evaluator = evaluation.Evaluator(model, ATTACK, seed=5)
    [network] = evaluator.networks
    before = network.predict(tf.cast(x, tf.float32)).numpy()
    [(_, expected, goals)] = evaluator.trajectory(
        network, tf.cast(x, tf.float32), y.astype("int32"), np.arange(12), 40 / 3, [3]
    )
    np.testing.assert_allclose(adversarial, expected[:3], atol=1e-4)
    after = network.predict(expected).numpy()
    assert captions == [
        (f"label class {y[i]}\npredicted class {before[i]}",
         f"predicted class {after[i]}\ntarget class {goals[i]}")
        for i in range(3)
    ]  # fmt: skip


def test_fewer_images_than_asked_for_and_an_attack_without_targets(tmp_path, drawn):
    model = cases.regression()
    x, y = cases.images(model, 2)
    attack = ATTACK.replace(targeted=False)
    show(AdversarialImages(tmp_path, (x, y), attack, 4), model)
    [(clean, _, _, captions, _)] = drawn
    assert len(clean) == len(captions) == 2
    assert captions[0][0].startswith(f"label {y[0]}\npredicted ") and "target" not in captions[0][1]
    assert list(shown(tmp_path)) == [0]


def test_mistakes_show_before_training(tmp_path):
    with pytest.raises(ValueError, match="count must be an integer of at least 1; received 0"):
        AdversarialImages(tmp_path, None, ATTACK, count=0)
    model = cases.regression()
    wrong = np.zeros((2, 5, 5, 3)), np.zeros(2, int)
    with pytest.raises(ValueError, match="data must have images of shape"):
        show(AdversarialImages(tmp_path, wrong, ATTACK), model)
