"""The fixed native functions: has a tensor moved, the norm of gradients, scaling them in place."""

from numba import float32, float64, int64, types

import steepest.kernels.job as J
from steepest.kernels.intrinsics import (
    call,
    chunk_at,
    entry,
    inner,
    pointer_float32,
    pointer_float64,
    pointer_int32,
    pointer_int64,
    summing,
    take,
)

# ---- has anything moved? ------------------------------------------------------------------------

_get = types.int32(types.int64, types.int64)
get_dtype = types.ExternalFunction("aoti_torch_get_dtype", _get)
get_dim = types.ExternalFunction("aoti_torch_get_dim", _get)
get_sizes = types.ExternalFunction("aoti_torch_get_sizes", _get)
get_strides = types.ExternalFunction("aoti_torch_get_strides", _get)
get_data = types.ExternalFunction("aoti_torch_get_data_ptr", _get)
bump_version = types.ExternalFunction("steepest_bump_version", types.void(types.int64))
grad_of = types.ExternalFunction("steepest_grad", types.int64(types.int64))
parallel_for = types.ExternalFunction(
    "torch_parallel_for",
    types.int32(types.int64, types.int64, types.int64, types.int64, types.int64),
)


@inner
def mix(total, value):
    """Fold a value into a 64-bit print (FNV-1a's prime, with a shift to spread high bits)."""
    total = (total ^ value) * int64(0x100000001B3)
    return total ^ (total >> 29)


@inner
def tensor_of(thing, job):
    """Return where an object keeps its C++ tensor; 0 for what is no tensor of a plain type."""
    kind = pointer_int64(thing + job[J.KIND])[0]
    if kind != job[J.TENSOR] and kind != job[J.PARAMETER]:
        return int64(0)
    return thing + job[J.HANDLE]


@inner
def layout_of(handle, job):
    """Print a C++ tensor's dtype, sizes and strides; 0 for what is no plain tensor."""
    if handle == 0:
        return int64(0)
    scratch = job[J.SCRATCH]
    out, out32 = pointer_int64(scratch), pointer_int32(scratch)
    tensor = pointer_int64(handle)[0]
    if pointer_int64(tensor + job[J.KEYS])[0] != job[J.PLAIN]:
        return int64(0)  # sparse, elsewhere, with a sign to turn, under a transform, ...
    get_dtype(handle, scratch)
    total = mix(int64(-3750763034362895579), int64(out32[0]))
    get_dim(handle, scratch)
    dim = out[0]
    total = mix(total, dim)
    get_sizes(handle, scratch)
    sizes = out[0]
    get_strides(handle, scratch)
    strides = out[0]
    for k in range(dim):
        total = mix(total, pointer_int64(sizes)[k])
        total = mix(total, pointer_int64(strides)[k])
    return total


@inner
def address_of(handle, job):
    """Return the address of a C++ tensor's first element."""
    out = pointer_int64(job[J.SCRATCH])
    out[0] = -1
    get_data(handle, job[J.SCRATCH])
    return out[0]


@inner
def is_written(first, last, job):
    """Tell whether the kernel writes anywhere in the range, by bisection."""
    ranges = pointer_int64(job[J.WRITTEN])
    low, high = int64(0), job[J.WRITTEN_COUNT]
    while low < high:
        middle = (low + high) // 2
        if ranges[2 * middle + 1] <= first:
            low = middle + 1
        else:
            high = middle
    return low < job[J.WRITTEN_COUNT] and ranges[2 * low] < last


@entry
def learn(grads, unused, address):
    """Record the prints of every object, and of the gradients."""
    job = pointer_int64(address)
    objects, prints = pointer_int64(job[J.OBJECTS]), pointer_int64(job[J.PRINTS])
    for k in range(job[J.OBJECT_COUNT]):
        handle = tensor_of(objects[k], job)
        prints[2 * k] = layout_of(handle, job)
        prints[2 * k + 1] = address_of(handle, job)
    things, layouts = pointer_int64(grads), pointer_int64(job[J.GRAD_PRINTS])
    for r in range(job[J.ROW_COUNT]):
        layouts[r] = layout_of(tensor_of(things[r], job), job)
    return 0


@entry
def moved(grads, kernel, address):
    """Tell whether a tensor of a job is not what and where it was; take new gradients' addresses.

    `grads` is the address of pointers to the gradients' objects, or 0 to take those that the
    parameters have; no thread may drop them meanwhile, so Python's lock is held. Returns 0 when
    the job can run, having run `kernel` unless that is 0; else 1.
    """
    job = pointer_int64(address)
    objects, prints = pointer_int64(job[J.OBJECTS]), pointer_int64(job[J.PRINTS])
    for k in range(job[J.OBJECT_COUNT]):
        handle = tensor_of(objects[k], job)
        layout = layout_of(handle, job)
        if layout == 0 or layout != prints[2 * k]:
            return 1
        if prints[2 * k + 1] != address_of(handle, job):
            return 1
    rows, width = pointer_int64(job[J.ROWS]), job[J.ROW_WIDTH]
    things, layouts = pointer_int64(grads), pointer_int64(job[J.GRAD_PRINTS])
    steps, lengths = pointer_float32(job[J.STEPS]), pointer_int64(job[J.LENGTHS])
    count, numbers = job[J.NUMBER_COUNT], pointer_int64(job[J.NUMBERS])
    for r in range(job[J.ROW_COUNT]):
        row = r * width
        if rows[row + 1] != 0 and pointer_float32(rows[row + 1])[0] != steps[rows[row]]:
            return 1
        for k in range(count):  # compared as bits: NaN is what it is
            place = rows[row + width - count + k]
            if pointer_int64(place)[0] != numbers[rows[row] * count + k]:
                return 1
        if grads != 0:
            handle = tensor_of(things[r], job)
        else:
            handle = grad_of(pointer_int64(objects[r] + job[J.HANDLE])[0])
        layout = layout_of(handle, job)
        if layout == 0 or layout != layouts[r]:
            return 1
        here = address_of(handle, job)
        if here != rows[row + J.GRAD]:
            if is_written(here, here + lengths[r], job) or (here <= 0 and lengths[r] > 0):
                return 1
            rows[row + J.GRAD] = here
    job[J.NEXT] = 0
    if kernel != 0:
        call(kernel, 0, 0, address)
        bump_versions(objects, job)
    return 0


@entry
def in_parallel(begin, end, address):
    """Run the job's kernel by torch's threads."""
    job = pointer_int64(address)
    parallel_for(0, job[J.CHUNK_COUNT], 1, job[J.KERNEL], address)
    return 0


@inner
def bump_versions(things, job):
    """Count a change of the first tensors, one for each row: autograd refuses a backward through
    what was changed since the forward."""
    for r in range(job[J.ROW_COUNT]):
        bump_version(things[r] + job[J.HANDLE])


@entry
def finish(things, kernel, address):
    """Run `kernel` unless that is 0; count a change of the tensors at `things`, one a row."""
    job = pointer_int64(address)
    if kernel != 0:
        job[J.NEXT] = 0
        call(kernel, 0, 0, address)
    bump_versions(pointer_int64(things), job)
    return 0


# ---- norms and scaling of gradients -------------------------------------------------------------


@inner
def gradient(chunk, job):
    """Return the address and the length of a chunk of gradient."""
    row, start, n = chunk_at(chunk, job)
    return pointer_int64(row)[J.GRAD] + start * job[J.ITEM_SIZE], n


@summing
def squares_float32(n, x):
    total = float64(0)
    for i in range(n):
        total += float64(x[i]) * float64(x[i])
    return total


@summing
def squares_float64(n, x):
    total = float64(0)
    for i in range(n):
        total += x[i] * x[i]
    return total


@entry
def squares(begin, end, address):
    """Sum the squares of the gradients, each chunk apart."""
    job = pointer_int64(address)
    partials = pointer_float64(job[J.PARTIALS])
    chunk = take(address)
    while chunk < job[J.CHUNK_COUNT]:
        place, n = gradient(chunk, job)
        if job[J.ITEM_SIZE] == 4:
            partials[chunk] = squares_float32(n, pointer_float32(place))
        else:
            partials[chunk] = squares_float64(n, pointer_float64(place))
        chunk = take(address)
    return 0


@inner
def multiply(n, x, factor):
    for i in range(n):
        x[i] = x[i] * factor


@inner
def bound(n, x, limit):
    for i in range(n):
        value = x[i]
        value = -limit if value < -limit else value
        x[i] = limit if value > limit else value


@inner
def change(loop, address):
    """Run a loop over the gradients' elements, in place, with the job's first scalar."""
    job = pointer_int64(address)
    scalar = pointer_float64(job[J.SCALARS])[0]
    chunk = take(address)
    while chunk < job[J.CHUNK_COUNT]:
        place, n = gradient(chunk, job)
        if job[J.ITEM_SIZE] == 4:
            loop(n, pointer_float32(place), float32(scalar))
        else:
            loop(n, pointer_float64(place), scalar)
        chunk = take(address)


@entry
def scale(begin, end, address):
    """Multiply the gradients by the job's first scalar, in place."""
    change(multiply, address)
    return 0


@entry
def clamp(begin, end, address):
    """Bound the gradients to plus and minus the job's first scalar, in place."""
    change(bound, address)
    return 0
