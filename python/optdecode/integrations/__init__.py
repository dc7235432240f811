"""Adapters: the decoders of this library in the engines that people run, one module an engine.

Each translates an engine's calling convention and owns no mathematics. None is imported by ``import optdecode``, and
each imports its engine alone.
"""
