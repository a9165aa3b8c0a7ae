"""Times of a training, computed by hand."""

import math

import pytest

from tfadv.programs import time_model
from tfadv.programs.costs import NetworkCost
from tfadv.programs.time_model import Evaluation, Work

# Forward 10 FLOPs an image, 20 to the image, 30 in an update.
COST = NetworkCost(
    forward=10,
    image_gradient=20,
    update=30,
    parameters=1000,
    reduced_bytes=4400,
    attack_bytes=300,
    update_bytes=500,
    rematerialized_attack_bytes=60,
    rematerialized_update_bytes=70,
)
WORK = Work(images=4, clean_images=2, num_steps=5, updates=7)


def predict(work, workers=1, **options):
    settings = dict(attack_rate=10, update_rate=20, bandwidth=1e3, latency=0.5)
    return time_model.predict(work, COST, workers=workers, **settings | options)


def test_one_worker():
    prediction = predict(WORK)
    assert prediction.attack == 4 * 5 * 20 / 10
    assert prediction.update == (4 + 2) * 30 / 20
    assert prediction.communication == prediction.waiting == prediction.evaluations == 0
    assert prediction.images_per_second == 4 / 49
    assert prediction.hours == prediction.device_hours == 7 * 49 / 3600


def test_several_workers():
    one, three = predict(WORK), predict(WORK, 3, jitter=0.1)
    # A ring: each of 2 (N - 1) steps sends a third of the bytes.
    assert three.communication == pytest.approx(4 * (0.5 + 4400 / 3 / 1e3))
    assert three.waiting == pytest.approx(0.1 * 0.8462843753 * 49)
    total = 49 + three.communication + three.waiting
    assert three.seconds_per_update == pytest.approx(total)
    assert three.images_per_second == pytest.approx(12 / total)
    assert three.device_hours == pytest.approx(3 * 7 * total / 3600)
    assert (three.attack, three.update) == (one.attack, one.update)
    # By Gloo: an agreement of 4 messages; 8 segments of 733 bytes, each asked for; copies for 1 s.
    gloo = predict(WORK, 3, copying=4400)
    assert gloo.communication == pytest.approx(4 * 0.5 + 8 * (0.5 + 4400 / 6 / 1e3 / 2) + 1)
    assert predict(WORK, copying=4400).communication == 0
    # Gradients are 4000 of the 4400 bytes.
    half = Work(**{**vars(WORK), "compression": "fp16"})
    assert half.reduced_bytes(COST) == 2400


@pytest.mark.parametrize(
    ("options", "attack", "update"),
    [
        ({"accumulation_steps": 2}, 800, 360),
        ({"restarts": 2}, 2 * 4 * (100 + 10), 180),
        ({"rematerialize": "step"}, 400, 6 * 40),
        ({"rematerialize": "all"}, 4 * 5 * 30, 6 * 40),
        ({"num_steps": None, "clean_images": 4}, 0, 120),
        ({"num_steps": 0}, 0, 180),
    ],
)
def test_flops_of_strategies(options, attack, update):
    work = Work(**{**vars(WORK), **options})
    assert (work.attack_flops(COST), work.update_flops(COST)) == (attack, update)


def test_evaluations():
    # 3 times 8 images: once clean, PGD-100 with its 10th step looked at as well.
    evaluations = (Evaluation(3, 8, (10, 100)), Evaluation(1, 2, ()))
    work = Work(**{**vars(WORK), "evaluations": evaluations})
    assert work.evaluation_flops(COST) == 24 * (3 * 10 + 100 * 20) + 2 * 10
    assert predict(work).evaluations == work.evaluation_flops(COST) / 10


@pytest.mark.parametrize(
    ("rematerialize", "attack_parts", "workers", "expected"),
    [
        ("none", 1, 1, 12000 + 6 * 500),
        ("none", 1, 2, 12000 + 4400 + 6 * 500),
        ("step", 1, 1, 12000 + 4 * 300),  # now the attack keeps more
        ("all", 1, 1, 12000 + 6 * 70),
        ("none", 4, 1, 12000 + 4 * 4 * 300),
    ],
)
def test_memory(rematerialize, attack_parts, workers, expected):
    options = {"rematerialize": rematerialize, "attack_parts": attack_parts}
    work = Work(**{**vars(WORK), **options})
    assert work.memory(COST, workers) == expected


def test_segments_of_gloo():
    # 240 MiB of 8 workers are 30 segments each, of 1 s at this rate; a message hides in it or not.
    seconds = time_model.gloo_seconds(8, 240 * 2**20, 2**20, 0.25)
    assert seconds == pytest.approx(14 * 0.25 + 420 * 1)
    seconds = time_model.gloo_seconds(8, 240 * 2**20, 2**20, 2.0)
    assert seconds == pytest.approx(14 * 2 + 420 * 2.5)


def test_expected_maximum():
    # Known integrals; 2.5076 for 100 (Tippett 1925).
    assert time_model.expected_maximum(1) == 0
    assert time_model.expected_maximum(2) == pytest.approx(1 / math.sqrt(math.pi), abs=1e-9)
    assert time_model.expected_maximum(3) == pytest.approx(1.5 / math.sqrt(math.pi), abs=1e-9)
    assert time_model.expected_maximum(100) == pytest.approx(2.5076, abs=1e-4)
