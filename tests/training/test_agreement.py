"""Reports between workers, which run one after the other in one process here."""

import keras
import numpy as np
import pytest
import tensorflow as tf

from tests.training import cases
from tfadv import distributed
from tfadv.training import agreement
from tfadv.training.agreement import Agreement, TrainingError


@pytest.fixture
def meet(monkeypatch):
    """Makes an update of several `Agreement`s; returns their verdicts."""

    def meet(workers, abandoned=(), faulty=()):
        rows = []
        for rank, worker in enumerate(workers):
            monkeypatch.setattr(distributed, "rank", lambda rank=rank: rank)
            rows.append(worker.row(rank in abandoned, rank in faulty))
        for worker in workers:
            void, skipped = worker.take(tf.add_n(rows) / len(workers))
            worker.skip(skipped & ~void)
        return [worker.verdict() for worker in workers]

    return meet


@pytest.fixture
def made_of(monkeypatch):
    """The `Agreement`s of workers with these optimizers."""

    def made_of(*optimizers):
        monkeypatch.setattr(distributed, "size", lambda: len(optimizers))
        return [Agreement(optimizer) for optimizer in optimizers]

    return made_of


def sgd(**options):
    return keras.optimizers.SGD(0.1, **options)


@pytest.mark.parametrize(
    "make",
    [
        lambda: keras.optimizers.SGD(0.1, momentum=0.9, global_clipnorm=1.0),
        lambda: keras.optimizers.AdamW(keras.optimizers.schedules.CosineDecay(0.1, 10)),
        lambda: keras.optimizers.LossScaleOptimizer(keras.optimizers.RMSprop(0.1, rho=0.7)),
        lambda: keras.optimizers.SGD(float("nan")),  # the same on all workers
    ],
)
def test_workers_that_agree_make_an_update(made_of, meet, make):
    optimizers = [make() for _ in range(3)]
    for optimizer in optimizers:
        optimizer.build([keras.Variable(np.ones(3))])
    assert meet(made_of(*optimizers)) == [None] * 3


@pytest.mark.parametrize(
    "change, message",
    [
        (
            lambda o: o.learning_rate.assign(0.01),
            "learning_rate of the optimizer must be the same on all workers; received 0.1 on "
            "workers 0 and 2 and 0.01 on worker 1",
        ),
        (lambda o: setattr(o, "momentum", 0.5), "momentum of .* received 0.9 on .* 0.5 on worker"),
        (lambda o: setattr(o, "nesterov", True), "nesterov of .* received 0 on .* 1 on worker 1"),
        (lambda o: setattr(o, "weight_decay", 1e-4), "weight_decay .* None on .* 0.0001 on worker"),
        (lambda o: setattr(o, "clipnorm", 2), "clipnorm of .* received None on .* 2 on worker 1"),
        (lambda o: o._iterations.assign(7), "iteration of .* received 0 on .* and 7 on worker 1"),
    ],
)
def test_numbers_of_the_optimizer_that_differ_are_named(made_of, meet, change, message):
    optimizers = [sgd(momentum=0.9) for _ in range(3)]
    change(optimizers[1])
    workers = made_of(*optimizers)
    with pytest.raises(TrainingError, match=message):
        meet(workers)
    for worker in workers:
        with pytest.raises(TrainingError, match=message):
            worker.verdict()


def test_those_of_a_wrapped_optimizer_are_compared_too(made_of, meet):
    inner = [keras.optimizers.RMSprop(0.1, rho=rho) for rho in (0.9, 0.7)]
    workers = made_of(*map(keras.optimizers.LossScaleOptimizer, inner))
    with pytest.raises(TrainingError, match="rho of the optimizer .* 0.9 on worker 0 and 0.7 on"):
        meet(workers)
    inner = [keras.optimizers.SGD(rate) for rate in (0.1, 0.2)]
    workers = made_of(*map(keras.optimizers.LossScaleOptimizer, inner))
    with pytest.raises(TrainingError, match="learning_rate of .* 0.1 on worker 0 and 0.2 on"):
        meet(workers)


def test_an_abandoned_update_is_void_on_all(made_of, meet):
    workers = made_of(*[sgd() for _ in range(3)])
    verdict = {"ended": [], "stops": [], "abandoned": [2]}
    assert meet(workers, abandoned=[2], faulty=[0]) == [verdict] * 3
    assert [worker.skipped_updates for worker in workers] == [0] * 3  # nobody takes what is faulty


def test_faulty_workers_are_known_to_all(made_of, meet):
    workers = made_of(*[sgd() for _ in range(3)])
    meet(workers, faulty=[0, 2])
    assert [worker.faulty_workers for worker in workers] == [[0, 2]] * 3
    meet(workers)
    assert [worker.faulty_workers for worker in workers] == [[]] * 3
    assert [worker.skipped_updates for worker in workers] == [1] * 3


def test_workers_agree_on_what_any_of_them_requests(made_of, meet):
    workers = made_of(*[sgd() for _ in range(3)])

    def agreed():
        answers = [(worker.agreed("stop"), worker.agreed("checkpoint")) for worker in workers]
        assert len(set(answers)) == 1
        return answers[0]

    meet(workers)
    assert agreed() == (False, False)
    workers[1].ask("checkpoint")
    assert agreed() == (False, False)  # not before the update
    meet(workers)
    assert agreed() == (False, True)
    # Once: neither at the next look nor after the next update.
    assert agreed() == (False, False)
    meet(workers)
    assert agreed() == (False, False)
    workers[0].ask("stop")
    workers[2].ask("stop")
    workers[2].ask("checkpoint")
    meet(workers)
    assert agreed() == (True, True)


def test_settings_are_compared_by_name(monkeypatch):
    def received(*of_workers):
        monkeypatch.setattr(distributed, "gather_object", lambda mine: list(of_workers))
        agreement.require_equal(of_workers[0])

    received({"epochs": 3}, {"epochs": 3})
    with pytest.raises(ValueError, match="^epochs must be .*; received 3 on worker 0 and 4 on wor"):
        received({"steps": 1, "epochs": 3}, {"steps": 1, "epochs": 4})
    with pytest.raises(ValueError, match="variable 1 must .* nothing on worker 0 and b on workers"):
        received({"variable 0": "a"}, *[{"variable 0": "a", "variable 1": "b"}] * 2)


def test_what_is_broadcast_or_counted_up_is_no_difference():
    def described(rate, **options):
        model = cases.compiled(cases.network(), keras.optimizers.SGD(rate, **options))
        return agreement.description(model)

    first, second = described(0.1, momentum=0.9), described(0.2, momentum=0.8)
    assert first["the optimizer's momentum"] == "0.9"
    assert {name for name in first if first[name] != second[name]} == {"the optimizer's momentum"}
    decays = [
        described(keras.optimizers.schedules.ExponentialDecay(0.1, steps, 0.5)) for steps in (5, 6)
    ]
    differ = {name for name in decays[0] if decays[0][name] != decays[1][name]}
    assert differ == {"the optimizer's learning_rate.config.decay_steps"}
