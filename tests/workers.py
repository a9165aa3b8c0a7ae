"""Runs a function of a test module on real Horovod workers, and returns their results."""

import importlib.util
import os
import pathlib
import pickle
import subprocess
import sys
import tempfile

import pytest

ROOT = pathlib.Path(__file__).resolve().parents[1]


def run(function, count, *arguments, timeout=600):
    """Calls `function(*arguments)` on `count` workers.

    Args:
        function: A function at the top level of a test module.
        count: Number of workers.
        *arguments: The function's arguments, which must be picklable.
        timeout: Seconds until the test fails.

    Returns:
        List of the workers' return values, in the order of their ranks.
    """
    if importlib.util.find_spec("horovod") is None:
        pytest.skip("needs Horovod")
    with tempfile.TemporaryDirectory() as folder:
        call = pathlib.Path(folder) / "call"
        module = pathlib.Path(sys.modules[function.__module__].__file__)
        call.write_bytes(pickle.dumps((str(module), function.__name__, arguments)))
        launcher = pathlib.Path(sys.executable).parent / "horovodrun"
        environment = {
            **os.environ,
            "PYTHONPATH": str(ROOT),
            "TF_CPP_MIN_LOG_LEVEL": "2",
            # On a busy machine the workers are ready minutes apart.
            "HOROVOD_GLOO_TIMEOUT_SECONDS": "300",
        }
        process = subprocess.run(
            [launcher, "-np", str(count), "--gloo", sys.executable, __file__, folder],
            env=environment,
            cwd=ROOT,
            capture_output=True,
            text=True,
            timeout=timeout,
        )
        assert process.returncode == 0, process.stdout[-4000:] + process.stderr[-4000:]
        return [
            pickle.loads((pathlib.Path(folder) / f"result{rank}").read_bytes())
            for rank in range(count)
        ]


def _work(folder):
    """Runs one worker."""
    folder = pathlib.Path(folder)
    path, name, arguments = pickle.loads((folder / "call").read_bytes())
    spec = importlib.util.spec_from_file_location("work", path)
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    from tfadv import distributed

    distributed.init()
    result = getattr(module, name)(*arguments)
    (folder / f"result{distributed.rank()}").write_bytes(pickle.dumps(result))


if __name__ == "__main__":
    _work(sys.argv[1])
