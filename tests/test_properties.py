"""Properties that hold for any input, tested on inputs that hypothesis draws."""

import functools
import pathlib
import tempfile

import hypothesis
import numpy as np
import pytest
import tensorflow as tf
from hypothesis import strategies as st

from tfadv import attacks, data
from tfadv.attacks import random_targets
from tfadv.data import ArrayDataset, encoded, sampling
from tfadv.evaluation.sources import open_source
from tfadv.layers import MixtureBatchNormalization, scope
from tfadv.models import calling
from tfadv.programs import flagfiles, flags
from tfadv.settings import TRAIN
from tfadv.training import batches, schedules


def examples(number):
    """Settings of a test that draws this number of inputs, the same ones in every run."""
    return hypothesis.settings(max_examples=number, derandomize=True, deadline=None, database=None)


# The attack ------------------------------------------------------------------

WEIGHTS = np.random.default_rng(0).normal(size=[2, 2, 1, 5]).astype(np.float32)


def linear(images):
    return tf.tensordot(images, WEIGHTS / 100, 3)


attacked = st.fixed_dictionaries(
    {
        "epsilon": st.floats(0, 255),
        "step_size": st.floats(1e-6, 255),
        "limits": st.sampled_from([(0, 255), (-1, 1), (0, 1)]),
        "seed": st.integers(0, 2**31 - 1),
        "pixels": st.lists(st.integers(0, 255), min_size=12, max_size=12),
    }
)


# Some of the drawn values look like mistakes.
@pytest.mark.filterwarnings("ignore:.* is in pixels of 255", "ignore:images lie between")
@examples(4)
@hypothesis.given(attacked)
def test_an_attack_stays_in_the_ball_and_the_range_and_may_run_in_parts(case):
    low, high = case["limits"]
    scale = (high - low) / 255
    images = np.array(case["pixels"], np.float32).reshape(3, 2, 2, 1) * scale + low
    images = tf.constant(np.clip(images, low, high))
    labels = tf.constant([0, 1, 4])
    attack = attacks.PGD(case["epsilon"], case["step_size"], 100)
    keys = tf.constant([[case["seed"], index] for index in range(3)], tf.int64)

    def run(*parts):
        current, goals = attack.start(images, labels, 5, keys, (low, high))
        for steps in parts:
            current = attack.advance(
                linear, images, current, goals, steps, attack.effective_step_size, (low, high)
            )
        return current.numpy(), goals.numpy()

    whole, goals = run(100)
    again, _ = run(100)
    parts, _ = run(20, 80)
    np.testing.assert_array_equal(whole, again)
    np.testing.assert_array_equal(whole, parts)
    assert not (goals == labels.numpy()).any() and goals.min() >= 0 and goals.max() < 5
    # The bounds of the ball are rounded once each.
    rounding = 2 * np.spacing(float(high)) + 1e-5
    assert np.abs(whole - images).max() <= case["epsilon"] * scale + rounding
    assert whole.min() >= low and whole.max() <= high


def every_point(attack, images, labels, limits, seed):
    """The images that an attack shows to a network, and its result."""
    points = []

    def noted(images):
        points.append(images.numpy())
        return np.int32(0)

    @tf.custom_gradient
    def watched(images):
        with tf.control_dependencies([tf.py_function(noted, [images], tf.int32)]):
            return tf.identity(images), lambda gradient: gradient

    def network(images):
        return tf.sin(linear(watched(images)) * 50)

    result = attack(network, images, labels, value_range=limits, seed=seed, num_classes=5)
    return [*points, result.numpy()]


ATTACKS = {
    "pgd": lambda epsilon, norm: attacks.PGD(
        epsilon, epsilon / 3 + 1e-6, 5, norm=norm, jit_compile=False, clip_start=True
    ),
    "apgd": lambda epsilon, norm: attacks.APGD(epsilon, 7, norm=norm, jit_compile=False),
    "apgd_targeted": lambda epsilon, norm: attacks.APGD(
        epsilon, 5, "targeted_dlr", 2, norm=norm, jit_compile=False
    ),
    "fab": lambda epsilon, norm: attacks.FAB(epsilon, 6, 2, norm=norm, jit_compile=False),
    "square": lambda epsilon, norm: attacks.Square(epsilon, 20, norm=norm, jit_compile=False),
}


@pytest.mark.filterwarnings("ignore:.* is in pixels of 255", "ignore:images lie between")
@pytest.mark.parametrize("norm", ["linf", pytest.param("l2", marks=pytest.mark.slow)])
@pytest.mark.parametrize("name", ATTACKS)
@examples(2)
@hypothesis.given(attacked)
def test_an_attack_shows_the_network_images_of_the_ball_and_the_range(name, norm, case):
    low, high = case["limits"]
    images = np.array(case["pixels"], np.float32).reshape(3, 2, 2, 1) * (high - low) / 255 + low
    images = np.clip(images, low, high)
    labels = np.argmax(tf.sin(linear(tf.constant(images)) * 50), axis=1)
    attack = ATTACKS[name](case["epsilon"] / (1 if norm == "linf" else 100), norm)
    radius = attack.epsilon * (high - low) / (255 if norm == "linf" else 1)
    rounding = 2 * np.spacing(float(high)) + 1e-5 * (1 + radius)
    points = every_point(attack, images, labels, (low, high), (case["seed"], 0))
    for point in points:
        offsets = point - images
        length = (
            np.abs(offsets).max() if norm == "linf" else np.sqrt((offsets**2).sum((1, 2, 3)).max())
        )
        if name != "fab" or point is points[-1]:  # FAB looks for the nearest error outside, too
            assert length <= radius + rounding
        assert low <= point.min() and point.max() <= high


@examples(30)
@hypothesis.given(st.integers(2, 2000), st.integers(0, 2**31 - 1), st.booleans(), st.data())
def test_a_target_is_never_the_label(classes, seed, each, draw):
    labels = draw.draw(st.lists(st.integers(0, classes - 1), min_size=1, max_size=9))
    keys = [[seed, place] for place in range(len(labels))] if each else [seed, 3]
    targets = random_targets(labels, classes, tf.constant(keys, tf.int64)).numpy()
    assert (targets != labels).all() and targets.min() >= 0 and targets.max() < classes


# The mixture -----------------------------------------------------------------


@functools.cache
def mixture():
    """A mixture layer with random parameters and statistics."""
    layer = MixtureBatchNormalization()
    layer.build([None, 3])
    generator = np.random.default_rng(1)
    for variable in layer.variables:
        variable.assign(generator.uniform(0.5, 2, variable.shape))
    return layer


@examples(10)
@hypothesis.given(st.integers(0, 9), st.integers(0, 9), st.booleans())
def test_the_mixture_splits_and_joins_any_sizes(adversarial, clean, training):
    hypothesis.assume(adversarial + clean)
    layer = mixture()
    before = {v.path: v.numpy() for v in layer.variables}
    images = np.random.default_rng(adversarial).normal(size=[adversarial + clean, 3])
    images = images.astype(np.float32)
    with scope.enter(adversarial, False):
        outputs = layer(images, training=training).numpy()
    after = {v.path: v.numpy() for v in layer.variables}

    def of_branch(variables, domain):
        return {path.split("/")[-1]: v for path, v in variables.items() if f"/{domain}/" in path}

    for domain, part in (("adv", slice(adversarial)), ("clean", slice(adversarial, None))):
        values, new_values = of_branch(before, domain), of_branch(after, domain)
        assert set(values) == {"gamma", "beta", "moving_mean", "moving_variance"}
        mine = images[part]
        if training and len(mine):
            mean, variance = mine.mean(axis=0), mine.var(axis=0)
            for name, new in (("moving_mean", mean), ("moving_variance", variance)):
                expected = 0.9 * values[name] + 0.1 * new
                np.testing.assert_allclose(new_values[name], expected, rtol=1e-4, atol=1e-5)
        else:
            mean, variance = values["moving_mean"], values["moving_variance"]
            for name in ("moving_mean", "moving_variance"):
                np.testing.assert_array_equal(new_values[name], values[name])
        expected = (mine - mean) / np.sqrt(variance + 1e-5)
        expected = expected * values["gamma"] + values["beta"]
        np.testing.assert_allclose(outputs[part], expected, rtol=1e-3, atol=1e-3)
    for variable in layer.variables:
        variable.assign(before[variable.path])


@examples(50)
@hypothesis.given(st.integers(1, 500), st.floats(0, 1), st.booleans())
def test_a_mini_batch_consists_of_its_parts(size, ratio, adversarial):
    images = tf.reshape(tf.range(size), [size, 1])
    batch = batches.Mixture(images, -images if adversarial else None, images, None, ratio)
    assert batch.num_adversarial == (size if adversarial else 0)
    if adversarial:
        nearest = abs(batch.num_clean - ratio * size) <= 0.5 + 1e-9
        assert nearest or (ratio > 0 and batch.num_clean == 1)
    else:
        assert batch.num_clean == size
    assert calling._is_domain(batch.domain)
    np.testing.assert_array_equal(
        batch.images,
        np.concatenate([-images, images[: batch.num_clean]] if adversarial else [images]),
    )
    for domain, count in (("adv", batch.num_adversarial), ("clean", batch.num_clean)):
        np.testing.assert_array_equal(batch.part(batch.labels, domain), images[:count])


# Sharding --------------------------------------------------------------------

sizes = {"count": st.integers(1, 60), "size": st.integers(1, 9), "batch": st.integers(1, 17)}


@examples(60)
@hypothesis.given(**sizes)
def test_an_evaluation_gives_each_image_to_one_worker(count, size, batch):
    shares = [sampling.validation_indices(count, batch, rank, size) for rank in range(size)]
    assert {share.shape for share in shares} == {(data.validation_steps(count, batch, size), batch)}
    real = np.concatenate([share[share >= 0] for share in shares])
    assert sorted(real) == list(range(count))
    # The same holds for arrays that are passed to `evaluate`.
    images, labels = np.zeros([count, 2, 2, 1], np.float32), np.zeros(count, np.int64)
    seen = []
    for rank in range(size):
        source = open_source((images, labels), batch, None, rank, size)
        own = list(source.batches())
        assert len(own) == source.num_batches
        for batch_images, _, indices in filter(None, own):
            assert len(batch_images) == batch
            seen += [index for index in indices if index >= 0]
    assert sorted(seen) == list(range(count))


@examples(12)
@hypothesis.given(epoch=st.integers(0, 3), **sizes)
def test_an_epoch_shows_all_images_equally_often(count, size, batch, epoch):
    images = np.arange(count, dtype=np.uint8).reshape(count, 1, 1, 1)
    split = images, np.zeros(count, np.int32)
    dataset = ArrayDataset("numbers", split, split, 1)
    steps = data.steps_per_epoch(count, batch * size)
    seen = np.zeros(count, int)
    for rank in range(size):
        share = dataset._epoch(tf.constant(epoch, tf.int64), batch * steps, rank, size, seed=0)
        indices = [index for _, index in share.as_numpy_iterator()]
        seen += np.bincount(indices, minlength=count)
    assert seen.sum() == steps * batch * size and seen.max() - seen.min() <= 1


@examples(15)
@hypothesis.given(st.lists(st.booleans(), min_size=1, max_size=20))
def test_a_bad_image_is_replaced_by_the_next_good_one(bad):
    hypothesis.assume(not all(bad))
    rows, names = np.arange(len(bad)), np.where(bad, "x", "")
    batches = tf.data.Dataset.from_tensors((rows, rows, names))
    replaced = encoded.replace_bad(batches, len(bad), 1, 0, 0, lambda epoch, count, names: count)
    ((images, labels),) = replaced.as_numpy_iterator()
    for row in rows:
        following = (np.arange(row, row + len(bad))) % len(bad)
        assert images[row] == labels[row] == next(n for n in following if not bad[n])


# The schedule ----------------------------------------------------------------


@examples(40)
@hypothesis.given(
    st.floats(1e-4, 10),
    st.integers(1, 8192),
    st.integers(1, 400),
    st.integers(0, 10),
    st.lists(st.integers(0, 120), max_size=4, unique=True).map(sorted),
    st.integers(0, 50_000),
)
def test_the_schedules_are_those_of_numpy(rate, batch, steps, warmup, decays, step):
    base, warm = rate * batch / 256, warmup * steps
    if base > rate and step < warm:
        expected = [rate + (base - rate) * step / warm] * 2
    else:
        expected = [base * 0.1 ** sum(step >= epoch * steps for epoch in decays)]
        expected += [base * 0.94 ** (step // (2 * steps))]
    actual = (
        schedules.WarmupSteps(rate, batch, steps, warmup, decays),
        schedules.WarmupExponential(rate, batch, steps, warmup),
    )
    for schedule, value in zip(actual, expected, strict=True):
        # Smaller values are zero in float32 on some processors.
        np.testing.assert_allclose(schedule(step), value, rtol=2e-4, atol=1e-37)
    # At the end of the warm-up the rate does not jump, unless it decays there.
    if base > rate and warm and not any(epoch <= warmup for epoch in decays):
        np.testing.assert_allclose(actual[0](warm), base, rtol=1e-5)
        rise = float(actual[0](warm)) - float(actual[0](warm - 1))
        assert abs(rise - (base - rate) / warm) <= 1e-4 * base


# The flagfiles ---------------------------------------------------------------


def _values(flag):
    low, high = flag.low, flag.high
    if flag.type is bool:
        value = st.booleans()
    elif flag.type is int:
        value = st.integers(int(low), int(high))
    elif flag.type is float:
        value = st.floats(low, high)
    elif flag.choices:
        value = st.sampled_from(flag.choices)
    elif flag.type in (str, pathlib.Path):
        value = st.text(st.characters(exclude_categories=["Cc", "Cs", "Zl", "Zp"]), min_size=1)
        value = value.filter(lambda text: text == text.strip() and not text.startswith("~"))
    else:
        value = st.lists(st.integers(int(low), int(high)), max_size=5).map(tuple)
        if flag.default is None:
            value = value.filter(len)
    return value if flag.default is not None else st.none() | value


@examples(25)
@hypothesis.given(st.data())
def test_any_settings_are_written_and_read_again(draw):
    settings = flags.parse(TRAIN, [])
    for flag in draw.draw(st.lists(st.sampled_from(TRAIN), min_size=1, max_size=8)):
        setattr(settings, flag.name, draw.draw(_values(flag), label=flag.name))
    with tempfile.TemporaryDirectory() as folder:
        path = pathlib.Path(folder) / "flags.txt"
        path.write_text(flags.flagfile(TRAIN, settings), encoding="utf-8")
        assert flags.parse(TRAIN, [f"--flagfile={path}"]) == settings


_NAMES = st.sampled_from(["flagfile", "epochs", "norm", "decay_epochs", "undefok", "", "seed", "h"])
_LINES = st.text(max_size=30) | st.builds("--{}={}".format, _NAMES, st.text(max_size=10))


@examples(100)
@hypothesis.given(st.lists(_LINES, max_size=5).map("\n".join) | st.binary(max_size=60))
def test_any_text_in_a_flagfile_is_settings_or_a_message(text):
    with tempfile.TemporaryDirectory() as folder:
        path = pathlib.Path(folder) / "x.flags"
        content = text if isinstance(text, bytes) else text.encode(errors="surrogatepass")
        path.write_bytes(content)
        try:
            flagfiles.expand([f"--flagfile={path}"])
            flags.parse(TRAIN, [f"--flagfile={path}"])
        except ValueError as error:
            assert "\n" not in str(error)
        except SystemExit as end:
            assert end.code == 0  # --help is a flag too
