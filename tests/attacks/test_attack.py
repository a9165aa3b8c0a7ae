"""The base class of attacks, with two small attacks worked out in NumPy."""

import numpy as np
import pytest
import tensorflow as tf

from tfadv import attacks, evaluation
from tfadv.attacks import Attack
from tfadv.tables import attacks as table


class SignStep(Attack):
    """One step of epsilon along the sign of the gradient."""

    def perturb(self, logits_fn, images, labels, goals, value_range, seed):
        step = attacks.scale_to_range(self.epsilon, value_range)
        sign = tf.sign(self.gradient(logits_fn, images, goals))
        return images - step * sign if self.targeted else images + step * sign


class Noise(Attack):
    """Uniform noise of twice epsilon, which the base class clips to the ball."""

    def __init__(self, epsilon=16.0, num_steps=1, restarts=1):
        super().__init__(epsilon)
        self.num_steps, self.restarts = num_steps, restarts

    def perturb(self, logits_fn, images, labels, goals, value_range, seed):
        radius = attacks.scale_to_range(2 * self.epsilon, value_range)
        return images + attacks.random_noise(images, radius, seed) * self.num_steps


def clipped(case, moved, epsilon):
    low, high = case.range
    radius = epsilon * (high - low) / 255
    return np.clip(np.clip(moved, case.images - radius, case.images + radius), low, high)


@pytest.mark.parametrize("value_range", [(0, 255), (-1, 1)])
@pytest.mark.parametrize("targeted", [True, False])
def test_perturb_is_all_that_an_attack_must_have(make_case, value_range, targeted):
    case = make_case(value_range)
    attack = SignStep(8, targeted=targeted)
    given = {"value_range": value_range, "seed": (1, 2)}
    result, goals = attack(case.model, case.images, case.labels, return_targets=True, **given)
    expected_goals = case.labels
    if targeted:
        expected_goals = attacks.random_targets(case.labels, 7, (1, 2)).numpy()
    np.testing.assert_array_equal(goals, expected_goals)
    slope = case.model.gradient(case.images.astype(float), expected_goals, "cross_entropy")
    step = 8 * (value_range[1] - value_range[0]) / 255
    moved = case.images + (-step if targeted else step) * np.sign(slope)
    np.testing.assert_allclose(result, clipped(case, moved, 8), atol=1e-5 * step)
    graph = tf.function(lambda images: attack(case.model, images, case.labels, **given))
    np.testing.assert_array_equal(graph(case.images), result)
    aim = (case.labels + 1) % 7
    if targeted:
        _, goals = attack(
            case.model, case.images, case.labels, targets=aim, return_targets=True, **given
        )
        np.testing.assert_array_equal(goals, aim)


def test_what_callers_read(case):
    attack = SignStep(8)
    assert (attack.name, attack.label, attack.num_steps) == ("SignStep", "SignStep", None)
    assert (attack.targeted, attack.restarts, attack.effective_step_size) == (False, 1, None)
    assert not attack.advances and attacks.PGD().advances
    assert attack.with_steps(None) is attack
    assert (Noise(num_steps=5).name, Noise().with_steps(7).name) == ("Noise-5", "Noise-7")
    assert attacks.PGD().with_steps(7).name == "PGD-7"
    assert repr(attack) == "SignStep(epsilon=8.0, targeted=False)"
    with pytest.raises(AttributeError, match=r"^SignStep.epsilon cannot be assigned"):
        attack.epsilon = 9
    with pytest.raises(ValueError, match="epsilon must be between 0 and 255"):
        SignStep(300)
    with pytest.raises(NotImplementedError, match="^Attack must implement perturb$"):
        Attack()(case.model, case.images, case.labels, value_range=(0, 255), seed=(0, 0))


def test_the_strongest_restart_is_kept_within_epsilon(make_case):
    case = make_case(images=40)
    case.labels = case.model.logits(case.images).argmax(1)
    given = {"value_range": case.range, "seed": (5, 6)}
    attack = Noise(30, restarts=5)
    result = attack(case.model, case.images, case.labels, **given).numpy()
    assert 29 < np.abs(result - case.images).max() <= 30.001

    best, expected = np.full(40, -np.inf), case.images.copy()
    step = np.int64(-0x61C8864680B583EB)  # the keys of restarts
    for restart in range(5):
        with np.errstate(over="ignore"):
            key = (np.int64(5) + np.int64(restart) * step, 6)
        noise = attacks.random_noise(tf.constant(case.images), 60.0, key).numpy()
        adversarial = clipped(case, case.images + noise, 30)
        logits = case.model.logits(adversarial.astype(float))
        own = logits[np.arange(40), case.labels]
        score = np.log(np.exp(logits - own[:, None]).sum(1))  # the cross entropy
        score += 1000 * (logits.argmax(1) != case.labels)
        better = score > best
        best = np.where(better, score, best)
        expected[better] = adversarial[better]
    np.testing.assert_allclose(result, expected, atol=1e-4)


@pytest.mark.parametrize(
    "change, message",
    [
        (lambda case: {"images": case.images + 9}, "images must lie inside value_range"),
        (lambda case: {"labels": case.labels + 7}, "labels must lie between 0 and 6"),
        (
            lambda case: {"logits_fn": lambda x: tf.nn.softmax(case.model(x) / 10)},
            "it returned probabilities",
        ),
        (
            lambda case: {"logits_fn": lambda x: case.model(x) * np.nan},
            "a pixel of the adversarial images is NaN",
        ),
        (lambda case: {"targets": case.labels}, "targets must be None for an untargeted attack"),
    ],
)
def test_the_base_class_checks_what_it_is_given(case, change, message):
    given = {"logits_fn": case.model, "images": case.images, "labels": case.labels, "seed": (0, 0)}
    with pytest.raises(ValueError, match=message):
        SignStep(8)(**{**given, "value_range": case.range, **change(case)})


def test_an_attack_is_made_of_the_settings_that_it_takes(monkeypatch):
    attack = attacks.make("pgd", {"epsilon": 8, "num_steps": 3, "rho": 0.75, "targeted": False})
    assert type(attack) is attacks.PGD and attack.name == "PGD-3"
    assert (attack.epsilon, attack.targeted, attack.step_size) == (8, False, 1)
    with pytest.raises(ValueError, match="^attack must be one of pgd.*; received 'fgsm'$"):
        attacks.make("fgsm", {})
    entry = table.Entry(f"{__name__}:Noise", has_steps=False)
    monkeypatch.setitem(table.ATTACKS, "noise", entry)
    with pytest.raises(ValueError, match="^has_steps of 'noise' in the table of attacks must say"):
        attacks.make("noise", {"num_steps": 2})


@pytest.mark.parametrize(
    "attack, num_steps, name, key",
    [("pgd", 10, "PGD-10", "pgd10"), ("noise", 10, "Noise", "noise")],
)
def test_names_without_tensorflow(monkeypatch, attack, num_steps, name, key):
    monkeypatch.setitem(table.ATTACKS, "noise", table.Entry("a.b:Noise", has_steps=False))
    assert (table.name(attack, num_steps), table.key(attack, num_steps)) == (name, key)


def evaluated(case, attack, num_steps=None, **options):
    data = case.images, case.labels
    return evaluation.evaluate(
        case.keras, data, attack, num_steps, value_range=case.range, batch_size=4, **options
    )


@pytest.fixture
def keras_case(make_case):
    """A case whose model is a Keras model too."""
    import keras

    case = make_case(images=10)
    case.labels[:8] = case.model.logits(case.images).argmax(1)[:8]
    dense = keras.layers.Dense(7)
    case.keras = keras.Sequential([keras.Input((4, 5, 3)), keras.layers.Flatten(), dense])
    dense.set_weights([case.model.weights, case.model.bias])
    return case


@pytest.mark.parametrize("targeted", [True, False])
def test_evaluation_under_an_attack_without_steps(keras_case, targeted):
    case, attack = keras_case, SignStep(6, targeted=targeted)
    clean, attacked = evaluated(case, attack, seed=3)
    keys = np.stack([np.full(10, 3), np.arange(10)], 1)
    goals = case.labels
    if targeted:
        goals = attacks.random_targets(case.labels, 7, keys).numpy()
    slope = case.model.gradient(case.images.astype(float), goals, "cross_entropy")
    moved = case.images + (-6 if targeted else 6) * np.sign(slope)
    predicted = case.model.logits(clipped(case, moved, 6)).argmax(1)
    assert clean.correct == np.sum(case.model.logits(case.images).argmax(1) == case.labels)
    assert attacked.correct == np.sum(predicted == case.labels)
    assert attacked.hits == np.sum(predicted == goals if targeted else predicted != case.labels)
    assert (attacked.name, attacked.key, attacked.num_steps) == ("SignStep", "signstep", None)
    assert (attacked.attack, attacked.epsilon, attacked.loss) == ("SignStep", 6, None)
    kind = "targeted" if targeted else "untargeted"
    text = evaluation.table([clean, attacked])
    assert "\nSignStep  " in text
    assert text.endswith(
        f"percent; {kind} SignStep in L-infinity: epsilon 6 of 255; restarts 1; 10 images, seed 3"
    )
    with pytest.raises(ValueError, match="^num_steps must be None for SignStep, which has no st"):
        evaluated(case, attack, 10)


def test_evaluation_starts_over_for_each_number_of_steps(keras_case):
    case = keras_case
    together = evaluated(case, Noise(20, restarts=2), [1, 3])
    assert [result.name for result in together] == ["clean", "Noise-1", "Noise-3"]
    for number, result in ((1, together[1]), (3, together[2])):
        alone = evaluated(case, Noise(20, num_steps=number, restarts=2))[1]
        assert (alone.correct, alone.hits) == (result.correct, result.hits)
        assert result.correct + result.hits == 10


def test_doubts_without_steps_to_look_along(keras_case):
    evaluator = evaluation.Evaluator(keras_case.keras, SignStep(6), value_range=(0, 255))
    data = keras_case.images, keras_case.labels
    assert evaluation.doubts(evaluator, evaluator(data), data) == []
    assert evaluator.identity["attack"]["label"] == "SignStep"
    pgd = evaluation.Evaluator(keras_case.keras, attacks.PGD(6), value_range=(0, 255))
    assert pgd.identity["attack"] == attacks.PGD(6).get_config()
