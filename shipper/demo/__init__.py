"""`lens-ship demo`: a real training job, every process killed once, and a count at the end.

`run` sets up and cleans up, `scenario` says what happens when, `processes` starts and kills,
`count` (pure) compares what was logged with what arrived, `report` reads both and judges,
`terminal` prints.
"""
