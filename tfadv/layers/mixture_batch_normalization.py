import warnings

import keras
import tensorflow as tf

from tfadv.layers import scope
from tfadv.layers.batch_normalization import BatchNormalization


@keras.saving.register_keras_serializable("tfadv")
class MixtureBatchNormalization(keras.layers.Layer):
    """Mixture BN: one batch normalization for adversarial images, one for clean ones.

    `output = [BN_adv(x[:n]), BN_clean(x[n:])]`

    The first `n` images of a training batch are adversarial and the rest are clean (Section 4.2,
    Figure 4). Each part meets its own batch normalization, with statistics and parameters of its
    own, and every other layer of the network sees one batch. At inference the whole batch goes
    through one of the two: the adv branch, unless the caller chose the other.

    The caller chooses with `tfadv.models.call(model, images, domain=...)`, or takes a plain model
    of one branch with `tfadv.models.extract(model, domain)`. A part without images leaves its
    branch untouched. Without a caller that chooses, as in a plain `fit`, all images train the adv
    branch alone, and a warning says so.

    Args:
        axis: Integer, the axis of the channels.
        momentum: Float, of the moving statistics (pipeline: 0.9).
        epsilon: Float, added to the variance (pipeline: 1e-5).
        center, scale: Booleans, whether there is a beta, and a gamma.
        affine: `"separate"` gives each branch its own gamma and beta, as in the paper;
            `"shared"` gives both the same, so that they differ in statistics alone.
        beta_initializer, gamma_initializer, moving_mean_initializer,
        moving_variance_initializer, beta_regularizer, gamma_regularizer, beta_constraint,
        gamma_constraint: As of `keras.layers.BatchNormalization`, for both branches.
        **kwargs: Of the base layer (`name`, `dtype`, `trainable`).

    Attributes:
        adv, clean: The two `tfadv.layers.BatchNormalization`.

    Call arguments:
        inputs: Tensor of any rank, images first.
        training: Boolean, whether to normalize with the statistics of the batch.
        mask: Boolean tensor, or `None`, as of `BatchNormalization`.

    Returns:
        A tensor of the shape of `inputs`, of the compute dtype.

    Raises:
        ValueError: For an unknown `affine`.
    """

    def __init__(
        self,
        axis=-1,
        momentum=0.9,
        epsilon=1e-5,
        center=True,
        scale=True,
        affine="separate",
        beta_initializer="zeros",
        gamma_initializer="ones",
        moving_mean_initializer="zeros",
        moving_variance_initializer="ones",
        beta_regularizer=None,
        gamma_regularizer=None,
        beta_constraint=None,
        gamma_constraint=None,
        **kwargs,
    ):
        super().__init__(**kwargs)
        if affine not in ("separate", "shared"):
            raise ValueError(f'affine must be "separate" or "shared"; received {affine!r}')
        self.supports_masking = True
        self.affine = affine
        options = dict(
            axis=axis,
            momentum=momentum,
            epsilon=epsilon,
            center=center,
            scale=scale,
            beta_initializer=beta_initializer,
            gamma_initializer=gamma_initializer,
            moving_mean_initializer=moving_mean_initializer,
            moving_variance_initializer=moving_variance_initializer,
            beta_regularizer=beta_regularizer,
            gamma_regularizer=gamma_regularizer,
            beta_constraint=beta_constraint,
            gamma_constraint=gamma_constraint,
            dtype=self.dtype_policy,
            trainable=self.trainable,
        )
        self.adv = BatchNormalization(name="adv", **options)
        self.clean = BatchNormalization(name="clean", **options)
        self._options = tuple(name for name in options if name not in ("dtype", "trainable"))

    def build(self, input_shape):
        self.adv.build(input_shape)
        if self.affine == "shared":
            # The clean branch reads the very variables of the adv branch: one gamma, one beta,
            # one gradient.
            self.clean.share_affine(self.adv)
        self.clean.build(input_shape)

    def call(self, inputs, training=None, mask=None):
        if training and self.trainable and not scope.is_entered():
            _warn_of_one_branch()
        current = scope.current()
        current.seen.add(id(self))
        domain = current.domain
        if isinstance(domain, str):
            branch = self.adv if domain == "adv" else self.clean
            return branch(inputs, training=training, mask=mask)
        # Not by slices: the gradient of each would be as large as the batch, and a training step
        # of this layer twice as slow (benchmarks/normalization.py).
        parts = tf.split(inputs, [domain, -1])
        masks = (None, None) if mask is None else tf.split(mask, [domain, -1])
        outputs = [
            branch(images, training=training, mask=part_mask)
            for branch, images, part_mask in zip((self.adv, self.clean), parts, masks, strict=True)
            # A part known to be empty is not traced at all, unless there are no images at all.
            if images.shape[0] != 0 or inputs.shape[0] == 0
        ]
        return outputs[0] if len(outputs) == 1 else tf.concat(outputs, axis=0)

    def compute_output_shape(self, input_shape):
        return input_shape

    def get_config(self):
        branch = self.adv.get_config()
        options = {name: branch[name] for name in self._options}
        return {**super().get_config(), **options, "affine": self.affine}


_warned = False
# Keras's own words, where every variable that it lists is the gamma or beta of a clean branch.
_OF_CLEAN_BRANCHES = r"Gradients do not exist for variables \[('[^']*/clean/(gamma|beta)'(, )?)+\] "


def _warn_of_one_branch():
    global _warned
    warnings.filterwarnings("ignore", _OF_CLEAN_BRANCHES, UserWarning)
    if not _warned:
        _warned = True
        warnings.warn(
            "mixture batch normalization trains its adv branch alone, on all images, and its clean "
            "branch stays as it is: give fit the callback tfadv.callbacks.AdversarialTraining, or "
            "call the model with tfadv.models.call in a loop of your own",
            stacklevel=3,
        )
