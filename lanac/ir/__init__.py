"""The intermediate representation: specs, programs, slots, ops, plans. Imports nothing of lanac
but its errors."""

from lanac.ir.aten import export_program
from lanac.ir.graphs import (
    function_name,
    is_in_place,
    read_attribute,
    run_node,
    set_items_,
)
from lanac.ir.meta import MetaMode, run_on_meta
from lanac.ir.opspec import IDENTITY, TEACHER, OpSpec, OptionValue, Plan, parse_op
from lanac.ir.outputs import flatten_tensors, named_tensors
from lanac.ir.program import LeftOut, Program, Slot
from lanac.ir.shapes import record_specs
from lanac.ir.signature import signature
from lanac.ir.spec import TensorSpec
from lanac.ir.verify import node_parameters, shared_weights, verify_program

__all__ = [
    "IDENTITY",
    "TEACHER",
    "LeftOut",
    "MetaMode",
    "OpSpec",
    "OptionValue",
    "Plan",
    "Program",
    "Slot",
    "TensorSpec",
    "export_program",
    "flatten_tensors",
    "function_name",
    "is_in_place",
    "named_tensors",
    "node_parameters",
    "parse_op",
    "read_attribute",
    "record_specs",
    "run_node",
    "run_on_meta",
    "set_items_",
    "shared_weights",
    "signature",
    "verify_program",
]
