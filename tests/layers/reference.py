"""Batch normalization in NumPy, float64, with gradients: written from the equations alone."""

import dataclasses

import numpy as np


@dataclasses.dataclass
class State:
    """What one batch normalization keeps."""

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
        return cls(
            *(
                np.asarray(variable.numpy(), "float64")
                for variable in (layer.gamma, layer.beta, layer.moving_mean, layer.moving_variance)
            )
        )

    def give(self, layer):
        """Writes these values into a layer's variables, and takes up what rounding made of them."""
        for field in dataclasses.fields(self):
            variable = getattr(layer, field.name)
            variable.assign(getattr(self, field.name))
            setattr(self, field.name, np.asarray(variable.numpy(), "float64"))


@dataclasses.dataclass
class Result:
    outputs: np.ndarray
    d_inputs: np.ndarray
    d_gamma: np.ndarray
    d_beta: np.ndarray
    moving_mean: np.ndarray
    moving_variance: np.ndarray


def train(x, upstream, state, momentum, epsilon, axis=-1, mask=None):
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
    inverse = 1 / np.sqrt(variance + epsilon)
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
        moving_mean=momentum * state.moving_mean + (1 - momentum) * mean,
        moving_variance=momentum * state.moving_variance + (1 - momentum) * variance,
    )


def infer(x, upstream, state, epsilon, axis=-1):
    """One call on the moving statistics, which stand still, and its gradients."""
    x, upstream = (np.moveaxis(np.asarray(a, "float64"), axis, -1) for a in (x, upstream))
    inverse = 1 / np.sqrt(state.moving_variance + epsilon)
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
