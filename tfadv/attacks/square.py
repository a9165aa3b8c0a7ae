"""A search without gradients, by random squares (Andriushchenko et al., ECCV 2020)."""

import numpy as np
import tensorflow as tf

from tfadv.arguments import integer, number
from tfadv.attacks import checks, random_draws, steps
from tfadv.attacks.untargeted import UntargetedAttack

# The numbers of queries after which the windows' area halves: those of the paper for 10,000
# queries. AutoAttack keeps them for its 5,000 (arXiv 2003.01690), and so does this attack.
_HALVED_AFTER = (10, 50, 200, 500, 1000, 2000, 4000, 6000, 8000)
_LEVELS = 2**24
# Queries of one piece of a run. They take a few times as long as 100 steps of PGD.
_AT_ONCE = 500


class Square(UntargetedAttack):
    """Square attack, which changes random squares of an image and keeps the changes that help.

    It knows only logits, so it works where gradients mislead or do not exist. It maximizes the
    margin of the best other class over the label, and stops for an image that is misclassified.

    With `norm="linf"` it starts from vertical stripes of `-epsilon` and `epsilon`. Each query sets
    one square window, at a place drawn for the image, to `-epsilon` or `epsilon` in each channel.
    With `norm="l2"` it starts from a grid of tiles, each of two opposite bumps. Each query draws
    two windows, takes the perturbation out of the second, and gives its length to a new pair of
    bumps in the first.

    Args:
        epsilon: Largest change: of a pixel, in pixels of 255, if `norm` is `"linf"`; if it is
            `"l2"`, of the whole image, as the field writes it, for images from 0 to 1.
        num_queries: Number of windows that are tried. Each costs one pass forward.
        p: Share of the pixels in the first windows. It halves after 10, 50, 200, 500, 1000, 2000,
            4000, 6000 and 8000 queries.
        restarts: Number of attacks on each image.
        norm: `"linf"` or `"l2"`.
        jit_compile: Whether XLA compiles the loop. None: only where TensorFlow sees a GPU.

    Example:

    ```python
    attack = tfadv.attacks.Square(epsilon=8, num_queries=20)
    adversarial = attack(model, images, labels, value_range=(0, 255), seed=(0, 0))
    ```
    """

    loss = "margin"
    _broken = "a logit"

    def __init__(
        self,
        epsilon: float = 16.0,
        num_queries: int = 5000,
        p: float = 0.8,
        restarts: int = 1,
        norm: str = "linf",
        jit_compile: bool | None = None,
    ):
        super().__init__(epsilon, norm, restarts, jit_compile)
        self.num_queries = integer("num_queries", num_queries, 1)
        self.p = number("p", p, 0, 1)

    def _passes(self) -> int:
        return self.num_queries

    def _search(self, logits_fn, ball, labels, targets, restart, key, value_range):
        logits_fn = steps.prepared(logits_fn)
        patterns, first, windows = self._draws(ball.images, key)

        def loop(images, labels, first, windows):
            around = self._ball(images, value_range)
            start = self._begin(logits_fn, around, labels, patterns, first)
            numbers = tf.constant(0), self.num_queries
            return self._queries(logits_fn, around, labels, patterns, windows, start, *numbers)

        best, _, looks, finite = self._loop(loop)(ball.images, labels, first, windows)
        return best, looks, finite

    def _pieces(self, logits_fn, images, labels, *, value_range, seed, num_classes=None, run=None):
        if run is None:
            shared = dict(value_range=value_range, seed=seed, num_classes=num_classes)
            yield from super()._pieces(logits_fn, images, labels, **shared)
            return
        given = self._given(logits_fn, images, labels, None, value_range, seed, num_classes)
        images, labels, _, seed, num_classes, limits = given
        given = images, labels, seed, num_classes, limits, tf.cast(run, tf.int32)
        right, *state = self._function(logits_fn, self._opening)(*given)
        query = self._function(logits_fn, self._piece)
        for done in range(0, self.num_queries, _AT_ONCE):
            until = min(done + _AT_ONCE, self.num_queries)
            state = query(*given, *state, *map(tf.constant, (done, until)))
            best, margins, looks, finite = state
            if not bool(tf.reduce_any(margins <= 0)):
                break
            yield best, labels
        checks.outcome(looks & (tf.size(images) > 0), finite, self._broken)
        yield self._function(logits_fn, self._closing)(images, right, best, limits), labels

    def _closing(self, logits_fn, images, right, best, limits):
        best = self._ball(images, limits).project(best)
        return tf.where(tf.reshape(right, [-1, 1, 1, 1]), best, images)

    def _opening(self, logits_fn, images, labels, seed, num_classes, limits, run):
        """Whether each image is classified correctly, and the state of the search at its start."""
        logits_fn = steps.prepared(logits_fn)
        logits, looks = checks.logits(logits_fn(images), images, num_classes)
        right = tf.argmax(logits, axis=-1, output_type=labels.dtype) == labels
        patterns, first, _ = self._draws(images, random_draws.fold_restart(seed, run))

        def begin(images, labels, first):
            around = self._ball(images, limits)
            return self._begin(logits_fn, around, labels, patterns, first)

        best, margins, now, finite = self._loop(begin)(images, labels, first)
        return right, best, margins, looks & now, finite

    def _piece(
        self, logits_fn, images, labels, seed, num_classes, limits, run,
        best, margins, looks, finite, done, until,
    ):  # fmt: skip
        """The state of the search after some more queries."""
        logits_fn = steps.prepared(logits_fn)
        patterns, _, windows = self._draws(images, random_draws.fold_restart(seed, run))

        def loop(images, labels, windows, done, until, *state):
            around = self._ball(images, limits)
            return self._queries(logits_fn, around, labels, patterns, windows, state, done, until)

        state = best, margins, looks, finite
        return self._loop(loop)(images, labels, windows, done, until, *state)

    def _draws(self, images, key):
        """The patterns for images, and the random numbers of the start and of all queries."""
        if images.shape.rank != 4 or None in images.shape[1:]:
            raise ValueError(
                f"images must be [batch, height, width, channels] for the square attack; received "
                f"shape {images.shape}"
            )
        height, width, channels = images.shape[1:]
        kind = _Stripes if self.norm == "linf" else _Bumps
        patterns = kind(height, width, channels, self.window_sizes(height, width))
        batch = random_draws.batch_of(images)
        # All draws of an image at once, since a draw for each image is a loop over the images.
        first = random_draws.integers("pattern", key, batch, patterns.first_draws, 0, _LEVELS)
        shape = [self.num_queries, patterns.draws]
        windows = random_draws.integers("windows", key, batch, shape, 0, _LEVELS)
        return patterns, first, windows

    def _begin(self, logits_fn, ball, labels, patterns, first):
        """The state of the search at its start, as of `_queries`."""
        start = patterns.start(ball, first)
        return start, *_query(logits_fn, start, labels)

    def _queries(self, logits_fn, ball, labels, patterns, windows, state, first, last):
        """Tries the windows from one number to another.

        Returns:
            The best images, their margins, and the two arguments of `checks.outcome`.
        """

        def step(done, best, margins, looks, finite):
            points = patterns.changed(ball, best, done, windows[:, done])
            new_margins, now, ok = _query(logits_fn, points, labels)
            # An image that is misclassified stays as it is.
            better = (new_margins > margins) & (margins <= 0)
            best = tf.where(tf.reshape(better, [-1, 1, 1, 1]), points, best)
            margins = tf.where(better, new_margins, margins)
            return done + 1, best, margins, looks & now, finite & ok

        _, *state = tf.while_loop(
            lambda done, best, margins, *_: (done < last) & tf.reduce_any(margins <= 0),
            step,
            (first, *state),
            parallel_iterations=1,
        )
        return state

    def window_sizes(self, height: int, width: int) -> list[int]:
        """Returns the side of the window of each query, in pixels."""
        smallest = 1 if self.norm == "linf" else 3
        sizes = []
        for query in range(self.num_queries):
            halvings = sum(query > after for after in _HALVED_AFTER)
            side = max(round((self.p / 2**halvings * height * width) ** 0.5), smallest)
            side += self.norm == "l2" and side % 2 == 0  # odd, so that a bump has a middle
            sizes.append(min(side, height, width))
        return sizes


def _query(logits_fn, points, labels):
    logits, looks = checks.logits(logits_fn(points), points)
    margins = steps.margin(logits, labels)
    return margins, looks, ~tf.reduce_any(tf.math.is_nan(margins))


class _Stripes:
    """The patterns of L-infinity: every pixel at one end of its bounds."""

    def __init__(self, height, width, channels, sizes):
        self.first_draws = [1, width, channels]
        self.draws = 2 + channels
        self._places = _Places(height, width, sizes)

    def start(self, ball, first):
        return ball.project(ball.images + ball.radius * _signs(first))

    def changed(self, ball, best, query, draws):
        _, _, inside = self._places.window(query, draws[:, 0], draws[:, 1])
        # Twice the radius crosses the ball from either side.
        change = 2 * ball.radius * _signs(draws[:, None, None, 2:])
        return ball.project(tf.where(inside[..., None], best + change, best))


class _Bumps:
    """The patterns of L2: pairs of opposite bumps, each highest in its middle."""

    def __init__(self, height, width, channels, sizes):
        self._tile = tile = max(1, min(height, width) // 5)
        self._tiles = height // tile, width // tile
        self._margins = [
            [space % tile // 2, space % tile - space % tile // 2] for space in (height, width)
        ]
        self.first_draws = [*self._tiles, 1 + channels]
        self.draws = 5 + channels
        self._channels = channels
        self._places = _Places(height, width, sizes)
        different = sorted(set(sizes))
        largest = max(different)
        bumps = np.zeros([len(different), 2, largest, largest], np.float32)
        for place, size in enumerate(different):
            bumps[place, 0, :size, :size] = pair_of_bumps(size)
            bumps[place, 1, :size, :size] = pair_of_bumps(size).T
        self._bumps = tf.constant(bumps)
        self._kinds = tf.constant([different.index(size) for size in sizes])

    def start(self, ball, first):
        bumps = pair_of_bumps(self._tile)
        bumps = tf.constant(np.stack([bumps, bumps.T]), tf.float32)
        turned = tf.gather(bumps, _bits(first[..., 0]))  # [batch, rows, columns, tile, tile]
        tiles = turned[..., None] * _signs(first[..., 1:])[:, :, :, None, None]
        rows, columns = (count * self._tile for count in self._tiles)
        grid = tf.reshape(
            tf.transpose(tiles, [0, 1, 3, 2, 4, 5]), [-1, rows, columns, self._channels]
        )
        pattern = tf.pad(grid, [[0, 0], *self._margins, [0, 0]])
        return self._at(ball, pattern)

    def changed(self, ball, best, query, draws):
        delta = best - ball.images
        rows, columns, inside = self._places.window(query, draws[:, 0], draws[:, 1])
        _, _, outside = self._places.window(query, draws[:, 2], draws[:, 3])
        inside, outside = (tf.cast(mask, tf.float32)[..., None] for mask in (inside, outside))
        bumps = tf.gather(tf.gather(self._bumps, self._kinds[query]), _bits(draws[:, 4]))
        side = bumps.shape[-1]
        bumps = tf.gather(bumps, tf.clip_by_value(rows, 0, side - 1), axis=1, batch_dims=1)
        bumps = tf.gather(bumps, tf.clip_by_value(columns, 0, side - 1), axis=2, batch_dims=1)
        new = bumps[..., None] * inside * _signs(draws[:, None, None, 5:])
        new += _each_channel_unit(delta * inside)
        free = tf.maximum(ball.radius**2 - steps.length(delta, "l2") ** 2, 0.0) / self._channels
        freed = tf.reduce_sum((delta * tf.maximum(inside, outside)) ** 2, [1, 2], keepdims=True)
        new = _each_channel_unit(new) * tf.sqrt(free + freed)
        return self._at(ball, tf.where(inside > 0, new, delta * (1 - outside)))

    def _at(self, ball, delta):
        return ball.project(ball.images + steps.unit(delta, "l2") * ball.radius)


class _Places:
    """Windows in images: each query's has one size, at a place of its own in each image."""

    def __init__(self, height, width, sizes):
        self._shape = height, width
        self._sizes = tf.constant(sizes)

    def window(self, query, *draws):
        """Rows and columns from the window's corner `[batch, height]`; whether they are inside."""
        size = self._sizes[query]
        offsets = []
        for space, draw in zip(self._shape, draws, strict=True):
            free = tf.cast(space - size + 1, tf.int64)
            corner = tf.cast(tf.cast(draw, tf.int64) * free // _LEVELS, tf.int32)
            offsets.append(tf.range(space) - corner[:, None])
        rows, columns = offsets
        within = [(each >= 0) & (each < size) for each in offsets]
        return rows, columns, within[0][:, :, None] & within[1][:, None, :]


def pair_of_bumps(side: int) -> np.ndarray:
    """Returns two opposite bumps, one above the other, of length 1 together: `[side, side]`.

    Each is `sum_{k >= d} 1 / (k + 1)^2` at distance `d = max(|row|, |column|)` from its middle.
    """
    halves = []
    for height in (side // 2, side - side // 2):
        rows, columns = np.arange(height) - height // 2, np.arange(side) - side // 2
        distances = np.maximum(np.abs(rows)[:, None], np.abs(columns))
        weights = 1 / (np.arange(max(height // 2, side // 2) + 1) + 1.0) ** 2
        halves.append(np.cumsum(weights[::-1])[::-1][distances])
    bumps = np.concatenate([halves[0], -halves[1]])
    return bumps / np.sqrt((bumps**2).sum())


def _bits(draws):
    return tf.cast(draws >= _LEVELS // 2, tf.int32)


def _signs(draws):
    return tf.cast(2 * _bits(draws) - 1, tf.float32)


def _each_channel_unit(images):
    lengths = tf.sqrt(tf.reduce_sum(images**2, [1, 2], keepdims=True))
    return tf.math.divide_no_nan(images, lengths)
