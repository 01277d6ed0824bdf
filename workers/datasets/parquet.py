"""Parquet: a column is a field, a row a sample. Read in order, some rows at a time (https://parquet.apache.org/docs/)."""

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np

from app.errors import InvalidDataset
from app.text import plain
from workers.datasets.pixels import decoded
from workers.datasets.transforming import Value

_AT_ONCE = 64  # rows
_MOST_COLUMNS = 1000
_MOST_NUMBERS = 64 * 1024 * 1024  # of one sample's list
_TAKEN = "numbers, booleans, text, lists of numbers, and images as bytes"


class ParquetRecords:
    """See `records.Records`."""

    numbered = False

    def __init__(self, path: Path):
        """Raises InvalidDataset where it is no Parquet file, or a damaged one."""
        from pyarrow import parquet

        self._path = path
        with _damage_named():
            self._schema = parquet.read_schema(path)
            self._metadata = parquet.read_metadata(path)
        self.count = int(self._metadata.num_rows)
        self.sources = list(self._schema.names)
        if len(self.sources) > _MOST_COLUMNS:
            raise InvalidDataset(f"the file has {len(self.sources)} columns; {_MOST_COLUMNS} are taken")
        if len(set(self.sources)) != len(self.sources):
            raise InvalidDataset("the file has columns of the same name")
        if self.count < 1:
            raise InvalidDataset("the dataset holds no sample")

    @property
    def usual(self) -> dict[str, str]:
        """The fields where the uploader named none: every column that can be read."""
        return {name: name for name in self.sources if _reader(self._schema.field(name).type) is not None}

    @property
    def unpacked_bytes(self) -> int:
        """What all of it needs once it is decompressed: as it says, and 8 bytes for each value, which repeated ones take no room
        for in the file."""
        groups = (self._metadata.row_group(number) for number in range(self._metadata.num_row_groups))
        return max(sum(int(group.total_byte_size) for group in groups), 8 * self.count * len(self.sources))

    def read(self, index: int, sources: Sequence[str]) -> dict[str, Value]:
        """One row, by reading all before it: for the first ones."""
        for number, found in enumerate(self.iterate(sources)):
            if number == index:
                return found
        raise IndexError(index)

    def iterate(self, sources: Sequence[str]) -> Iterator[dict[str, Value]]:
        """All rows in order.

        Raises:
            ValueError: a value cannot be read.
            InvalidDataset: the file is damaged.
        """
        from pyarrow import parquet

        readers = {name: self._reader(name) for name in sources}
        with _damage_named(), parquet.ParquetFile(self._path, pre_buffer=False, buffer_size=1 << 20) as file:
            for batch in file.iter_batches(_AT_ONCE, columns=list(sources), use_threads=False):
                columns = {name: batch.column(name) for name in sources}
                for row in range(batch.num_rows):
                    yield {name: _value(name, readers[name], columns[name][row]) for name in sources}

    def where(self, index: int) -> str:
        """A sample in words."""
        return f"sample {index}"

    def _reader(self, name: str) -> Callable[[Any], Value]:
        kind = self._schema.field(name).type
        found = _reader(kind)
        if found is None:
            raise InvalidDataset(
                f"column {plain(name, 100)!r} holds {plain(str(kind), 200)}",
                param=name[:255],
                hint=f"these can be read: {_TAKEN}",
            )
        return found


def _value(name: str, reader: Callable[[Any], Value], scalar: Any) -> Value:
    if not scalar.is_valid:
        raise ValueError(f"its column {name!r} is null")
    try:
        return reader(scalar)
    except (ValueError, TypeError, OverflowError) as error:
        raise ValueError(f"its column {name!r}: {str(error)[:300]}") from error


def _reader(kind: Any) -> Callable[[Any], Value] | None:
    from pyarrow import types

    if types.is_integer(kind) or types.is_floating(kind) or types.is_boolean(kind):
        dtype = np.dtype(kind.to_pandas_dtype())
        return lambda scalar: Value(np.array(scalar.as_py(), dtype))
    if types.is_string(kind) or types.is_large_string(kind):
        return lambda scalar: Value(np.array(scalar.as_py()))
    if types.is_binary(kind) or types.is_large_binary(kind):
        return lambda scalar: Value(decoded(scalar.as_py()), channels_last=True)
    if types.is_struct(kind) and kind.get_field_index("bytes") >= 0:
        return _image_of_struct
    inner, deep = kind, 0
    while types.is_list(inner) or types.is_large_list(inner) or types.is_fixed_size_list(inner):
        inner, deep = inner.value_type, deep + 1
    if deep and (types.is_integer(inner) or types.is_floating(inner) or types.is_boolean(inner)):
        dtype = np.dtype(inner.to_pandas_dtype())
        return lambda scalar: Value(_numbers(scalar, dtype, deep))
    return None


def _image_of_struct(scalar: Any) -> Value:
    data = scalar["bytes"].as_py()
    if not isinstance(data, bytes):
        raise ValueError("it holds no bytes of an image")
    return Value(decoded(data), channels_last=True)


def _numbers(scalar: Any, dtype: np.dtype, deep: int) -> np.ndarray:
    values = scalar.values
    if deep == 1:
        if len(values) > _MOST_NUMBERS:
            raise ValueError(f"it has {len(values)} numbers; {_MOST_NUMBERS} are taken")
        if values.null_count:
            raise ValueError("it holds a null")
        return np.asarray(values.to_numpy(zero_copy_only=False), dtype).copy()
    found = np.array(scalar.as_py(), dtype)
    if found.ndim != deep:
        raise ValueError("its lists differ in length")
    return found


@contextmanager
def _damage_named() -> Iterator[None]:
    from pyarrow.lib import ArrowException

    try:
        yield
    except (ArrowException, EOFError) as error:
        raise _damaged(error) from error
    except OSError as error:
        if error.errno is not None:
            raise
        raise _damaged(error) from error


def _damaged(error: Exception) -> InvalidDataset:
    return InvalidDataset(
        f"the Parquet file cannot be read: {plain(str(error), 300)}",
        hint="write it again, and compare checksums",
    )
