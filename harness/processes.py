"""More than one process: torchrun's, which share every batch, and jobs side by side."""
import multiprocessing
import os
import pickle
import signal
import sys
import tempfile
import threading
from concurrent.futures import ProcessPoolExecutor, as_completed

import torch
import torch.distributed as dist

from harness.files import Refused

# --------------------------------------------------------------------------- torchrun


def rank_and_size():
    """(number of this process, how many there are): (0, 1) unless torchrun started several."""
    return (dist.get_rank(), dist.get_world_size()) if dist.is_initialized() else (0, 1)


def join_torchrun(device):
    """Join the other processes of a torchrun, if that is what started this one."""
    if "LOCAL_RANK" not in os.environ:
        return
    local, n_gpus = int(os.environ["LOCAL_RANK"]), torch.cuda.device_count()
    if device == "cuda" and local >= n_gpus:
        raise ValueError(f"--nproc_per_node: more processes than the {n_gpus} GPUs here")
    if device == "cuda":
        torch.cuda.set_device(local)
    dist.init_process_group("nccl" if device == "cuda" else "gloo")
    if dist.get_rank() > 0:
        sys.stdout = open(os.devnull, "w")       # the first speaks for all


def total(tensors):
    """Sum each tensor over all processes, in place; one process does nothing."""
    if dist.is_initialized():
        for handle in [dist.all_reduce(t, async_op=True) for t in tensors]:
            handle.wait()


def agree(found):
    """Refused unless all processes found the same: else one would train while another, which has
    nothing to train, waits for ever. found: anything that compares, such as a stage's name, made of
    the rows as this process read them, and its step."""
    if dist.is_initialized():
        everyones = [None] * dist.get_world_size()
        dist.all_gather_object(everyones, found)
        if any(f != found for f in everyones):
            raise Refused("--cache, --data: the processes do not find the same files there; they "
                          "need one disk, and no other command at work on it: start again")


def leave(code):
    """End this process of a torchrun. If all went well, wait for the others first."""
    if code == 0:
        dist.barrier()
    sys.stdout.flush()
    os._exit(code)                 # gloo's threads abort now and then at a normal end


# --------------------------------------------------------------------------- jobs side by side

def cores():
    """How many cores this process may use."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count()


def prepare_worker(threads):
    """In a new worker: its threads, and an end with its parent, however that one ends."""
    torch.set_num_threads(threads)
    signal.signal(signal.SIGINT, signal.SIG_IGN)        # the parent is told, and ends its workers
    parent = multiprocessing.parent_process()
    threading.Thread(target=lambda: (parent.join(), os._exit(1)), daemon=True).start()


def done(path):
    """The result of the job in a file, as bytes: torch would hand over tensors by a socket in
    TMPDIR, whose path may have 107 letters at most. The file is deleted at once, since the parent
    may be killed before it can."""
    with open(path, "rb") as f:
        function, job = pickle.load(f)
    os.remove(path)
    return pickle.dumps(function(*job))


def side_by_side(function, jobs, workers, threads):
    """Yield (i, function(*jobs[i])) as they end, from `workers` processes of `threads` threads.

    function must be importable by name, its arguments and results picklable. If it raises, or this
    process is interrupted or killed, the other jobs are ended. Jobs are handed over in files: if a
    worker died while it read a large one from a pipe, this process would hang (Python 3.11).
    """
    if not jobs:
        return
    pool = ProcessPoolExecutor(min(workers, len(jobs)), multiprocessing.get_context("spawn"),
                               prepare_worker, (threads,))
    with tempfile.TemporaryDirectory() as folder:
        try:
            futures = {}
            for i, job in enumerate(jobs):
                with open(path := os.path.join(folder, str(i)), "wb") as f:
                    pickle.dump((function, job), f)
                futures[pool.submit(done, path)] = i
            for future in as_completed(futures):
                yield futures[future], pickle.loads(future.result())
        except BaseException:
            for process in multiprocessing.active_children():   # the pool may not know all yet
                process.kill()
            raise
        finally:
            pool.shutdown(cancel_futures=True)
