"""A Keras model as a graph of calls.

`_trace` writes a model out as calls (`_calls`), with those inside composite layers (`_composite`, `_sizes`);
`_subclassed` makes one call of a model that cannot be written out. Only `_access` reads private parts of Keras.
`_memory` counts what calls hold in memory. `_backend` refuses other backends. `_compile` compiles functions and runs
them in batches.
"""

# ruff: noqa: F401 (the names are for other packages)

from . import _backend  # isort: skip (before the others, which import TensorFlow)
from ._access import (
    all_layers,
    attention_projections,
    call_name,
    compile_settings,
    is_opaque,
    metric_direction,
    metric_function,
    names_restored,
    operation_names,
    patched,
    quantization_of,
    refresh_shapes,
    replace_sublayer,
    replaced_method,
    schedule_of,
    seed_states,
    settings_in,
    sharing_scope,
    sublayers,
    take_over,
    variables_of,
    without_values,
)
from ._calling import BATCH, batch_size_of, call_model, call_outputs
from ._calls import Call, Graph, Ref, Shape
from ._compile import compiled, map_batches, run_batches, traced
from ._composite import keep_as_one_call, qualified_name
from ._memory import MOST_FLOATS, floats_per_row, rows_that_fit, size_of
from ._padding import with_same_masks
from ._sizes import Size, SizedOperation
from ._timesteps import (
    at_positions,
    by_row,
    channel_means,
    counted_steps,
    measured_as,
    packed,
    row_weights,
    step_mask,
    unpacked,
    weights_of,
    with_counted,
    with_position_weights,
    with_row_weights,
    with_step_mask,
)
from ._trace import keeps_its_shape, trace_graph, trace_layers
