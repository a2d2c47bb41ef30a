"""Kernels that do not import the same packages a hundred times: each is forked from a server that holds them, and nothing else.

The server has imported what others have written and no cell of a notebook has run in it, nor a line of ours: each notebook
has a process, a namespace and an `alphaplus_ml` of its own, as in any fresh kernel. What a package warns of while it is
imported is not seen here; `tests/test_experiments.py` and the commands in the prose start their processes from nothing."""
import atexit
import gc
import multiprocessing
import os
import sys
from pathlib import Path

from jupyter_client.manager import AsyncKernelManager
from jupyter_client.provisioning import LocalProvisioner

# pyplot and tqdm are not among them: on import they ask whether they stand in a notebook
packages = ("ipykernel.kernelapp", "ipykernel.ipkernel", "jupyter_client.provisioning", "matplotlib.figure", "matplotlib.backends.backend_agg",
            "pandas", "polars", "scipy.stats", "scipy.signal", "sklearn.pipeline", "sklearn.linear_model", "sklearn.ensemble", "sqlalchemy.orm", "alembic.command",
            "pydantic_settings", "nbformat", "lightgbm", "statsmodels.api", "arch.bootstrap")


def run_kernel(words, environment, folder):
    "A kernel from beginning to end, in the process that was forked for it"
    gc.freeze()                        # what the server holds is nobody's garbage
    os.environ.clear()
    os.environ.update(environment)
    os.chdir(folder)
    os.setsid()
    sys.path[:] = [path for path in sys.path if path != str(Path(__file__).parent)]
    sys.argv = ["ipykernel_launcher.py", *words]
    import pandas as pd
    from ipykernel.kernelapp import launch_new_instance
    pd.set_option("display.max_columns", 20)   # what pandas takes when it is imported in a kernel
    try: launch_new_instance(argv=words)
    finally: atexit._run_exitfuncs()   # a forked process would end without them


class Forked:
    "A process of multiprocessing with the words of subprocess"
    stdin = stdout = stderr = None
    def __init__(self, words, environment, folder):
        context = multiprocessing.get_context("forkserver")
        context.set_forkserver_preload(list(packages))
        self.process = context.Process(target=run_kernel, args=(words, environment, str(folder)))
        self.process.start()
        self.pid = self.process.pid
    def poll(self): return self.process.exitcode
    def wait(self):
        self.process.join()
        return self.process.exitcode
    def send_signal(self, number): os.kill(self.pid, number)
    def terminate(self): self.process.terminate()
    def kill(self): self.process.kill()


class ForkedProvisioner(LocalProvisioner):
    "Forks a kernel instead of starting an interpreter for it"
    async def launch_kernel(self, cmd, **options):
        words = cmd[next(place for place, word in enumerate(cmd) if word.startswith("-f")):]
        self.process = Forked(words, options["env"], options["cwd"])
        self.pid, self.cwd = self.process.pid, options["cwd"]
        return self.connection_info


class WarmKernelManager(AsyncKernelManager):
    "For nbclient's `kernel_manager_class`"
    async def _async_pre_start_kernel(self, **options):
        if self.provisioner is None: self.provisioner = ForkedProvisioner(kernel_id=self.kernel_id, kernel_spec=self.kernel_spec, parent=self)
        return await super()._async_pre_start_kernel(**options)
    pre_start_kernel = _async_pre_start_kernel
