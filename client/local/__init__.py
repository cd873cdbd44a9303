"""The data of one device, in its own files, and the digests by which its samples are known."""

from fedquit.client.local.data import Gathered, count, find, gather, open_data
from fedquit.client.local.digest import sample_digest, set_digest

__all__ = ["Gathered", "count", "find", "gather", "open_data", "sample_digest", "set_digest"]
