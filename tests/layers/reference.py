"""Batch normalization in NumPy, float64, with gradients, written from the equations alone.

Below it, what the tests of both layers share: random layers and images, one call with gradients.
"""

import dataclasses

import numpy as np
import tensorflow as tf

MOMENTUM, EPSILON = 0.9, 1e-5


@dataclasses.dataclass
class State:
    """The variables of one batch normalization."""

    gamma: np.ndarray
    beta: np.ndarray
    moving_mean: np.ndarray
    moving_variance: np.ndarray

    @classmethod
    def random(cls, channels, seed):
        rng = np.random.default_rng(seed)
        draws = rng.normal(size=(3, channels))
        return cls(*draws, rng.uniform(0.5, 2.0, channels))

    @classmethod
    def of(cls, layer):
        names = (field.name for field in dataclasses.fields(cls))
        return cls(*(np.asarray(getattr(layer, name).numpy(), "float64") for name in names))

    def assign_to(self, layer):
        """Assigns the values to the variables of a layer, and returns them as rounded there."""
        for field in dataclasses.fields(self):
            getattr(layer, field.name).assign(getattr(self, field.name))
        return State.of(layer)


@dataclasses.dataclass
class Result:
    outputs: np.ndarray
    d_inputs: np.ndarray
    d_gamma: np.ndarray
    d_beta: np.ndarray
    moving_mean: np.ndarray
    moving_variance: np.ndarray


def train(x, upstream, state, axis=-1, mask=None):
    """One training call and the gradients of `sum(upstream * outputs)`.

    The variance is the biased one: divided by the number of values.
    """
    x, upstream = (np.moveaxis(np.asarray(a, "float64"), axis, -1) for a in (x, upstream))
    shape, channels = x.shape, x.shape[-1]
    x, upstream = x.reshape(-1, channels), upstream.reshape(-1, channels)
    counted = np.ones(len(x)) if mask is None else np.asarray(mask, "float64").reshape(-1)
    counted, total = counted[:, None], counted.sum()
    if total == 0:
        assert len(x) == 0, "the equations say nothing of a batch in which nothing counts"
        zeros = np.zeros(channels)
        empty = np.moveaxis(np.zeros(shape), -1, axis)
        return Result(empty, empty, zeros, zeros, state.moving_mean, state.moving_variance)
    mean = (counted * x).sum(0) / total
    variance = (counted * (x - mean) ** 2).sum(0) / total
    inverse = 1 / np.sqrt(variance + EPSILON)
    normalized = (x - mean) * inverse
    d_normalized = upstream * state.gamma
    d_variance = (d_normalized * (x - mean)).sum(0) * -0.5 * inverse**3
    d_mean = -(d_normalized * inverse).sum(0)
    d_inputs = d_normalized * inverse + counted / total * (d_variance * 2 * (x - mean) + d_mean)
    return Result(
        outputs=np.moveaxis((state.gamma * normalized + state.beta).reshape(shape), -1, axis),
        d_inputs=np.moveaxis(d_inputs.reshape(shape), -1, axis),
        d_gamma=(upstream * normalized).sum(0),
        d_beta=upstream.sum(0),
        moving_mean=MOMENTUM * state.moving_mean + (1 - MOMENTUM) * mean,
        moving_variance=MOMENTUM * state.moving_variance + (1 - MOMENTUM) * variance,
    )


def infer(x, upstream, state, axis=-1):
    """One call with the moving statistics, which do not change, and its gradients."""
    x, upstream = (np.moveaxis(np.asarray(a, "float64"), axis, -1) for a in (x, upstream))
    inverse = 1 / np.sqrt(state.moving_variance + EPSILON)
    normalized = (x - state.moving_mean) * inverse
    axes = tuple(range(x.ndim - 1))
    return Result(
        outputs=np.moveaxis(state.gamma * normalized + state.beta, -1, axis),
        d_inputs=np.moveaxis(upstream * state.gamma * inverse, -1, axis),
        d_gamma=(upstream * normalized).sum(axes),
        d_beta=upstream.sum(axes),
        moving_mean=state.moving_mean,
        moving_variance=state.moving_variance,
    )


def build(cls, shape, seed=1, **options):
    """A layer of random variables, and their values."""
    layer = cls(**options)
    layer.build((None, *shape[1:]))
    return layer, State.random(shape[options.get("axis", -1)], seed).assign_to(layer)


def gradients(layer, x, upstream, variables, **options):
    """Outputs of a layer, and the gradients of `sum(upstream * outputs)`, by autodiff."""
    x = tf.convert_to_tensor(x)
    with tf.GradientTape() as tape:
        tape.watch(x)
        outputs = layer(x, **options)
        loss = tf.reduce_sum(tf.cast(outputs, "float64") * tf.cast(upstream, "float64"))
    return outputs, *tape.gradient(loss, [x, *variables], unconnected_gradients="zero")
