"""Each doubt on a model, an attack or counts built to raise it; none on an honest evaluation."""

import dataclasses

import keras
import pytest
import tensorflow as tf

import tfadv
from tests import workers
from tests.evaluation import cases
from tfadv import attacks, evaluation
from tfadv.evaluation import Result

ATTACK = attacks.PGD(epsilon=40, step_size=8, num_steps=5)


def checked(model, data=None, attack=ATTACK, num_steps=(1, 5), **options):
    """The names of the doubts, by domain, and the doubts."""
    x, y = data or cases.images(model, 40)
    evaluator = evaluation.Evaluator(model, attack, num_steps, **options)
    results = evaluator((x, y), batch_size=16)
    found = evaluation.doubts(evaluator, results, (x, y), batch_size=16)
    return [(doubt.check, doubt.domain) for doubt in found], found


@pytest.mark.parametrize("targeted", [True, False])
def test_an_honest_evaluation_has_none(targeted):
    attack = ATTACK.replace(targeted=targeted)
    assert checked(cases.regression(), attack=attack) == ([], [])


def test_an_honest_evaluation_of_both_branches_has_none():
    assert checked(cases.mixture(), domains=("adv", "clean")) == ([], [])


class Saturated(keras.layers.Layer):
    """A step, as good as, whose derivative is zero in float32: the simplest masking."""

    def call(self, x):
        return tf.tanh(1e5 * (x + 1e-3))


@tf.custom_gradient
def misled(x):
    return x, lambda slope: -slope


def masked(layer):
    plain = cases.regression()
    inputs = keras.Input(cases.SHAPE)
    contract, flat, dense = plain.layers[1:]
    return keras.Model(inputs, dense(flat(layer(contract(inputs)))))


def test_vanishing_gradients():
    names, found = checked(masked(Saturated()))
    assert names[0] == ("vanishing gradient", None)
    assert found[0].message.startswith("32 of 32 images have no gradient")
    # And so an attack without bounds does not get anywhere.
    assert ("unbounded attack", None) in names


def test_gradients_that_mislead_fail_without_bounds_and_leave_more_right():
    class Misled(keras.layers.Layer):
        def call(self, x):
            return misled(x)

    names, found = checked(masked(Misled()), num_steps=(5,), attack=ATTACK.replace(epsilon=80))
    assert ("unbounded attack", None) in names and ("vanishing gradient", None) not in names
    text = str(dict(zip(names, found, strict=True))["unbounded attack", None])
    assert text.startswith("unbounded attack: with epsilon 255 it succeeds on ")
    assert text.count("of 32 images in place of all") == 1


class WrongBranch(attacks.PGD):
    """Attacks the clean branch, whatever network it is given."""

    def advance(self, logits_fn, *arguments):
        return super().advance(self.clean, *arguments)


def test_the_clean_branch_attacked_and_the_adv_branch_reported():
    model = cases.mixture()

    def clean(images):
        return tfadv.models.call(model, images, domain="clean")

    WrongBranch.clean = staticmethod(clean)
    names, found = checked(model, attack=WrongBranch(epsilon=40, step_size=8, num_steps=5))
    assert ("wrong gradient", "adv") in names
    message = dict(zip(names, found, strict=True))["wrong gradient", "adv"].message
    share = int(message.removeprefix("the attack's step follows ").split("%")[0])
    assert 0 < share < 90


def test_the_clean_branch_alone():
    names, found = checked(cases.mixture(), domains=("clean",))
    assert names == [("clean branch", "clean")]
    assert str(found[0]).startswith("clean branch (clean branch): the clean branch alone")


def result(num_steps, correct, total=400, domain=None):
    return Result(domain=domain, num_steps=num_steps, correct=correct, total=total)


@pytest.mark.parametrize(
    ("counts", "names"),
    [
        ([(0, 300), (10, 200), (100, 190)], []),
        ([(0, 300), (10, 200), (100, 220)], []),  # 5 points: within what 400 images can tell
        ([(0, 300), (10, 200), (100, 260)], ["PGD-100 leaves 65.0% right and PGD-10 50.0%"]),
        ([(0, 100), (10, 200)], ["PGD-10 leaves 50.0% right and clean 25.0%"]),
    ],
)
def test_more_steps_that_are_weaker(counts, names):
    model = cases.regression()
    evaluator = evaluation.Evaluator(model, ATTACK, [n for n, _ in counts if n])
    found = evaluation.doubts(
        evaluator, [result(*count) for count in counts], cases.images(model, 8), batch_size=8
    )
    assert [doubt.check for doubt in found] == ["more steps"] * len(names)
    for doubt, name in zip(found, names, strict=True):
        assert doubt.message.startswith(name)


def test_without_an_attack_there_is_nothing_to_doubt():
    assert checked(cases.regression(), attack=None, num_steps=None) == ([], [])


def on_a_worker():
    model = masked(Saturated())
    found = checked(model, cases.images(model, 37))[1]
    return [dataclasses.astuple(doubt) for doubt in found]


@pytest.mark.slow
def test_two_workers_doubt_what_one_does():
    one = on_a_worker()
    assert one and workers.run(on_a_worker, 2) == [one, one]
