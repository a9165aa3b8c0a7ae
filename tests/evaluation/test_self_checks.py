"""Each doubt on a model, an attack or counts built to raise it; none on an honest evaluation."""

import dataclasses
import re
import warnings

import keras
import numpy as np
import pytest
import tensorflow as tf
from scipy import stats

import tfadv
from tests import workers
from tests.evaluation import cases
from tfadv import attacks, evaluation
from tfadv.evaluation import Result, rivals, self_checks

ATTACK = attacks.PGD(epsilon=40, step_size=8, num_steps=5)


def checked(model, attack=ATTACK, num_steps=5, count=40, after=None, **options):
    """The doubts about an evaluation, by check and domain."""
    data = cases.images(model, count)
    evaluator = evaluation.Evaluator(model, attack, num_steps, **options)
    results = evaluator(data, batch_size=16)
    if after is not None:
        after()
    found = evaluation.doubts(evaluator, results, data, batch_size=16)
    return {(doubt.check, doubt.domain): str(doubt) for doubt in found}


def around(layer, last=False):
    """The softmax regression with a layer before it, or behind it."""
    inputs = keras.Input(cases.SHAPE)
    contract, flat, dense = cases.regression().layers[1:]
    x = contract(inputs)
    return keras.Model(inputs, layer(dense(flat(x))) if last else dense(flat(layer(x))))


class Lambda(keras.layers.Layer):
    """Calls a function."""

    def __init__(self, function):
        super().__init__()
        self.function = function

    def call(self, x):
        return self.function(x)


@pytest.mark.parametrize(
    "options",
    [
        dict(),
        dict(targeted=False, restarts=2),
        dict(targeted=False, loss="margin"),
        dict(epsilon=2, step_size=1e-3, step_size_rule="fixed"),  # hardly an attack, but no lie
    ],
)
@pytest.mark.filterwarnings("ignore:step_size is in pixels")
def test_an_honest_evaluation_raises_none(options):
    assert checked(cases.regression(), ATTACK.replace(**options)) == {}


def test_an_honest_evaluation_of_both_branches_raises_none():
    assert checked(cases.mixture(), domains=("adv", "clean")) == {}
    # Rounding to 8 bits is no reason either.
    keras.config.set_dtype_policy("mixed_bfloat16")
    try:
        assert checked(cases.mixture()) == {}
    finally:
        keras.config.set_dtype_policy("float32")


def shares(text):
    """What is left right by the rival and by the attack that was evaluated; and under one alone."""
    number = r"([\d.]+)"
    pattern = f"leaves {number}% of 256 .* evaluated {number}% .*: {number} and {number} images"
    return [float(found) for found in re.search(pattern, text).groups()]


def right_of_a_linear_network(model, count, epsilon):
    """The share right, in percent, where each pixel goes to the worst end of its ball."""
    x, y = cases.images(model, count)
    kernel, bias = model.layers[-1].get_weights()
    x = x.astype(float)
    logits = (x.reshape(count, -1) / 127.5 - 1) @ kernel + bias
    low, high = np.maximum(x - epsilon, 0.0), np.minimum(x + epsilon, 255.0)
    margins = []
    for i, label in enumerate(y):
        slopes = kernel - kernel[:, [label]]
        ends = np.where(slopes > 0, high[i].reshape(-1, 1), low[i].reshape(-1, 1))
        worst = np.sum((ends - x[i].reshape(-1, 1)) / 127.5 * slopes, axis=0)
        margins.append(np.delete(logits[i] - logits[i, label] + worst, label).max())
    return 100 * np.mean(np.array(margins) < 0)


def test_a_start_that_so_few_steps_do_not_make_good_for():
    # From the image five steps of a fifth of epsilon reach the end of the ball, which on a linear
    # network is the worst there is; from a random start only half of the pixels get there.
    model = cases.regression()
    attack = attacks.PGD(4, 0.8, 5, targeted=False, loss="margin", step_size_rule="fixed")
    best = right_of_a_linear_network(model, 256, 4)
    found = checked(model, attack, 5, 256)
    assert list(found) == [("start", None)]
    by_image, by_evaluated, image_alone, evaluated_alone = shares(found["start", None])
    assert by_image == pytest.approx(best, abs=0.1) and by_evaluated > by_image + 4
    assert image_alone == 0 and evaluated_alone == round((by_evaluated - by_image) * 2.56) > 9
    assert "start: started from the image itself, PGD-5 leaves " in found["start", None]
    assert "(evaluate with start_from_clean=1, or with more steps)" in found["start", None]
    # What it advises raises none; and it is the fewest steps that are looked at.
    assert checked(model, attack.replace(start_from_clean=1.0), 5, 256) == {}
    assert checked(model, attack, 20, 256) == {}
    assert list(checked(model, attack, [5, 20], 256)) == [("start", None)]
    # Forty images are too few to tell.
    assert checked(model, attack, 5, 40) == {}


def scaled(factor):
    model = cases.regression()
    model.set_weights([value * factor for value in model.get_weights()])
    return model


@pytest.mark.parametrize("factor", [20, 0.02])
def test_a_number_that_depends_on_the_scale_of_the_logits(factor):
    attack = attacks.PGD(6, 1, 20, targeted=False)
    assert checked(scaled(1), attack, 20, 256) == {}
    found = checked(scaled(factor), attack, 20, 256)
    text = found["scale of the logits", None]
    usual, evaluated, *_ = shares(text)
    assert evaluated > usual + 4
    assert right_of_a_linear_network(scaled(factor), 256, 6) == pytest.approx(usual, abs=0.1)
    assert "(evaluate with the margin loss)" in text
    assert checked(scaled(factor), attack.replace(loss="margin"), 20, 256) == {}


def test_a_usual_scale():
    logits = [[12.0, 1, 3, 2], [30.0, 0, 0, 0], [1.0, 0, 0, 0], [0.0, 0, 0, 0], [1, 1, 1, 31.0]]
    factors = rivals.usual_factors(logits)  # 10 above the others, 30, 1, 0 and 30
    np.testing.assert_allclose(factors, [1, 1 / 3, 10, 1, 1 / 3], rtol=1e-6)


@pytest.mark.parametrize("name,within", [("sigmoid", "0 and 1"), ("tanh", "-1 and 1")])
def test_outputs_that_are_no_logits(name, within):
    # In a layer whose activation nobody sees.
    model = around(Lambda(lambda x: getattr(tf, name)(x)), last=True)
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        found = checked(model)
    assert (
        f"for 32 images, under attacks without bounds too, lie between {within}, as those of a "
        f"{name}; " in found["bounded outputs", None]
    )
    texts = [str(each.message) for each in caught if each.category is UserWarning]
    assert [text[:40] for text in texts] == ["logits_fn must return logits, but all th"] * (
        name == "sigmoid"
    )


def test_small_logits_are_no_bounded_outputs():
    assert ("bounded outputs", None) not in checked(around(Lambda(lambda x: x / 1e3), last=True))


@pytest.mark.parametrize("factor", [1, 8])
@pytest.mark.parametrize("name", ["sigmoid", "tanh"])
def test_a_final_activation_is_left_out_and_changes_nothing(name, factor):
    # Through a saturated one several classes are the largest.
    raw = scaled(factor)
    model = keras.Model(raw.inputs, keras.layers.Activation(name)(raw.outputs[0]))
    data = cases.images(raw, 40)
    results = [evaluation.evaluate(each, data, ATTACK, 5) for each in (raw, model)]
    assert results[0] == results[1]
    evaluator = evaluation.Evaluator(model, ATTACK.replace(loss="margin"))
    assert evaluation.doubts(evaluator, evaluator(data), data) == []


def dead(text):
    """How many images have no gradient: at the start, and after some steps."""
    return [int(text.split(before)[1].split()[0]) for before in ("images, ", "start and ")]


def test_operations_without_a_gradient():
    found = checked(around(Lambda(lambda x: tf.tanh(1e5 * (x + 1e-3)))))
    # But for the few that are the target by chance.
    text = found["vanishing gradient", None]
    assert text.startswith("vanishing gradient: of 32 images, ")
    assert 20 < dead(text)[0] == dead(text)[1] < 32
    # And so an attack without bounds does not get anywhere either.
    assert f"the attack succeeds on {32 - dead(text)[0]} of 32 " in found["unbounded attack", None]


def test_a_saturated_softmax_and_the_loss_that_it_advises():
    model = cases.regression()
    model.set_weights([value * 1e3 for value in model.get_weights()])
    attack = ATTACK.replace(targeted=False)
    found = checked(model, attack)
    assert "try the margin loss" in found["vanishing gradient", None]
    assert checked(model, attack.replace(loss="margin")) == {}


def test_gradients_that_vanish_on_the_way():
    def flat_where_undecided(logits):
        first, second = tf.unstack(tf.math.top_k(logits, 2).values, axis=1)
        # A step changes the difference by about 1.
        undecided = (first - second < 1.5)[:, None]
        return tf.where(undecided, tf.stop_gradient(logits), logits)

    model = around(Lambda(flat_where_undecided), last=True)
    attack = ATTACK.replace(targeted=False, loss="margin", epsilon=10, step_size=1)
    start, after = dead(checked(model, attack)["vanishing gradient", None])
    assert start < 10 < 20 < after


@tf.custom_gradient
def reversed_gradient(x):
    return x, lambda slope: -slope


def test_gradients_that_lead_away():
    attack = ATTACK.replace(targeted=False, epsilon=100, step_size=20)
    found = checked(around(Lambda(reversed_gradient)), attack)
    assert ("vanishing gradient", None) not in found
    assert "the gradient foretells on 0 of " in found["wrong gradient", None]
    assert ("unbounded attack", None) in found
    # One image in four starts wrong, and this attack sets them right.
    assert (
        "PGD-5 leaves 100.0% right and clean 75.0% (right under the one alone: 10 and 0"
        in (found["more steps", None])
    )
    assert (
        "10 draws of noise but not after 10 attack steps, and 0 the other way"
        in (found["random noise", None])
    )


class WrongBranch(attacks.PGD):
    """Attacks the clean branch, whatever network it is given."""

    def advance(self, logits_fn, *arguments):
        return super().advance(self.clean, *arguments)


def test_the_clean_branch_attacked_and_the_adv_branch_reported():
    model = cases.mixture()

    def clean(images):
        return tfadv.models.call(model, images, domain="clean")

    attack = WrongBranch(**ATTACK.get_config())
    WrongBranch.clean = staticmethod(clean)
    text = checked(model, attack)["wrong gradient", "adv"]
    agreeing, compared = text.split("foretells on ")[1].split(" images")[0].split(" of ")
    assert int(agreeing) < 12 < 24 < int(compared)
    # Through the branch that it attacks it is honest, but that is not how the model predicts.
    found = checked(model, attack, domains=("clean",))
    assert list(found) == [("other branch", "clean")]
    assert "other branch (clean branch): this branch alone" in found["other branch", "clean"]


def test_a_switch_that_compiled_graphs_do_not_see():
    branches = tfadv.models.extract(cases.mixture(), "adv"), cases.regression()
    switch = Lambda(lambda x: branches[switch.branch](x))
    switch.branch = 0
    inputs = keras.Input(cases.SHAPE)
    model = keras.Model(inputs, switch(inputs))
    found = checked(model, after=lambda: setattr(switch, "branch", 1), value_range=(0, 255))
    assert found["other network", None].startswith("other network: the model itself gives ")


def test_a_random_network():
    noisy = around(Lambda(lambda x: x + tf.random.normal(tf.shape(x))))
    assert {("other network", None), ("wrong gradient", None)} <= set(checked(noisy))


@pytest.mark.parametrize(
    ("correct", "regained", "doubted"),
    [
        (190, 0, False),
        (205, 5, True),  # only five images differ, all of them the wrong way: 1 in 32 by chance
        (210, 10, True),  # 1 in 1,024
        (220, 100, False),  # 180 images differ, 100 the wrong way and 80 the other
        (260, 100, True),
    ],
)
def test_more_steps_that_leave_more_right(correct, regained, doubted):
    # As McNemar's test of the same images sees it, here by SciPy.
    lost = 200 - correct + regained
    test = stats.binomtest(regained, regained + lost or 1, alternative="greater")
    chance = self_checks._chance(regained, regained + lost)
    assert chance == pytest.approx(test.pvalue if regained + lost else 1, rel=1e-9)
    doubted = doubted and chance < 0.001
    evaluator = evaluation.Evaluator(cases.regression(), ATTACK, [10, 100])
    rows = (0, 300, None), (10, 200, 0), (100, correct, regained)
    results = [
        Result(domain=None, num_steps=number, correct=right, total=400, regained=again)
        for number, right, again in rows
    ]
    found = evaluation.doubts(evaluator, results)
    assert [doubt.check for doubt in found] == ["more steps"] * doubted
    if doubted:
        share = f"{correct / 4:.1f}% right and PGD-10 50.0%"
        assert found[0].message.startswith(f"PGD-100 leaves {share}")


def test_without_an_attack_there_is_nothing_to_doubt():
    assert checked(cases.regression(), attack=None, num_steps=None) == {}


def on_a_worker(count=37):
    model = around(Lambda(lambda x: tf.where(x[:, :1, :1] > 0, x, tf.stop_gradient(x))))
    evaluator = evaluation.Evaluator(model, ATTACK)
    data = cases.images(model, count)
    results = evaluator(data, batch_size=4)
    return [dataclasses.astuple(d) for d in evaluation.doubts(evaluator, results, data, 4)]


@pytest.mark.slow
def test_real_workers_doubt_what_one_process_does():
    one = on_a_worker()
    assert one and workers.run(on_a_worker, 2) == [one, one]
    assert workers.run(on_a_worker, 3, 2) == [on_a_worker(2)] * 3  # one of them has no image
