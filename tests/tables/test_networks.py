"""Every network that `--network` names is made, by the constructor of that name."""

import types

import pytest

from tfadv import models
from tfadv.programs import building
from tfadv.tables import networks


@pytest.mark.parametrize("network", networks.NETWORKS)
def test_flags_make_a_network(network):
    small = "small" in network
    settings = types.SimpleNamespace(
        network=network,
        depth=8,
        norm="mbn",
        affine="shared",
        statistics="separate",
        width=4,
        blocks=None if small else (1, 1),
        weight_decay=0.0,
        seed=0,
    )
    dataset = types.SimpleNamespace(image_shape=(32, 33, 1), num_classes=7)
    model = building.network(settings, dataset)
    assert model.name == f"{network}8"
    assert (model.input_shape, model.output_shape) == ((None, 32, 33, 1), (None, 7))
    denoising = [layer.name for layer in model.layers if layer.name.endswith("_denoise_norm")]
    assert len(denoising) == (2 if "denoise" in network else 0)
    assert all(layer.affine == "shared" for layer in models.mixtures(model)) and not model.losses
