"""TensorBoard's event files, read and written without the summary state of TensorFlow.

No other file imports TensorBoard, which publishes only its plugins' formats, not these modules.
"""

import itertools
import os
import pathlib
import socket
import struct
import time
from collections.abc import Collection, Iterable
from typing import Any

from tensorboard.backend.event_processing.plugin_event_accumulator import EventAccumulator
from tensorboard.compat.proto import event_pb2, summary_pb2
from tensorboard.plugins.histogram import summary_v2 as histograms
from tensorboard.plugins.hparams import api_pb2
from tensorboard.plugins.hparams import summary as hparams
from tensorboard.plugins.image import metadata as image_metadata
from tensorboard.plugins.scalar import summary_v2 as scalars
from tensorboard.summary.writer.record_writer import RecordWriter
from tensorboard.util import tensor_util

_TYPES = {bool: api_pb2.DATA_TYPE_BOOL, str: api_pb2.DATA_TYPE_STRING}


class EventFile:
    """A new event file of a TensorBoard run.

    A run needs a directory of its own, and no two files that are written at the same time:
    TensorBoard may read only the last file of a directory, and takes the ones before it as
    finished. Callbacks that write to one run take its file from `shared`.

    Args:
        directory: String or path.
        step: Integer, where the run continues: later steps in earlier files no longer count.

    Raises:
        OSError: From every method, if the file cannot be written.
    """

    def __init__(self, directory: str | os.PathLike, step: int):
        os.makedirs(directory, exist_ok=True)
        _wait_for_the_last_place(directory)
        # TensorBoard's own writer has a thread, whose failure is a traceback of its own.
        parts = [f"{int(time.time()):010d}", socket.gethostname(), os.getpid(), next(_NUMBERS)]
        name = ".".join(["events.out.tfevents", *map(str, parts)])
        self._users = 1
        self._records = RecordWriter(_Unbuffered(os.path.join(directory, name)))
        self._add(0, file_version="brain.Event:2")
        start = event_pb2.SessionLog(status=event_pb2.SessionLog.START)
        self._add(step + 1, session_log=start)

    @classmethod
    def shared(cls, directory: str | os.PathLike, step: int, fit: dict | None) -> "EventFile":
        """Returns the file of a run to which several callbacks of one `fit` write.

        The first one opens it, and it is closed once all of them have closed it.

        Args:
            directory, step: As of `EventFile`.
            fit: The `params` of the callback, which are those of its `fit`; None outside of any.
        """
        path = os.path.abspath(directory)
        file, owner = _SHARED.get(path, (None, None))
        if file is not None and owner is fit is not None:
            file._users += 1
            return file
        file = cls(directory, step)
        if fit is not None:
            _SHARED[path] = file, fit  # not what a `fit` has left that an exception ended
        return file

    def scalar(self, tag: str, value: float, step: int, description: str | None = None) -> None:
        """Writes a number."""
        self._summary(scalars.scalar_pb(tag, float(value), description), step)

    def histogram(self, tag: str, values: Any, step: int) -> None:
        """Writes how the numbers of an array are distributed."""
        self._summary(histograms.histogram_pb(tag, values), step)

    def image(self, tag: str, png: bytes, step: int) -> None:
        """Writes an image, the bytes of a PNG file."""
        size = struct.unpack(">II", png[16:24])  # where the format has width and height
        tensor = tensor_util.make_tensor_proto([*(str(n).encode() for n in size), png])
        metadata = image_metadata.create_summary_metadata(None, None)
        value = summary_pb2.Summary.Value(tag=tag, tensor=tensor, metadata=metadata)
        self._summary(summary_pb2.Summary(value=[value]), step)

    def hyper_parameters(
        self, values: dict[str, Any], metrics: Iterable, first: Collection[str] = ()
    ) -> None:
        """Begins a row of the HPARAMS tab.

        Args:
            values: Dictionary, name -> string, number or boolean.
            metrics: Pairs (sub-run, tag) of the scalars to show beside them.
            first: Names of the values whose columns come first.
        """
        columns = [
            api_pb2.HParamInfo(
                name=name,
                # The kind of filter that the tab offers; all numbers are of one.
                type=_TYPES.get(type(value), api_pb2.DATA_TYPE_FLOAT64),
                # TensorBoard sorts columns by their names, those that differ between rows first.
                differs=name in first,
            )
            for name, value in values.items()
        ]
        shown = [
            api_pb2.MetricInfo(
                name=api_pb2.MetricName(group=run, tag=tag),
                display_name=f"{run} {tag}".replace("/", " "),
            )
            for run, tag in metrics
        ]
        self._summary(hparams.experiment_pb(columns, shown), 0)
        # Without a group: the directory is the row's name, also once it is moved or copied.
        self._summary(hparams.session_start_pb(values), 0)

    def success(self) -> None:
        """Marks a row of the HPARAMS tab as a training that came to its end."""
        self._summary(hparams.session_end_pb(api_pb2.STATUS_SUCCESS), 0)

    def _summary(self, summary, step):
        self._add(step, summary=summary_pb2.Summary.FromString(summary.SerializeToString()))

    def close(self) -> None:
        """Closes the file, unless another callback still writes to it."""
        self._users -= 1
        if not self._users:
            for path in [path for path, (file, _) in _SHARED.items() if file is self]:
                del _SHARED[path]
            self._records.close()

    def _add(self, step, **content):
        event = event_pb2.Event(step=step, wall_time=time.time(), **content)
        self._records.write(event.SerializeToString())


class _Unbuffered:
    """A file that hands every record to the operating system at once, before we may be killed."""

    def __init__(self, path):
        self._path = path
        self._descriptor = os.open(path, os.O_WRONLY | os.O_APPEND | os.O_CREAT, 0o666)

    def write(self, data):
        try:
            while data:
                data = data[os.write(self._descriptor, data) :]
        except OSError as error:
            raise OSError(error.errno, error.strerror, self._path) from None

    def close(self):
        os.close(self._descriptor)


_SHARED: dict[str, tuple[EventFile, dict]] = {}  # directory -> its open file and the `fit`

_NUMBERS = itertools.count()  # tell apart the files that this process creates within one second


def _wait_for_the_last_place(directory):
    # Files are read in the order of their names, in which only the second is sure to grow.
    names = pathlib.Path(directory).glob("events.out.tfevents.*")
    seconds = {name.name.split(".")[3] for name in names}
    while str(int(time.time())) in seconds:
        time.sleep(0.02)


def read_scalars(directory: str | os.PathLike) -> dict[int, dict[str, float]]:
    """Reads a run's numbers as TensorBoard shows them: step -> tag -> value."""
    scalars: dict[int, dict[str, float]] = {}
    if not os.path.isdir(directory):
        return scalars
    events = EventAccumulator(os.fspath(directory), tensor_size_guidance={"scalars": 0})  # 0: all
    events.Reload()
    for tag in events.Tags()["tensors"]:
        if events.SummaryMetadata(tag).plugin_data.plugin_name == "scalars":
            for event in events.Tensors(tag):
                value = float(tensor_util.make_ndarray(event.tensor_proto))
                scalars.setdefault(event.step, {})[tag] = value
    return scalars
