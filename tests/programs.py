"""Runs programs of this project, each in a process of its own that need not import torch again.

Importing torch and transformers takes most of the time of a tiny run. Each pytest process therefore has a fork server
that imports these libraries once, and every program is a fork of the server. A program has its own arguments,
environment, folder, input and output, and may die without harm to the test process.
"""

import atexit
import multiprocessing
import os
import runpy
import subprocess
import sys
import tempfile
from pathlib import Path

from tests.conftest import ROOT

# Modules of this project are not preloaded: a preloaded module would hide an import that a program lacks.
LIBRARIES = [
    *("torch", "torch.distributed.checkpoint", "transformers", "transformers.generation.utils", "accelerate", "hydra"),
    *("transformers.models.auto.modeling_auto", "transformers.models.auto.tokenization_auto", "sympy", "gymnasium"),
    *("transformers.models.llama.modeling_llama", "rich.live", "matplotlib.pyplot", "plotly.graph_objects"),
]
_context = multiprocessing.get_context("forkserver")
_context.set_forkserver_preload(LIBRARIES)


def run(module, *arguments, cwd=ROOT, env=None, input=""):
    """Runs ``python -m module arguments`` and returns what :func:`subprocess.run` would, with the output as text."""
    with tempfile.TemporaryDirectory() as folder:
        streams = [Path(folder) / name for name in ("stdin", "stdout", "stderr")]
        streams[0].write_text(input)
        process = start(program, module, arguments, cwd, dict(os.environ if env is None else env), streams)
        process.join()
        out, err = (path.read_text() for path in streams[1:])
    return subprocess.CompletedProcess([module, *arguments], process.exitcode, out, err)


def start(target, *arguments):
    """Calls an importable function in a fork of the server and returns the ``multiprocessing.Process``."""
    process = _context.Process(target=target, args=arguments)
    process.start()
    return process


def program(module, arguments, cwd, env, streams):
    """Runs a module as a program; ``streams`` are the files that serve as its standard input, output and error."""
    for number, (path, mode) in enumerate(zip(streams, "rww", strict=True)):
        with path.open(mode) as file:
            os.dup2(file.fileno(), number)
    sys.stdin, sys.stdout, sys.stderr = (os.fdopen(number, mode, closefd=False) for number, mode in enumerate("rww"))
    os.environ.clear()
    os.environ.update(env)
    os.chdir(cwd)
    sys.path[:0] = [str(cwd), *filter(None, env.get("PYTHONPATH", "").split(os.pathsep))]
    sys.argv = [module, *arguments]
    try:
        runpy.run_module(module, run_name="__main__", alter_sys=True)
    finally:
        atexit._run_exitfuncs()  # a process of multiprocessing ends without calling the functions given to atexit
        sys.stdout.flush()
        sys.stderr.flush()
