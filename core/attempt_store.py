"""How the processes that torchrun started find each other, also after a restart."""

import time
import uuid
from datetime import timedelta

from torch.distributed import PrefixStore, Store
from torch.distributed.rendezvous import rendezvous


def attempt_store(timeout: timedelta) -> tuple[Store, int, int]:
    """A key-value store that the processes of this attempt share with no earlier one -> (store, rank, world).

    timeout: of each request, and for all processes to be there. After a restart torchrun hands out the
    store of the attempt before, full of the addresses of processes that are dead, and its count of restarts differs
    from node to node (https://github.com/pytorch/pytorch/issues/135712). So this attempt gets a prefix of its own.
    """
    store, rank, world = next(rendezvous("env://", timeout=timeout))
    return PrefixStore(agree_on_prefix(store, rank, world, timeout), store), rank, world


def agree_on_prefix(store: Store, rank: int, world: int, timeout: timedelta) -> str:
    """A text that is the same in all processes of this attempt and was never used before.

    Every process asks under a name of its own, new each time, which only a living rank 0 can have answered.
    """
    name = uuid.uuid4().hex
    if rank > 0:
        store.set(f"name/{rank}", name)
        prefix = store.get(f"prefix for {name}").decode()
        store.set(f"{prefix}/heard by {rank}", "")
        return prefix
    waiting, deadline = set(range(1, world)), time.monotonic() + timeout.total_seconds()
    while waiting:
        for other in waiting:
            if store.check([f"name/{other}"]):  # perhaps of a dead process, until the new one writes its own
                store.set(f"prefix for {store.get(f'name/{other}').decode()}", name)
        waiting = {other for other in waiting if not store.check([f"{name}/heard by {other}"])}
        if time.monotonic() > deadline:
            raise TimeoutError(f"of {world} processes, ranks {sorted(waiting)} have not come in {timeout}")
        time.sleep(0.02)
    return name
