import re

import numpy as np
import pyarrow as pa
import pytest

from warpline import schema
from warpline.errors import SchemaError
from warpline.schema import Table
from warpline.schema.declare import UNITS, Type

EACH_TABLE = pytest.mark.parametrize("table", schema.TABLES, ids=lambda table: table.name)

SAMPLE = {
    Type.INT: 23,
    Type.FLOAT: 0.5,
    Type.BOOL: True,
    Type.TEXT: "x",
    Type.NAME: "y",
    Type.TRACE_ID: bytes(range(16)),
    Type.SPAN_ID: 2**63 + 1,
    Type.COUNTS: [1, 2, 3],
    Type.JSON: "{}",
    Type.JSON_NAME: "{}",
}


@EACH_TABLE
def test_names_are_lower_case_words_and_unique(table: Table) -> None:
    names = [column.name for column in table.columns]
    assert len(set(names)) == len(names)
    assert all(re.fullmatch(r"[a-z][a-z0-9_]*", name) for name in [table.name, *names])


@EACH_TABLE
def test_every_column_says_what_it_means_in_a_sentence(table: Table) -> None:
    assert all(column.doc and column.doc.endswith((".", ")", "…")) for column in table.columns)


@EACH_TABLE
def test_units_stand_at_the_end_of_number_columns_only(table: Table) -> None:
    with_unit = [column for column in table.columns if column.name.endswith(tuple(UNITS))]
    assert all(column.type in (Type.INT, Type.FLOAT) for column in with_unit)


@EACH_TABLE
def test_a_table_says_when_its_rows_happened(table: Table) -> None:
    assert table.by_name[table.time].required


@EACH_TABLE
def test_keys_are_columns(table: Table) -> None:
    assert set(table.keys) <= set(table.by_name)


@EACH_TABLE
def test_a_row_of_every_column_becomes_a_batch_of_the_declared_schema(table: Table) -> None:
    batch = table.batch({c.name: [SAMPLE[c.type]] * 3 for c in table.columns})
    assert batch.schema == table.arrow
    assert batch.num_rows == 3


@EACH_TABLE
def test_required_columns_alone_make_a_row_and_the_others_are_null(table: Table) -> None:
    batch = table.batch({c.name: SAMPLE[c.type] for c in table.columns if c.required}, rows=2)
    assert batch.num_rows == 2
    assert all(batch.column(c.name).null_count == (0 if c.required else 2) for c in table.columns)


def test_a_missing_or_unknown_column_is_refused_by_name() -> None:
    kernel = schema.table("gpu_kernel")
    with pytest.raises(SchemaError, match=r"missing columns.*start_ns"):
        kernel.batch({"node": "n", "kind": "kernel"})
    with pytest.raises(SchemaError, match=r"unknown columns.*duration"):
        kernel.batch({"start_ns": [1], "node": "n", "kind": "kernel", "duration": [1]})


def test_arrays_of_unequal_length_are_refused() -> None:
    with pytest.raises(SchemaError, match="gpu_kernel"):
        schema.table("gpu_kernel").batch(
            {"start_ns": np.arange(3), "end_ns": np.arange(2), "node": "n", "kind": "kernel"}
        )


def test_a_value_that_does_not_fit_is_refused_with_the_column() -> None:
    with pytest.raises(SchemaError, match="column start_ns"):
        schema.table("gpu_kernel").batch({"start_ns": ["soon"], "node": "n", "kind": "kernel"})


def test_a_name_given_as_plain_text_is_dictionary_encoded() -> None:
    batch = schema.table("gpu_kernel").batch(
        {"start_ns": np.arange(4), "node": "n", "kind": "kernel", "name": pa.array(["a", "b", "a", "a"])}
    )
    assert batch.column("name").dictionary.to_pylist() == ["a", "b"]


def test_an_unknown_table_is_refused_with_those_there_are() -> None:
    with pytest.raises(SchemaError, match="gpu_kernel"):
        schema.table("kernel")


@EACH_TABLE
def test_batches_with_and_without_a_column_can_be_merged(table: Table) -> None:
    full = table.batch({c.name: [SAMPLE[c.type]] * 2 for c in table.columns})
    bare = table.batch({c.name: SAMPLE[c.type] for c in table.columns if c.required}, rows=2)
    merged = pa.Table.from_batches([bare, full, bare]).unify_dictionaries().combine_chunks()
    assert merged.num_rows == 6


def test_a_null_inside_of_a_dictionary_becomes_a_plain_null() -> None:
    odd = pa.DictionaryArray.from_arrays(pa.array([0, 1, 0], pa.int32()), pa.array([None, "a"]))
    batch = schema.table("gpu_kernel").batch({"start_ns": np.arange(3), "node": "n", "kind": "kernel", "name": odd})
    assert batch.column("name").to_pylist() == [None, "a", None]
    assert batch.column("name").dictionary.null_count == 0
