"""Talking to a training master of DLRover's kind: one report a call, one call at a time.

`wire` has the bytes, `report` what may become one, `outcome` what an answer means, `target` whom to
talk to (all pure); `channel` and `post` carry bytes over gRPC and HTTP; `conversation` is the state
of the talk with one master, `pluggable` the same for a client that the operator brings along. None
of it imports DLRover, and nothing that a master sends is ever unpickled.
"""
