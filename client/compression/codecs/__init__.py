"""How models travel in fewer bytes: one file for each codec, and chains of them. Pure NumPy and PyTorch."""

from fedquit.client.compression.codecs.chain import CODECS, Chain, Compressed, chain_of, settings_of_codec
from fedquit.client.compression.codecs.codec import Codec, Slot, Traits, slot_of
from fedquit.client.compression.codecs.fp16 import FP16
from fedquit.client.compression.codecs.int8 import Int8
from fedquit.client.compression.codecs.npy_reader import read_npy
from fedquit.client.compression.codecs.svd import SVD
from fedquit.client.compression.codecs.top_k import TopK
from fedquit.client.compression.codecs.zstd import Zstd

__all__ = [
    "CODECS",
    "FP16",
    "SVD",
    "Chain",
    "Codec",
    "Compressed",
    "Int8",
    "Slot",
    "TopK",
    "Traits",
    "Zstd",
    "chain_of",
    "read_npy",
    "settings_of_codec",
    "slot_of",
]
