"""Loads BPF programs and reads them: offsets from BTF, BCC in a short child, maps, rings, uprobes, watched processes."""
