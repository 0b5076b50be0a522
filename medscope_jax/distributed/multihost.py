"""Several processes as one run: how they meet, wait for each other and share their arrays.

Every process runs the same program on the same config, sees the same folders, and does the same
steps in the same order. With one process nothing here does more than JAX's own functions.
"""

import atexit
import contextlib
import functools
import os
import sys
from collections.abc import Callable, Iterator, Mapping
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import orbax.checkpoint as ocp
from jax.experimental import multihost_utils
from jax.sharding import AxisType, Mesh, NamedSharding, PartitionSpec

from medscope_jax.distributed.sharding import batch_shardings, replicated
from medscope_jax.errors import UserError, one_line

# A process that is not heard of for so long, in seconds, is dead, and so is the run. It is also
# what a process waits for the others when it ends.
LOST_AFTER = 30
# Milliseconds that a process waits for others that prepare things: ten years. It ends sooner where
# one of them does.
_EVER = 10 * 365 * 86_400_000
_VARIABLES = ("JAX_COORDINATOR_ADDRESS", "JAX_NUM_PROCESSES", "JAX_PROCESS_ID")


def join_processes(cluster: bool, environment: Mapping[str, str] = os.environ) -> None:
    """Makes this process one of a run's; to be called before anything asks for devices.

    Args:
      cluster: what the processes are is found out from the cluster that started them (a TPU pod,
        Slurm, Open MPI, Kubernetes), as jax.distributed.initialize does.
      environment: where JAX_COORDINATOR_ADDRESS (host:port of process 0) is set, it counts, with
        JAX_NUM_PROCESSES and JAX_PROCESS_ID. With neither, the process is alone.

    Raises:
      UserError: variables are missing or no numbers, or the processes do not find each other.
    """
    arguments: dict[str, Any] = {}
    if environment.get(_VARIABLES[0]):
        address, *numbers = (environment.get(name, "") for name in _VARIABLES)
        if not all(number.isdecimal() for number in numbers):
            raise UserError(
                f"{_VARIABLES[0]} is set, so {_VARIABLES[1]} and {_VARIABLES[2]} must be numbers; "
                f"they are {numbers[0]!r} and {numbers[1]!r}"
            )
        count, index = map(int, numbers)
        if not index < count:
            raise UserError(f"{_VARIABLES[2]} is {index}; of {count} processes it must be below")
        arguments = {"coordinator_address": address, "num_processes": count, "process_id": index}
    elif not cluster:
        return
    # Its handler of SIGTERM would take the place of ours, which also hears Ctrl-C.
    jax.config.update("jax_enable_preemption_service", False)
    try:
        jax.distributed.initialize(
            **arguments,
            heartbeat_timeout_seconds=LOST_AFTER,
            shutdown_timeout_seconds=LOST_AFTER,
        )
    except (ValueError, RuntimeError) as error:
        raise UserError(f"the run's processes do not find each other: {one_line(error)}") from error


def is_first() -> bool:
    """Whether this process is the one that writes what is written once."""
    return jax.process_index() == 0


@contextlib.contextmanager
def first_process_first(name: str) -> Iterator[None]:
    """Process 0 goes through the context before all others do.

    name: of no other call. The others wait as long as process 0 lives.
    """
    if not is_first():
        meet(name)
    yield
    if is_first():
        meet(name)


def meet(name: str) -> None:
    """Waits until all processes are here, however long that takes, as long as all of them live.

    name: of no other call.
    """
    ocp.multihost.get_barrier_sync_fn()(key=name, timeout_ms=_EVER)


@contextlib.contextmanager
def leaving_at_once() -> Iterator[None]:
    """A process of several that fails inside ends with its error at once.

    JAX would have it wait for the others first, who wait for its part of a sum.
    """
    try:
        yield
    except Exception as error:
        if jax.distributed.is_initialized():
            # What is registered last runs first: before JAX's own.
            atexit.register(_leave, getattr(error, "status", 1))
        raise


def _leave(status: int) -> None:
    sys.stdout.flush()
    sys.stderr.flush()
    os._exit(status)


class Consensus:
    """Whether any process raises its flag, asked by all processes together, again and again.

    The answer tells of flags up to the call before: asking waits for no device that has just been
    given a step. One process hears itself at once.
    """

    def __init__(self):
        """Starts with no flag under way."""
        self._pending: jax.Array | None = None

    def __call__(self, flag: bool) -> bool:
        """Adds this process's flag; True on all processes after the same call."""
        if jax.process_count() == 1:
            return flag
        before, self._pending = self._pending, _any(flag)
        return before is not None and bool(np.asarray(before))


def _any(flag: bool) -> jax.Array:
    """Whether any process's flag is set, on its way: a replicated bool []."""
    mesh, any_of = _any_of()
    flags = np.full(jax.local_device_count(), flag)
    sharding = NamedSharding(mesh, PartitionSpec("all"))
    return any_of(jax.make_array_from_process_local_data(sharding, flags, (mesh.size,)))


@functools.cache
def _any_of() -> tuple[Mesh, Callable]:
    """(a mesh of all devices, the compiled `any`, its result a copy on every device)."""
    mesh = Mesh(np.asarray(jax.devices()), ("all",), axis_types=(AxisType.Auto,))
    return mesh, jax.jit(jnp.any, out_shardings=replicated(mesh))


def local_rows(mesh: Mesh, size: int) -> np.ndarray:
    """Numbers [R] of those rows of a batch of `size` that this process's devices need, ascending.

    Devices along a tensor axis share rows, so that several processes may need the same ones.
    """
    sharding = batch_shardings(jax.ShapeDtypeStruct((size,), jnp.int32), mesh)
    places = sharding.addressable_devices_indices_map((size,)).values()
    return np.array(sorted({row for (part,) in places for row in range(*part.indices(size))}))


def row_blocks(mesh: Mesh, size: int) -> int | None:
    """How many equal blocks of consecutive rows the processes' `local_rows` are; None: no such.

    Processes whose devices need the same rows share a block.
    """
    sharding = batch_shardings(jax.ShapeDtypeStruct((size,), jnp.int32), mesh)
    rows: dict[int, set[int]] = {}
    for device, (part,) in sharding.devices_indices_map((size,)).items():
        rows.setdefault(device.process_index, set()).update(range(*part.indices(size)))
    blocks = sorted({tuple(sorted(found)) for found in rows.values()})
    in_order = [row for block in blocks for row in block] == list(range(size))
    return len(blocks) if in_order and len(set(map(len, blocks))) == 1 else None


def put_batch(batch: Any, mesh: Mesh, size: int) -> Any:
    """A batch of which each process holds its `local_rows` on the host, as arrays of the mesh.

    Args:
      batch: pytree of arrays [R, ...].
      size: rows of the whole batch.
    """
    if jax.process_count() == 1:
        return jax.device_put(batch, batch_shardings(batch, mesh))
    rows = local_rows(mesh, size)
    shapes = jax.tree.map(lambda x: jax.ShapeDtypeStruct((size, *x.shape[1:]), x.dtype), batch)

    def place(leaf, shape, sharding):
        def part(index):
            first, last, _ = index[0].indices(size)
            begin = np.searchsorted(rows, first)
            return np.asarray(leaf)[(slice(begin, begin + last - first), *index[1:])]

        return jax.make_array_from_callback(shape.shape, sharding, part)

    return jax.tree.map(place, batch, shapes, batch_shardings(shapes, mesh))


def put(tree: Any, shardings: Any) -> Any:
    """jax.device_put of what every process holds in whole, on the host or on a device of its own.

    Unlike device_put, it does not compare the processes' values, which would cost a transfer each.
    """
    return jax.device_put(tree, shardings) if jax.process_count() == 1 else _put(tree, shardings)


def put_parts(make: Callable[[np.ndarray], Any], shapes: Any, shardings: Any) -> Any:
    """Arrays of the mesh, of which every process makes those rows alone that its devices take.

    Args:
      make: numbers of rows [R], a range -> a tree of them on the host, [R, ...]; called once for
        rows that several devices take.
      shapes: tree of ShapeDtypeStruct [P, ...], of the result.
      shardings: of the result.
    """
    made: dict[tuple[int, int], list[np.ndarray]] = {}

    def place(number, shape, sharding):
        def part(index):
            first, last, _ = index[0].indices(shape.shape[0])
            if (first, last) not in made:
                made[first, last] = jax.tree.leaves(make(np.arange(first, last)))
            return made[first, last][number][(slice(None), *index[1:])]

        return jax.make_array_from_callback(shape.shape, sharding, part)

    numbers = iter(range(len(jax.tree.leaves(shapes))))
    return jax.tree.map(lambda *leaf: place(next(numbers), *leaf), shapes, shardings)


def replicate(tree: Any, mesh: Mesh) -> Any:
    """What every process holds in whole, as an argument of the mesh's programs.

    With one process it is left where it is: the programs take it from there.
    """
    if jax.process_count() == 1:
        return tree
    return _put(tree, jax.tree.map(lambda _: replicated(mesh), tree))


def _put(tree: Any, shardings: Any) -> Any:
    def place(leaf, sharding):
        if isinstance(leaf, jax.Array) and not leaf.is_fully_addressable:
            return jax.device_put(leaf, sharding)
        if isinstance(leaf, jax.Array) and jnp.issubdtype(leaf.dtype, jax.dtypes.prng_key):
            data = place(jax.random.key_data(leaf), sharding)
            return jax.random.wrap_key_data(data, impl=jax.random.key_impl(leaf))
        value = np.asarray(leaf)
        return jax.make_array_from_callback(value.shape, sharding, lambda index: value[index])

    return jax.tree.map(place, tree, shardings)


def addressable_copy(leaf: jax.Array) -> jax.Array:
    """A replicated array (or random key) of the mesh, on a device of this process alone.

    With one process it is left where it is.
    """
    if jax.process_count() == 1:
        return leaf
    if jnp.issubdtype(leaf.dtype, jax.dtypes.prng_key):
        data = addressable_copy(jax.random.key_data(leaf))
        return jax.random.wrap_key_data(data, impl=jax.random.key_impl(leaf))
    return jnp.asarray(np.asarray(leaf))


def gather(tree: Any) -> Any:
    """jax.device_get, on every process, of arrays that lie on all processes' devices."""
    return jax.device_get(jax.tree.map(_whole, tree) if jax.process_count() > 1 else tree)


def _whole(leaf: Any) -> Any:
    if not isinstance(leaf, jax.Array) or leaf.is_fully_addressable or leaf.is_fully_replicated:
        return leaf
    return multihost_utils.process_allgather(leaf, tiled=True)


def broadcast(values: np.ndarray) -> np.ndarray:
    """What process 0 holds, on every process; the others give anything of its shape and type."""
    return multihost_utils.broadcast_one_to_all(values) if jax.process_count() > 1 else values
