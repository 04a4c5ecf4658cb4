"""The fields of a job: the array of int64 through which Python and native code talk.

launch.py fills it, native.py and every generated kernel read it. Fields hold counts and addresses.
"""

import itertools

_field = itertools.count()

NEXT = next(_field)
"""The next chunk to take; threads share it."""
CHUNK_COUNT = next(_field)
CHUNKS = next(_field)
"""Address of chunks: CHUNK_WIDTH int64 each, (row, first element, elements)."""
ROW_COUNT = next(_field)
ROW_WIDTH = next(_field)
ROWS = next(_field)
"""Address of rows: (part, address of the step tensor or 0, addresses of p, g, states and arrays
between stages, addresses of the states of one number)."""
SCALAR_WIDTH = next(_field)
SCALARS = next(_field)
"""Address of float64 scalars, SCALAR_WIDTH for each part: (step, scale of g, the new states of one
number, hoisted ...)."""
PARTIALS = next(_field)
"""Address of float64, one for each chunk: its sum of squares."""
SUMS = next(_field)
"""Address of float64: for each chunk, what the running stage sums over it."""
WHOLES = next(_field)
"""Address of float64, WHOLE_WIDTH for each row: the numbers that earlier stages have summed."""
WHOLE_WIDTH = next(_field)
MATRICES = next(_field)
"""Address of int64: for each row, how many rows and columns its tensor's matrices have."""
NUMBER_COUNT = next(_field)
NUMBERS = next(_field)
"""Address of 64-bit words: for each part, the numbers that its rows' state tensors must hold."""
ITEM_SIZE = next(_field)
"""4 for float32, 8 for float64."""
OBJECT_COUNT = next(_field)
OBJECTS = next(_field)
"""Address of pointers to the tensor objects that last: p of each row, then states and steps."""
PRINTS = next(_field)
"""Address of their prints: (layout, address) each."""
GRAD_PRINTS = next(_field)
"""Address of the layouts of the gradients, one for each row."""
LENGTHS = next(_field)
"""Address of int64: the bytes of each row's tensors."""
STEPS = next(_field)
"""Address of float32: for each part, the step that its rows' step tensors must hold."""
WRITTEN_COUNT = next(_field)
WRITTEN = next(_field)
"""Address of the sorted ranges that the kernel writes: (first, last + 1) each."""
HANDLE = next(_field)
"""Offset of the C++ tensor inside a tensor object, in bytes."""
KIND = next(_field)
"""Offset of the type inside an object, in bytes."""
TENSOR = next(_field)
"""Address of the type torch.Tensor."""
PARAMETER = next(_field)
"""Address of the type torch.nn.Parameter."""
KEYS = next(_field)
"""Offset of the dispatch keys inside a C++ tensor, in bytes."""
PLAIN = next(_field)
"""The dispatch keys of a plain tensor: dense, on the CPU, no sign or conjugation left to turn."""
KERNEL = next(_field)
"""Address of the kernel that `in_parallel` runs."""
SCRATCH = next(_field)
"""Address of four int64 to receive results in."""

LENGTH = next(_field)
"""How many fields a job has."""

CHUNK_WIDTH = 3
P, GRAD = 2, 3
"""Places in a row: its part is 0, the address of its step tensor 1, states follow the gradient."""
FIRST_SCALAR = 2
"""Place of a part's first number: the step is 0, the gradient's scale 1."""
