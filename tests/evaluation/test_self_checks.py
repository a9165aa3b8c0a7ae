"""Each doubt on a model, an attack or counts built to raise it; none on an honest evaluation."""

import dataclasses

import keras
import pytest
import tensorflow as tf
from scipy import stats

import tfadv
from tests import workers
from tests.evaluation import cases
from tfadv import attacks, evaluation
from tfadv.evaluation import Result, self_checks

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
