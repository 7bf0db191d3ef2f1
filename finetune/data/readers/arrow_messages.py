"""How large the compressed parts of an Arrow file become, before Arrow unpacks them: 3 GB fit into 30 kB.

max(map(unpacked_bytes, pyarrow.ipc.MessageReader.open_stream(source)))

A message is a FlatBuffers table (https://flatbuffers.dev/internals), whose fields are numbered as in
https://github.com/apache/arrow/blob/main/format/Message.fbs, and a body; each compressed buffer in it begins with its own size.
"""

from __future__ import annotations

import struct
from typing import Any

HEADER, BUFFERS, COMPRESSION = 2, 2, 3  # of a message; of a record batch
DATA = 1  # of a dictionary: the record batch inside


def unpacked_bytes(message: Any) -> int:
    """Bytes that the buffers of one message become; 0 if it is not compressed. Raises struct.error for damage."""
    if message.type not in ("record batch", "dictionary"):
        return 0
    told, body = message.metadata.to_pybytes(), memoryview(message.body)
    batch = _table(told, _field(told, _number(told, 0), HEADER))
    if message.type == "dictionary":
        batch = _table(told, _field(told, batch, DATA))
    place = _field(told, batch, BUFFERS)
    if not place or not _field(told, batch, COMPRESSION):
        return 0
    listed = _table(told, place)
    ends = list(struct.iter_unpack("<qq", told[listed + 4 : listed + 4 + 16 * _number(told, listed)]))
    sizes = [struct.unpack_from("<q", body, start)[0] for start, length in ends if length >= 8 and 0 <= start <= len(body) - 8]
    return sum(max(0, each) for each in sizes)  # -1 is for what was left as it is


def _number(told: bytes, place: int) -> int:
    return int(struct.unpack_from("<I", told, place)[0])


def _table(told: bytes, place: int) -> int:
    """Where the table or list begins that a field refers to."""
    return place + _number(told, place)


def _field(told: bytes, table: int, number: int) -> int:
    """Where a field of a table is; 0 if the table leaves it out."""
    known = table - struct.unpack_from("<i", told, table)[0]
    (length,) = struct.unpack_from("<H", told, known)
    at = 4 + 2 * number
    offset = struct.unpack_from("<H", told, known + at)[0] if at < length else 0
    return table + offset if offset else 0
