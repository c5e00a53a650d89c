"""DLRover's training master: one report a call, one call at a time.

`encode` has the bytes, `report` what may become one, `classify` what an answer means (all pure),
`age` how old a report is. `grpc_transport` and `http_transport` carry bytes, `session` is the
state of the exchange with one master, and `custom_client` the same for a client that the operator
provides. None of it imports DLRover, and nothing that a master sends is ever unpickled.
"""
