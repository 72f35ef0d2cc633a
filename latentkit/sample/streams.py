"""Streams of noise: what one goes by, and its key. Step 1 of guide/noise.md."""

import hashlib
import unicodedata


def stream_name(name: str, key: str) -> str:
    """The stream of a tensor: its input's relative name (in Unicode's form C, with ``/``), a NUL, and its key."""
    return f"{unicodedata.normalize('NFC', name)}\0{key}"


def stream_key(seed: int, stream: str) -> tuple[int, int]:
    """Philox's key: the first 16 bytes of SHA-256 over ``SEED NUL STREAM``, as two little-endian 64-bit words.

    The seed is in decimal, the text UTF-8 (a file name's undecodable bytes as they are). Raises ``ValueError``
    unless 0 ≤ seed < 2**64.
    """
    if not 0 <= seed < 2**64:
        raise ValueError(f"a seed is a whole number from 0 to 2**64 - 1, got {seed}")
    digest = hashlib.sha256(f"{seed}\0{stream}".encode(errors="surrogateescape")).digest()
    return int.from_bytes(digest[:8], "little"), int.from_bytes(digest[8:16], "little")
