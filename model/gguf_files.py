"""GGUF files: the header is read in a blink, and a file is written whole or not at all.

The `gguf` package takes half a minute to read a vocabulary of 262,144 tokens; adapters and exports
need only a few scalars and the tensors, and copy the rest as it stands. Layout (version 3, little-
endian): "GGUF", u32 version, u64 tensors, u64 entries; an entry is a key, a u32 type and a value; a
tensor is a name, u32 dimensions, u64 each (innermost first), u32 type, u64 offset into the data,
which start at the next multiple of `general.alignment` (32). Source: docs/gguf.md of ggml.

Knows nothing of models or adapters.
"""

import itertools
import mmap
import os
import struct
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from ingest.errors import WeightsError

Scalar = str | int | float | bool

_SCALARS = {
    0: "B",
    1: "b",
    2: "H",
    3: "h",
    4: "I",
    5: "i",
    6: "f",
    7: "?",
    10: "Q",
    11: "q",
    12: "d",
}
_STRING, _ARRAY, _FLOAT, _UINT = 8, 9, 6, 4
ALIGNMENT = 32


@dataclass(frozen=True, slots=True)
class GgufTensor:
    """A tensor of a file: where its bytes lie, and what they are."""

    name: str
    shape: tuple[int, ...]  # outermost first, as numpy and torch have it: (out, in)
    kind: int  # the number of ggml's type: 0 float32, 1 float16, 8 Q8_0 ...
    start: int  # bytes from the start of the file
    end: int  # bytes; up to the next tensor, so padding is within


@dataclass(frozen=True, slots=True)
class GgufHeader:
    """What stands before the data of a GGUF file."""

    scalars: Mapping[str, Scalar]  # the metadata without its arrays
    metadata: bytes  # all entries as they stand in the file
    entries: int
    tensors: tuple[GgufTensor, ...]


class _Reader:
    """Reads one value after another."""

    def __init__(self, data: mmap.mmap) -> None:
        self.data, self.at = data, 0

    def number(self, code: str) -> int:
        (value,) = struct.unpack_from(f"<{code}", self.data, self.at)
        self.at += struct.calcsize(f"<{code}")
        return value  # type: ignore[no-any-return]

    def text(self) -> str:
        size = self.number("Q")
        self.at += size
        if self.at > len(self.data):
            raise ValueError("a text goes beyond the file")
        return self.data[self.at - size : self.at].decode("utf-8", "replace")

    def value(self, kind: int) -> Scalar | None:
        """Return the next value; an array is skipped."""
        if kind == _STRING:
            return self.text()
        if kind != _ARRAY:
            return self.number(_SCALARS[kind])
        inner, count = self.number("I"), self.number("Q")
        if inner == _STRING:
            for _ in range(count):
                self.text()
        else:  # an array of arrays, which ggml does not read either, has no size
            self.at += count * struct.calcsize(f"<{_SCALARS[inner]}")
        if self.at > len(self.data):
            raise ValueError("an array goes beyond the file")
        return None


def read_header(path: Path) -> GgufHeader:
    """Return the header of a GGUF file.

    Raises:
        WeightsError: The file is missing, damaged, or no GGUF file of version 2 or 3.
    """
    try:
        with path.open("rb") as file, mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ) as data:
            return _parse(_Reader(data))
    except (OSError, ValueError, KeyError, OverflowError, struct.error) as error:
        raise WeightsError(
            f"{path} cannot be read as a GGUF file ({error}); name a sound one, or make it anew"
        ) from error


def _parse(reader: _Reader) -> GgufHeader:
    """Return the header; any nonsense raises one of the errors that `read_header` names."""
    if reader.data[:4] != b"GGUF":
        raise ValueError("it does not start with GGUF")
    reader.at = 4
    version, tensor_count, entries = (reader.number(code) for code in "IQQ")
    if version not in (2, 3):
        raise ValueError(f"version {version}")
    first = reader.at
    scalars: dict[str, Scalar] = {}
    for _ in range(entries):
        key, kind = reader.text(), reader.number("I")
        value = reader.value(kind)
        if value is not None:
            scalars[key] = value
    metadata = reader.data[first : reader.at]
    infos = [_tensor_info(reader) for _ in range(tensor_count)]
    alignment = int(scalars.get("general.alignment", ALIGNMENT))
    if alignment <= 0:
        raise ValueError(f"its alignment is {alignment}")
    start = _aligned(reader.at, alignment)
    if any(start + offset >= len(reader.data) for *_, offset in infos):
        raise ValueError("its data are cut off")
    edges = sorted({offset for *_, offset in infos} | {len(reader.data) - start})
    following = dict(itertools.pairwise(edges))
    tensors = tuple(
        GgufTensor(name, shape, kind, start + offset, start + following[offset])
        for name, shape, kind, offset in infos
    )
    return GgufHeader(scalars, metadata, entries, tensors)


def _tensor_info(reader: _Reader) -> tuple[str, tuple[int, ...], int, int]:
    """Return name, shape, type and offset of the next tensor."""
    name, dimensions = reader.text(), reader.number("I")
    if dimensions > 4:  # ggml knows no more
        raise ValueError(f"{name} has {dimensions} dimensions")
    shape = tuple(reader.number("Q") for _ in range(dimensions))
    return name, shape[::-1], reader.number("I"), reader.number("Q")


def _aligned(position: int, alignment: int) -> int:
    """Return the next multiple of the alignment."""
    return -(-position // alignment) * alignment


def metadata_entry(key: str, value: str | float) -> bytes:
    """Return one entry of the metadata: a text, a whole number (u32) or a float32."""
    head = _text(key)
    if isinstance(value, str):
        return head + struct.pack("<I", _STRING) + _text(value)
    if isinstance(value, int):
        return head + struct.pack("<II", _UINT, value)
    return head + struct.pack("<If", _FLOAT, value)


def _text(text: str) -> bytes:
    encoded = text.encode()
    return struct.pack("<Q", len(encoded)) + encoded


def write_gguf(
    path: Path,
    metadata: Sequence[bytes],
    entries: int,
    tensors: Iterable[tuple[str, Sequence[int], int, bytes | memoryview]],
    alignment: int = ALIGNMENT,
) -> None:
    """Write a GGUF file beside its place and rename it, so that no half of one is ever read.

    Args:
        path: The file; its folder exists.
        metadata: The entries, one or more in each piece.
        entries: How many entries the pieces hold together.
        tensors: Name, shape (outermost first), type and bytes of each.
        alignment: Bytes to which data are aligned; as `general.alignment` of the metadata says.
    """
    listed = [
        (name, shape, kind, memoryview(data).cast("B")) for name, shape, kind, data in tensors
    ]
    head = [b"GGUF", struct.pack("<IQQ", 3, len(listed), entries), *metadata]
    offset = 0
    for name, shape, kind, data in listed:
        dimensions = struct.pack(f"<I{len(shape)}Q", len(shape), *reversed(shape))
        head += [_text(name), dimensions, struct.pack("<IQ", kind, offset)]
        offset = _aligned(offset + len(data), alignment)
    partial = path.with_name(f".{path.name}.{os.getpid()}")
    try:
        with partial.open("wb") as file:
            parts: list[bytes | memoryview] = [b"".join(head), *(data for *_, data in listed)]
            for part in parts:
                file.write(part)
                file.write(bytes(_aligned(len(part), alignment) - len(part)))
            file.flush()
            os.fsync(file.fileno())
        os.replace(partial, path)
    finally:
        partial.unlink(missing_ok=True)
