"""The devices of devices.tsv: what they could compute, and the share of it that is reached.

`efficiency` is that share for residual networks in TensorFlow, `update_efficiency` that of the
update's pass where it is known to be another; `source` says where they come from, and
`measured_on`, `date` and `versions` on which device, when and with which software they were
measured. float32 is what TensorFlow makes of it: TF32 on GPUs that have it. Peaks, memory and its
bandwidth are the makers' data sheets (SXM models, without sparsity).
"""

import csv
import dataclasses
import functools
import pathlib

_TABLE = pathlib.Path(__file__).with_name("devices.tsv")


@dataclasses.dataclass(frozen=True)
class Device:
    """One device with one dtype.

    Attributes:
        name: Such as `"h100"`.
        dtype: `"float32"`, `"bfloat16"` or `"float16"`.
        units: What computes in it.
        peak: FLOP/s.
        efficiency: The share of `peak` that the attack reaches.
        update_efficiency: The share that the forward and backward pass of an update reaches.
        memory: Bytes; None if unknown.
        source: Source of the efficiencies.
        measured: On which device, when and with which versions they were measured.
    """

    name: str
    dtype: str
    units: str
    peak: float
    efficiency: float
    update_efficiency: float
    memory: float | None
    source: str
    measured: str

    @property
    def rate(self):
        """FLOP/s that the attack reaches."""
        return self.peak * self.efficiency

    @property
    def update_rate(self):
        """FLOP/s that the forward and backward pass of an update reaches."""
        return self.peak * self.update_efficiency


@functools.cache
def _devices():
    with open(_TABLE, encoding="utf-8", newline="") as file:
        rows = csv.DictReader(file, delimiter="\t")
        return {
            (row["device"], row["dtype"]): Device(
                row["device"],
                row["dtype"],
                row["units"],
                1e12 * float(row["teraflops"]),
                float(row["efficiency"]),
                float(row["update_efficiency"] or row["efficiency"]),
                1e9 * float(row["memory_gb"]) if row["memory_gb"] else None,
                row["source"],
                f"{row['measured_on']}, {row['date']}, {row['versions']}",
            )
            for row in rows
        }


def known_devices():
    """The names of the table, in its order."""
    return tuple(dict.fromkeys(name for name, _ in _devices()))


def known_device(name, dtype="float32", efficiency=None):
    """A device of the table.

    Args:
        name: One of `known_devices()`.
        dtype: `"float32"`, `"bfloat16"` or `"float16"`.
        efficiency: Float that replaces both of the table's efficiencies; None keeps them.

    Returns:
        A `Device`.

    Raises:
        ValueError: If the table does not have it.
    """
    if name not in known_devices():
        raise ValueError(f"device must be one of {', '.join(known_devices())}; received {name!r}")
    if (name, dtype) not in _devices():
        dtypes = ", ".join(d for n, d in _devices() if n == name)
        raise ValueError(f"dtype of device {name} must be one of {dtypes}; received {dtype!r}")
    device = _devices()[name, dtype]
    if efficiency is None:
        return device
    return dataclasses.replace(
        device, efficiency=efficiency, update_efficiency=efficiency, source="as given", measured=""
    )
