import re

import pytest

from tfadv.tables import devices

# A ResNet-50 image's update: 24.3 GFLOP (tests/programs/test_costs.py counts them).
UPDATE = 24.299e9


@pytest.mark.parametrize(
    ("name", "dtype", "images_per_second"),
    [
        ("v100", "float32", 412),
        ("v100", "float16", 1270),
        ("a100", "float32", 909),
        ("a100", "float16", 2375),
    ],
)
def test_efficiency_is_that_of_the_published_throughput(name, dtype, images_per_second):
    device = devices.known_device(name, dtype)
    assert f"{images_per_second} images/s" in device.source
    assert device.rate == pytest.approx(images_per_second * UPDATE, rel=0.04)


def test_every_row_reads():
    for name, dtype in devices._devices():
        device = devices.known_device(name, dtype)
        assert (device.name, device.dtype) == (name, dtype)
        assert 0 < device.efficiency < 1 and device.source and device.units
        _, date, versions = device.measured.split(", ", 2)
        assert re.fullmatch(r"20\d\d-\d\d(-\d\d)?", date) and versions
        assert device.memory is None or device.memory > 1e9


def test_efficiency_can_be_given():
    device = devices.known_device("h100", "bfloat16", 0.5)
    assert device.rate == device.update_rate == 0.5 * 989e12
    assert (device.source, device.measured) == ("as given", "")


def test_the_pass_of_an_update_has_an_efficiency_of_its_own_where_it_is_known():
    h200 = devices.known_device("h200")
    assert h200.rate == pytest.approx(74.6e12, rel=0.01)
    assert h200.update_rate == pytest.approx(22.7e12, rel=0.01)
    assert h200.measured == "h200, 2026-11, TensorFlow 2.21, Keras 3.15"
    assert devices.known_device("v100").update_rate == devices.known_device("v100").rate


def test_unknown_ones_name_the_known():
    with pytest.raises(ValueError, match="device must be one of v100, a100, .*received 'v1000'"):
        devices.known_device("v1000")
    with pytest.raises(ValueError, match="one of float32, float16; received 'bfloat16'"):
        devices.known_device("v100", "bfloat16")
