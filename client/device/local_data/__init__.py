"""The data of one device, in its own files, and the digests by which its samples are known; `fedquit join`."""
